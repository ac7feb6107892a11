"""The training loop: what it counts, when it records and saves, and what stops it."""

import math

import pytest
from helpers import make_trainer
from strangers import SMALL


@pytest.mark.parametrize("num_seeds", [1, 3])
def test_a_parameter_that_diverges_in_the_last_minibatch_is_seen(tmp_path, num_seeds):
    from rlexp.errors import DivergedError

    trainer = make_trainer(tmp_path, *SMALL, f"num_seeds={num_seeds}", "log_every=1")
    update = trainer.learner.update

    def diverge(*args, **last):
        metrics = update(*args, **last)
        if trainer.update_number == 2:
            trainer.learner.groups[0].params["critic_head.bias"].data.view(-1)[-1] = math.inf
        return metrics

    trainer.learner.update = diverge
    with pytest.raises(DivergedError, match=rf"update 3: a parameter of seed {num_seeds - 1} is inf"):
        trainer.run(False)
    assert "a parameter" not in (tmp_path / "metrics.csv").read_text()
