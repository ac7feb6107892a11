"""An objective with a mistake is refused in one line, before training: file, line and what is wrong."""

import inspect
import logging
import re

import mistakes
import pytest
import torch
from helpers import jobs, make_trainer, train, weights_of
from torch.testing import assert_close

from rlexp.checks.objective import Findings
from rlexp.errors import ConfigError, ObjectiveError

SMALL = ("env=cartpole", "total_steps=512", "env.num_envs=4", "algo.rollout_steps=32", "algo.minibatches=2")
SMALL += ("algo.epochs=2", "network.torso.hidden=[8]")

NOT_A_TENSOR = (
    r"policy takes the batch, not a Tensor: write policy\(batch\), or policy\(batch\._replace\(obs=\.\.\.\)\)"
)
REFUSED = {
    "VectorLoss": r"the loss has shape \(64,\), wants a scalar",
    "VectorMetric": r"metric 'calm' has shape \(64,\), wants a scalar",
    "NumberMetric": r"metric 'calm' is a float, wants a scalar tensor",
    "NoMetrics": r"returns a tensor \(\); wants \(loss, metrics\)",
    "Nothing": r"returns nothing; wants \(loss, metrics\)",
    "Counts": r"writes self.count, which is lost: .*adapt\(metrics\)",
    "NewState": r"writes self.last, which is lost",
    "CountsOnceThere": r"writes self.calls, which is lost",
    "Keeps": r"writes self.history, which is lost",
    "CountsForAll": r"changes calls of CountsForAll, which all agents share",
    "CountsInModule": r"changes CALLS of module mistakes, which all agents share",
    "Random": r"the loss draws random numbers \(rand\)",
    "NoGradient": r"the loss has no gradient",
    "Misspelt": r"AttributeError: 'Batch' object has no attribute 'observations'",
    "Observations": NOT_A_TENSOR,
    "ObservationsOfActor": NOT_A_TENSOR,
    "Broadcasts": r"ValueError: weighted_mean: x is \(64, 64\), weights are \(64,\)",
    "NoExtra": r"TypeError: tuple indices must be integers or slices, not str; batch\.extra has what rewards",
    "WrongShape": r"RuntimeError: The size of tensor a \(2\) must match",
}
ALONE = ("Branches", "Items", "Floats", "Numpy")


def line_of(name, hook="loss"):
    """Where the mistake stands."""
    lines, first = inspect.getsourcelines(getattr(getattr(mistakes, name), hook))
    (place,) = [first + number for number, line in enumerate(lines) if "# here" in line]
    return rf"mistakes\.py:{place}"


def algo(name):
    return f"algo._target_=mistakes.{name}"


@pytest.mark.parametrize("num_seeds", [1, 3])
@pytest.mark.parametrize("name", REFUSED)
def test_a_mistake_is_refused_where_it_stands(tmp_path, name, num_seeds):
    with pytest.raises(ObjectiveError, match=rf"^\S*{line_of(name)}: {name}\.loss: {REFUSED[name]}") as error:
        make_trainer(tmp_path, *SMALL, algo(name), f"num_seeds={num_seeds}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ALONE)
def test_a_loss_that_looks_at_single_values_trains_agent_by_agent(tmp_path, caplog, name):
    with caplog.at_level(logging.INFO, logger="rlexp"):
        together = train(tmp_path / "three", *SMALL, algo(name), "num_seeds=3")
    told = [line.getMessage() for line in caplog.records if "reads single values" in line.getMessage()]
    (line,) = told
    assert "3 take about 3 times as long as one" in line
    assert line.partition(": ")[0].endswith(line_of(name).replace("\\", ""))
    assert len(together.learner.groups) == 3
    caplog.clear()
    alone = train(tmp_path / "one", *SMALL, algo(name), "seed=1")
    assert not [line for line in caplog.records if "reads single values" in line.getMessage()]
    for key, x in weights_of(alone).items():
        assert_close(weights_of(together)[key][1], x[0], atol=1e-6, rtol=1e-5, msg=key)


@pytest.mark.parametrize("name", ["MeanOfAll", "MeanOfKL", "FirstOfAll", "Sums"])
def test_agents_that_follow_each_others_metrics_are_refused(tmp_path, name):
    line = rf"^\S*{line_of(name, 'adapt')}: {name}\.adapt: beta of an agent depends on another agent's metrics"
    with pytest.raises(ObjectiveError, match=line):
        make_trainer(tmp_path, *SMALL, algo(name), "num_seeds=3")


@pytest.mark.parametrize(
    ("name", "hook", "told"),
    [
        ("RewardsOfAll", "rewards", "rewards of an agent depend on other agents' rows"),
        ("StatisticsOfAll", "rewards", "rewards of an agent depend on other agents' rows"),
        ("OneStream", "rewards", "rewards of an agent depend on other agents' rows or streams"),
        ("ObservesAll", "observe", "beta of an agent depends on other agents' rows"),
        ("EpisodesOfAll", "observe", "best of an agent depends on other agents' rows"),
        ("OutlierOfAll", "observe", "high of an agent depends on other agents' rows"),
        ("ReplaysAll", "replay", "what an agent replays depends on other agents' rows"),
        ("GlobalStream", "rewards", "algo.rewards draws random numbers"),
        ("Clock", "rewards", "rewards differ when it is called again with the same rollout"),
        ("WritesEpisodes", "observe", "changes rollout.episodes.returns, which is not its own; work on a copy"),
        ("TrueSchedule", "rewards", "TypeError: .*'Schedule'.*; a Scheduled field is a tensor in loss alone"),
        ("EqualSchedule", "rewards", "TypeError: .*'Schedule'.*; a Scheduled field is a tensor in loss alone"),
        ("NoSuper", "coefficients", r"lacks clip_coef, which is Scheduled; return super\(\)\.coefficients"),
        ("ReadsModule", "loss", r"AttributeError: 'function' .*; policy\.module\(name\) can only be called"),
        ("WritesRewards", "rewards", "changes rollout.learner_rewards, which is not its own; return ExtraRewards"),
        ("WritesObservations", "observe", "changes rollout.obs, which is not its own; work on a copy"),
        ("ScheduledReward", "rewards", "TypeError: .*'Schedule'.*; a Scheduled field is a tensor in loss alone"),
        ("NoStream", "rewards", "coef is of a stream with a critic of its own, and there are no values"),
    ],
)
def test_rewards_are_an_agents_own_and_the_rollout_is_everybodys(tmp_path, name, hook, told):
    with pytest.raises(ObjectiveError, match=rf"^\S*{line_of(name, hook)}: {name}\.{hook}: {told}"):
        make_trainer(tmp_path, *SMALL, algo(name), "num_seeds=2")
    make_trainer(tmp_path / "fine", *SMALL, algo("OwnRewards"), "num_seeds=2")


def test_agents_of_a_population_may_share(tmp_path):
    train(tmp_path, *SMALL, algo("Shares"), "population=2")


@pytest.mark.parametrize(
    ("name", "hook", "told", "right"),
    [
        ("KeepsRows", "observe", "keeps rollout.values, saved as ", "KeepsCopies"),
        ("KeepsNetworks", "loss", "has a network that no optimizer gets", "KeepsTargets"),
        ("CountsDummies", "loss", "depends on rows of weight 0", "OwnRewards"),
    ],
)
def test_what_is_kept_or_counted_wrongly_is_told(tmp_path, caplog, name, hook, told, right):
    make_trainer(tmp_path / "right", *SMALL, algo(right))
    assert told not in caplog.text
    make_trainer(tmp_path, *SMALL, algo(name))
    (line,) = [record.getMessage() for record in caplog.records if told in record.getMessage()]
    assert re.match(rf"\S*{line_of(name, hook)}: {name}\.{hook}: {told}", line)


def test_a_hook_that_is_misspelt_is_told(tmp_path, caplog):
    make_trainer(tmp_path, *SMALL, algo("MisspeltHook"))
    (line,) = [record.getMessage() for record in caplog.records if "does not call it" in record.getMessage()]
    where = line_of("MisspeltHook", "reward")
    assert re.match(rf"\S*{where}: MisspeltHook\.reward: rlexp does not call it; is rewards meant\?", line)


@pytest.mark.parametrize("more", [(), ("bonus=rnd",)])
def test_an_error_in_an_init_of_its_own_is_told_where_it_stands(tmp_path, more):
    told = r"FailsToInit\.__init__: TypeError: "
    with pytest.raises(ConfigError, match=rf"^\S*{line_of('FailsToInit', '__init__')}: {told}"):
        make_trainer(tmp_path, *SMALL, algo("FailsToInit"), *more)


@pytest.mark.parametrize("more", [(), ("bonus=rnd",)])
def test_an_error_while_it_is_made_is_told_where_it_stands(tmp_path, more):
    told = r"Halves\.__post_init__: TypeError: .*'Schedule'.*; a Scheduled field is a tensor in loss alone"
    with pytest.raises(ConfigError, match=rf"^\S*{line_of('Halves', '__post_init__')}: {told}"):
        make_trainer(tmp_path, *SMALL, algo("Halves"), *more)


def test_a_coefficient_that_is_restored_too_late_is_told(tmp_path, caplog):
    make_trainer(tmp_path, *SMALL, algo("RestoresLate"))
    assert "coefficient beta changes during training but is not saved by state_dict()" in caplog.text


def test_a_module_that_no_loss_trains_is_told(tmp_path, caplog):
    make_trainer(tmp_path, *SMALL, algo("Idle"))
    (line,) = [record.getMessage() for record in caplog.records if "no loss trains" in record.getMessage()]
    assert re.match(rf"\S*{line_of('Idle', 'modules')}: Idle\.modules: brings 'idle', which no loss trains", line)


@pytest.mark.parametrize("num_seeds", [1, 2])
def test_what_a_resumed_run_would_lose_is_told(tmp_path, caplog, num_seeds):
    make_trainer(tmp_path, *SMALL, algo("Forgets"), f"num_seeds={num_seeds}")
    assert re.findall(r"algo\.(\w+) changes during training but is not saved by state_dict\(\)", caplog.text) == [
        "mean"
    ]


def test_a_state_that_cannot_be_taken_up_is_refused(tmp_path):
    line = rf"^\S*{line_of('LoadsMore', 'load_state_dict')}: LoadsMore\.load_state_dict: KeyError: 'mean'"
    with pytest.raises(ObjectiveError, match=line):
        make_trainer(tmp_path, *SMALL, algo("LoadsMore"))


def test_a_coefficient_that_weighs_what_is_detached_is_told(tmp_path, caplog):
    make_trainer(tmp_path, *SMALL, algo("Detached"))
    (line,) = [record.getMessage() for record in caplog.records if "none of its gradients" in record.getMessage()]
    assert re.match(rf"\S*{line_of('Detached')}: Detached\.loss: calm_coef changes the loss", line)


def test_the_check_leaves_the_run_as_it_is(tmp_path, monkeypatch):
    checked = train(tmp_path / "checked", *SMALL, "algo=apo", "num_seeds=2")
    monkeypatch.setattr("rlexp.build.check_loss", lambda *_: Findings())
    unchecked = train(tmp_path / "unchecked", *SMALL, "algo=apo", "num_seeds=2")
    assert all(torch.equal(weights_of(unchecked)[name], x) for name, x in weights_of(checked).items())


def test_a_sweep_names_the_line_and_goes_on(cli):
    words = ["-m", "study=s", "tuned=none", "progress=none", "evaluation.episodes=0", *SMALL]
    result = cli(*words, "algo._target_=mistakes.VectorMetric,rlexp.algos.ppo.PPO")
    assert result.code == 1
    assert "mistakes.py" in result.out
    assert [(job / "checkpoint.pt").exists() for job in jobs()] == [False, True]
