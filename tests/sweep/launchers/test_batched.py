"""Jobs trained side by side: each is what it would have been alone, is saved by itself, and survives its neighbours."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from helpers import make_jobs, record, status, stop_after, train, trainer_of, weights_of
from torch.testing import assert_close

from rlexp import parts
from rlexp.algos.base import Algorithm
from rlexp.algos.ppo import PPO
from rlexp.algos.schedules import Scheduled
from rlexp.compare.audit import code_remarks
from rlexp.errors import ConfigError, DivergedError
from rlexp.signals import Interrupted
from rlexp.study.runs import find_runs

SMALL = ("total_steps=768", "env.num_envs=4", "algo.rollout_steps=32", "algo.epochs=2", "algo.minibatches=2")
OWN = (  # what agents may have of their own
    ("optimizer.lr=1e-3", "algo.clip_coef=0.1", "gae.gamma=0.9", "num_seeds=2"),
    ("optimizer.lr=[3e-3,0]", "algo.clip_coef=[0.3,0.1]", "gae.lam=0.7", "algo.ent_coef=0.02", "seed=1"),
    ("optimizer.lr=0", "algo.vf_coef=1", "seed=7"),
)
CASES = {
    "ppo": ("algo=ppo", "env=cartpole"),
    "memory": ("algo=apo", "env=cartpole", "env.backend=gymnasium", "algo.top_k=2", "algo.max_steps=20"),
    "normalised": ("algo=ppo", "env=pendulum", "env.normalize_obs=true", "env.normalize_reward=true"),
    "sync": ("algo=ppo_kl", "env=cartpole", "env.vectorization=sync"),
    "loop": ("algo=apo", "env=cartpole", "batching=loop"),
    "populations": ("algo=apo", "algo.anchor_share=true", "population=2", "env=cartpole", "algo.anchor_half_life=100"),
    "another optimizer": (
        "~optimizer.eps",
        "~optimizer.fused",
        "optimizer._target_=torch.optim.SGD",
        "++optimizer.momentum=0.9",
    ),
}


def agents(jobs):
    """The agents of each job among all."""
    ends = torch.tensor([len(job.seeds) for job in jobs]).cumsum(0).tolist()
    return [slice(end - len(job.seeds), end) for job, end in zip(jobs, ends, strict=True)]


def assert_same(ours, theirs, part=slice(None)):
    for name, tensor in weights_of(theirs).items():
        assert_close(weights_of(ours)[name][part], tensor, atol=2e-4, rtol=2e-3, msg=name)


@pytest.mark.few(2)
@pytest.mark.parametrize("case", CASES)
def test_a_job_among_others_is_that_job_alone(tmp_path, case):
    batch = make_jobs(tmp_path / "batch", *SMALL, *CASES[case], own=OWN)
    together = trainer_of(batch)
    together.train(False)
    assert together.learner.groups[0].size == (1 if case == "loop" else len(together.seeds))
    alone = make_jobs(tmp_path / "alone", *SMALL, *CASES[case], own=OWN)
    for job, part in zip(alone, agents(alone), strict=True):
        trainer = trainer_of([job])
        trainer.train(False)
        assert_same(together, trainer, part)
        assert together.steps[part].tolist() == trainer.steps.tolist()
    assert all(status(job.folder) == "done" for job in (*batch, *alone))
    assert [record(job.folder)["agents_together"] for job in batch] == [len(together.seeds)] * len(batch)


@pytest.mark.few(1)
@pytest.mark.parametrize("case", ["memory", "normalised", pytest.param("sync", marks=pytest.mark.slow)])
def test_what_was_stopped_in_a_batch_goes_on_alone_and_the_other_way_round(tmp_path, case):
    settings = (*SMALL, *CASES[case])
    whole = train(tmp_path / "whole", *settings, own=OWN)

    jobs = make_jobs(tmp_path / "parted", *settings, own=OWN)
    first = trainer_of(jobs)
    stop_after(first, 3)
    with pytest.raises(Interrupted):
        first.train(False)
    for job, part in zip(jobs, agents(jobs), strict=True):
        trainer = trainer_of([job])
        trainer.train(True)
        assert_same(whole, trainer, part)

    jobs = make_jobs(tmp_path / "joined", *settings, own=OWN)
    for job in jobs:
        trainer = trainer_of([job])
        stop_after(trainer, 3)
        with pytest.raises(Interrupted):
            trainer.train(False)
    joined = trainer_of(jobs)
    joined.train(True)
    assert joined.copyable
    assert_same(whole, joined)


def test_a_job_that_diverges_leaves_its_neighbours_saved(tmp_path):
    bad = "optimizer.lr=1e30"
    jobs = make_jobs(tmp_path, *SMALL, own=(("optimizer.lr=1e-3",), (bad, "seed=3"), (bad, "seed=7")))
    trainer = trainer_of(jobs)
    with pytest.raises(
        DivergedError, match=r"of seed 3 is nan; there is no checkpoint yet.*debug=true.*1 more"
    ) as caught:
        trainer.train(False)
    assert list(caught.value.runs) == [job.folder for job in jobs[1:]]
    assert "of seed 7 is nan" in str(caught.value.for_run(jobs[2].folder))
    state = torch.load(jobs[0].folder / "checkpoint.pt", weights_only=True)
    assert state["trainer"]["update_number"] == trainer.update_number
    assert all(tensor.isfinite().all() for tensor in state["learner"]["tensors"].values())
    assert not (jobs[1].folder / "checkpoint.pt").exists()


def test_a_sweep_says_which_jobs_share_a_batch_and_goes_on_without_those_that_diverge(cli):

    words = (
        "-m",
        "hydra/launcher=batched",
        "study=s",
        "tuned=none",
        "progress=none",
        "evaluation.episodes=0",
        "compile=false",
    )
    result = cli(*words, *SMALL, "optimizer.lr=1e-3,1e30", "seed=0,1", "gae.bootstrap_truncation=true,false")
    assert result.code == 1
    assert "4 jobs (4 agents) side by side: optimizer.lr, seed differ" in result.out
    assert "2 batches: gae.bootstrap_truncation must be the same within one" in result.out
    jobs = [job for job in Path("outputs/s").iterdir() if job.is_dir()]
    states = sorted((record(job)["config"]["optimizer"]["lr"] > 1, status(job)) for job in jobs)
    assert states == [(False, "done")] * 4 + [(True, "failed")] * 4
    for job in jobs:
        if status(job) == "failed":
            assert f"of seed {record(job)['seeds'][0]} is" in record(job)["error"]
        told = {line for line in (job / "train.log").read_text().splitlines() if "outputs/s/" in line}
        assert told
        assert all(job.name in line for line in told)


def test_jobs_that_have_come_to_different_steps_are_apart(cli):
    words = ("-m", "hydra/launcher=batched", "study=s", "tuned=none", "progress=none", "evaluation.episodes=0")
    words += ("compile=false", *SMALL)
    assert cli(*words, "seed=0,1", "stop_at=128").code == 0
    result = cli(*words, "seed=0,1,2,3")
    assert result.code == 0, result.err
    assert "4 jobs: 2 to resume, 2 to run" in result.out
    assert "2 batches: the update reached must be the same within one" in result.out


def test_jobs_that_may_be_changed_by_hand_share_no_batch_and_compare_says_which_were(cli):
    words = ("-m", "hydra/launcher=batched", "study=s", "tuned=none", "progress=none", "compile=false", *SMALL)
    result = cli(*words, "seed=0,1", "live=true")
    assert result.code == 0, result.err
    assert result.out.count("alone: ") == 2
    assert "2 batches: live must be the same within one" in result.out
    one, _ = sorted(job for job in Path("outputs/s").iterdir() if job.is_dir())
    assert "live=true" in one.name.lower()
    (one / "run.json").write_text(json.dumps(record(one) | {"live": {"changes": 3, "ranges": {}}}))
    said = f"1 of 2 runs were changed by hand while they went (live.csv): {one.name}"
    assert said in code_remarks(find_runs(["outputs/s"]))


def test_what_kills_a_batch_is_tried_alone(cli):
    words = ("-m", "hydra/launcher=batched", "study=s", "tuned=none", "progress=none", "evaluation.episodes=0")
    words += ("compile=false", *SMALL, "seed=0,1,2")
    assert cli(*words, "stop_at=128").code == 0
    _, *others = [job for job in Path("outputs/s").iterdir() if job.is_dir()]
    for job in others:  # as if killed for the second time since the checkpoint
        (job / "run.json").write_text(json.dumps(record(job) | {"status": "running", "deaths": 1}))
    result = cli(*words)
    assert result.code == 0, result.err
    assert result.out.count("alone: ") == 3
    assert "3 batches: the number of process deaths must be the same within one" in result.out


@pytest.mark.slow
def test_optimizers_whose_steps_are_not_in_proportion_to_the_learning_rate_have_one_for_all(tmp_path, cli):
    plain = ("~optimizer.eps", "~optimizer.fused")
    rates = (("optimizer.lr=1e-3",), ("optimizer.lr=1e-4",))
    jobs = make_jobs(tmp_path, *SMALL, *plain, "optimizer._target_=torch.optim.Rprop", own=rates)
    with pytest.raises(ConfigError, match="cannot differ between agents side by side with this optimizer"):
        trainer_of(jobs)
    words = ("-m", "hydra/launcher=batched", "study=s", "tuned=none", "progress=none", "evaluation.episodes=0")
    words += ("compile=false", *SMALL, *plain, "optimizer._target_=torch.optim.Rprop", "optimizer.lr=1e-3,1e-4")
    assert "2 batches: optimizer.lr must be the same within one" in cli(*words, "seed=0,1").out
    for name in ("Adam", "AdamW", "SGD", "RMSprop", "Adagrad", "NAdam"):
        assert parts.supports_agent_lrs(make_jobs(tmp_path, *plain, f"optimizer._target_=torch.optim.{name}")[0].cfg)


def test_what_an_algorithm_derives_from_its_settings_must_be_alike():
    @dataclass(kw_only=True)
    class Derives(PPO):
        def __post_init__(self):
            super().__post_init__()
            self.widest = 2 * max(self.clip_coef.knots)

    alike = [Derives(clip_coef=0.2, ent_coef=coef) for coef in (0.0, 0.1)]
    assert Derives.side_by_side(alike).coefficients(0.0, 2, torch.device("cpu"))["ent_coef"].tolist() == [
        0.0,
        pytest.approx(0.1),
    ]
    with pytest.raises(ConfigError, match=r"algo.widest: is 0.4 for one agent"):
        Derives.side_by_side([Derives(clip_coef=0.2), Derives(clip_coef=0.1)])


@dataclass(kw_only=True)
class Extra(Algorithm):
    """A bonus."""

    extra_coef: Scheduled = 0.0
    extra_size: int = 1

    def loss(self, policy, batch):
        loss, metrics = super().loss(policy, batch)
        return loss + self.extra_coef * policy(batch)[1].square().mean(), metrics


def test_jobs_may_differ_in_what_is_scheduled_of_a_bonus_and_others_settings_are_named_as_typed(cli):
    words = ("-m", "hydra/launcher=batched", "study=s", "tuned=none", "progress=none", "evaluation.episodes=0")
    words += ("compile=false", *SMALL, f"+bonus._target_={__name__}.Extra", "+bonus.extra_coef=0,0.1")
    result = cli(*words, "+bonus.extra_size=1,2")
    assert result.code == 0, result.err
    assert result.out.count("2 jobs (2 agents) side by side: bonus.extra_coef differ") == 2
    assert "2 batches: bonus.extra_size must be the same within one" in result.out
