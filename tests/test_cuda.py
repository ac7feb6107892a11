"""On a GPU: it learns, CUDA graphs compute what eager execution does, and a resumed run is the uninterrupted one."""

from pathlib import Path

import pytest
import torch
from helpers import last_metrics, make_trainer, stop_after, train, weights_of
from torch.testing import assert_close
from torch.utils._pytree import tree_flatten

from rlexp.signals import Interrupted

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")

SMALL = ("device=cuda", "total_steps=2048", "env.num_envs=4", "algo.rollout_steps=64", "algo.epochs=2")
CASES = {
    "alone": ("algo=ppo", "env=cartpole"),
    "stacked": ("algo=apo", "env=pendulum", "num_seeds=3", "env.normalize_obs=true", "optimizer.lr=[1e-3,0]"),
    "host": ("algo=apo", "env=cartpole", "env.backend=gymnasium", "num_seeds=2"),
}


@pytest.mark.parametrize("case", CASES)
def test_recorded_is_eager_and_resumes_exactly(tmp_path, case):
    settings = (*SMALL, *CASES[case])
    eager = train(tmp_path / "eager", *settings)
    whole = train(tmp_path / "whole", *settings, "compile=true")
    assert all(all(graphs.made.values()) for graphs in whole.learner.graphs)
    for name, tensor in weights_of(eager).items():
        assert_close(weights_of(whole)[name], tensor, atol=1e-3, rtol=1e-2, msg=name)

    first = make_trainer(tmp_path / "parts", *settings, "compile=true")
    stop_after(first, 3)
    with pytest.raises(Interrupted):
        first.train(False)
    second = train(tmp_path / "parts", *settings, "compile=true", resume=True)
    assert all(torch.equal(weights_of(second)[name], tensor) for name, tensor in weights_of(whole).items())


@pytest.mark.parametrize("compiled", ["true", "false"])
@pytest.mark.parametrize("case", CASES)
def test_evaluation_during_training_changes_nothing(tmp_path, case, compiled):
    settings = (*SMALL, *CASES[case], f"compile={compiled}")
    plain = train(tmp_path / "plain", *settings)
    curve = train(tmp_path / "curve", *settings, "evaluation.every=512", "evaluation.curve_episodes=2")
    assert all(torch.equal(weights_of(curve)[name], tensor) for name, tensor in weights_of(plain).items())
    assert {"evaluation_return", "evaluation_return_sampled"} <= last_metrics(tmp_path / "curve").keys()


@pytest.mark.parametrize("compiled", ["true", "false"])
def test_cartpole_is_learnt(tmp_path, compiled):
    train(tmp_path, "env=cartpole", "tuned=ppo_cartpole", "device=cuda", "total_steps=40_000", f"compile={compiled}")
    assert last_metrics(tmp_path)["episodic_return"] > 200


def test_an_extended_run_is_the_uninterrupted_one_and_others_begin_from_it(cli):
    words = ("device=cuda", "compile=true", "algo=apo", "env=cartpole", "tuned=none", "num_seeds=2", "progress=none")
    words += ("env.num_envs=4", "algo.rollout_steps=64", "evaluation.episodes=2")
    for study, steps, resume in (("whole", 2048, "auto"), ("s", 1024, "auto"), ("s", 2048, "extend")):
        result = cli(*words, f"study={study}", f"total_steps={steps}", f"resume={resume}")
        assert result.code == 0, result.err
    (whole,) = Path("outputs", "whole").iterdir()
    (extended,) = Path("outputs", "s").glob("*total_steps=2048*")
    learners = [torch.load(run / "checkpoint.pt", weights_only=True)["learner"] for run in (whole, extended)]
    ours, theirs = (tree_flatten(learner)[0] for learner in learners)
    assert all(torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y for x, y in zip(ours, theirs, strict=True))
    child = cli(
        *words,
        "study=child",
        "total_steps=1024",
        f"init_from=outputs/whole/{whole.name[-8:]}",
        "init_with=[optimizer,memory]",
    )
    assert child.code == 0, child.err
