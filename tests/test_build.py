"""What is built of a config."""

import torch
from helpers import make_config, make_trainer
from strangers import algo

from rlexp import parts


def test_numbers_keep_the_type_that_nobody_asked_to_change(tmp_path):
    cfg = make_config(algo("Untyped"), "+algo.anything=2.0", "+algo.extra=1", "algo.rollout_steps=32.0")
    made = parts.build_algorithm(cfg)
    assert (type(made.anything), type(made.rollout_steps), made.extra(0.0)) == (float, int, 1.0)
    assert type(parts.build_environment(make_config("+env.kwargs.start=2.0")).kwargs["start"]) is float
    kl = make_trainer(tmp_path, "algo=ppo_kl", "algo.kl_coef=1")
    assert kl.algo.beta.dtype == torch.float32
    assert isinstance(kl.algo.kl_coef, float)
