"""What objectives may do, and what is refused in all their hooks: each in one line that says where."""

import inspect
import logging
import re

import hooks
import mistake_helpers
import pytest
import torch
from helpers import jobs, last_metrics, make_trainer, resumed, train, weights_of
from torch.testing import assert_close

from rlexp.algos.metric_names import OF_COMPARE, RESERVED
from rlexp.algos.ppo import PPO
from rlexp.checks.hook_outputs import require_gradient, require_loss, same_outputs
from rlexp.checks.location import is_mistake
from rlexp.errors import ConfigError, ObjectiveError

SMALL = ("env=cartpole", "total_steps=256", "env.num_envs=4", "algo.rollout_steps=32", "algo.minibatches=2")
SMALL += ("algo.epochs=2", "network.torso.hidden=[8]")


def algo(name):
    return f"algo._target_=hooks.{name}"


def place_of(name):
    lines, first = inspect.getsourcelines(getattr(hooks, name))
    marked = [first + number for number, line in enumerate(lines) if "# here" in line]
    return rf"hooks\.py:{marked[0]}"


def refused(folder, name, *words):
    with pytest.raises(ObjectiveError) as error:
        make_trainer(folder, *SMALL, algo(name), *words)
    assert "\n" not in str(error.value)
    return str(error.value)


# Names of metrics ---------------------------------------------------------------------------------------------------


def test_every_column_that_a_run_writes_of_itself_is_reserved(tmp_path):
    train(tmp_path, *SMALL, "algo.target_kl=10", "evaluation.every=1")
    header = (tmp_path / "metrics.csv").read_text().splitlines()[0].split(",")
    of_loss = {"policy_loss", "value_loss", "entropy", "approx_kl", "old_approx_kl", "clip_fraction"}
    assert set(header) - of_loss == RESERVED - {"a parameter", *OF_COMPARE}


@pytest.mark.few(6)
@pytest.mark.parametrize("name", [*sorted(RESERVED), "a,b", "a\\nb", "' '", "a\\\\tb"])
def test_no_metric_of_a_loss_takes_the_name_of_a_column(tmp_path, name):
    text = name.replace("\\n", "\n").replace("\\\\t", "\t").strip("'")
    with pytest.raises(ObjectiveError, match=r"hooks\.py:\d+: Named\.loss: metric .* (is a column|has a)"):
        train_named(tmp_path, text)


def train_named(folder, name):
    """With a name that no command line could give."""
    made = hooks.Named.__dataclass_fields__["name"]
    before = hooks.Named.name
    try:
        hooks.Named.name = name
        hooks.Named.__init__.__kwdefaults__["name"] = name
        make_trainer(folder, *SMALL, algo("Named"))
    finally:
        hooks.Named.name = before
        hooks.Named.__init__.__kwdefaults__["name"] = made.default


@pytest.mark.parametrize("name", ["ObservesStep", "ObservesEntropy"])
def test_observe_overwrites_nothing(tmp_path, name):
    assert re.match(rf"\S*{place_of(name)}: {name}\.observe: metric '(step|entropy)' is", refused(tmp_path, name))


# What is random at the start ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "hook"), [("GlobalNet", "prepare"), ("GlobalNetAtInit", "__post_init__"), ("ClockedNumber", "prepare")]
)
def test_what_differs_each_time_it_is_made_is_refused(tmp_path, name, hook):
    line = refused(tmp_path, name)
    assert re.match(rf"\S*{place_of(name)}: {name}\.{hook}: self\.\w+ differs each time", line)
    assert "spec.per_agent(make)" in line


def test_what_is_seeded_by_hand_is_taken(tmp_path):
    make_trainer(tmp_path, *SMALL, algo("SeededNet"))


def test_what_agents_make_of_their_own_is_theirs_alone_beside_others_and_resumed(tmp_path):
    whole = train(tmp_path / "whole", *SMALL, algo("OwnNetsSaved"), "num_seeds=3")
    alone = train(tmp_path / "alone", *SMALL, algo("OwnNetsSaved"), "seed=1")
    for nets in ("targets", "learnt"):
        together = [getattr(whole.algo, nets)[k].weight for k in range(3)]
        assert_close(getattr(alone.algo, nets)[0].weight, together[1], atol=1e-6, rtol=1e-5)
        assert not torch.equal(together[0], together[1])
    assert not torch.equal(whole.algo.targets[0].weight, whole.algo.learnt[0].weight)
    with pytest.raises(Exception, match="128"):  # it pauses
        train(tmp_path / "halves", *SMALL, algo("OwnNetsSaved"), "num_seeds=3", "stop_at=128")
    resumed = train(tmp_path / "halves", *SMALL, algo("OwnNetsSaved"), "num_seeds=3", resume=True)
    assert last_metrics(tmp_path / "halves", 2)["novelty"] == last_metrics(tmp_path / "whole", 2)["novelty"]
    assert all(torch.equal(weights_of(resumed)[name], x) for name, x in weights_of(whole).items())


@pytest.mark.parametrize(("name", "told"), [("OwnNets", ["learnt"]), ("OwnNetsSaved", [])])
def test_a_module_that_learns_and_that_no_checkpoint_holds_is_told(tmp_path, caplog, name, told):
    train(tmp_path, *SMALL, algo(name))
    assert re.findall(r"algo\.(\w+) changes during training but is not saved by state_dict\(\)", caplog.text) == told


# What is right ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_seeds", [1, 2])
@pytest.mark.parametrize("name", ["Positive", "Remembers", "Lazy", "OddTensors", "AddsInPlace"])
def test_what_only_looks_like_a_mistake_trains(tmp_path, name, num_seeds):
    train(tmp_path, *SMALL, algo(name), f"num_seeds={num_seeds}", "gae.gamma=0")  # returns are rewards


def test_a_tensor_of_the_module_is_shared_by_nobody_where_one_agent_trains(tmp_path):
    train(tmp_path, *SMALL, algo("Shares"))


def test_an_exception_that_hangs_on_numbers_is_told_by_the_first_update(tmp_path):
    trainer = make_trainer(tmp_path, *SMALL, algo("Demanding"))
    with pytest.raises(ObjectiveError, match=rf"^\S*{place_of('Demanding')}: Demanding\.loss: AssertionError: too sm"):
        trainer.train(False)


@pytest.mark.few(2)
@pytest.mark.parametrize("kind", ["deque", "ndarray", "float64", "defaultdict", "function", "int64"])
def test_a_state_that_no_checkpoint_gives_back_is_refused_where_it_stands(tmp_path, kind):
    told = rf"{place_of('Keeps')}: Keeps\.state_dict: keeps (the key .* in )?held\.x, an? {kind}, which cannot"
    assert re.match(rf"\S*{told}", refused(tmp_path, "Keeps", f"+algo.kind={kind}"))
    later = make_trainer(tmp_path, *SMALL, algo("Keeps"), f"+algo.kind={kind}", "+algo.since=1")
    with pytest.raises(ObjectiveError, match=rf"^\S*{told}"):
        later.train(False)


@pytest.mark.few(1)
@pytest.mark.parametrize("kind", ["Counter", "set", "dtype"])
def test_what_a_checkpoint_gives_back_may_be_kept(tmp_path, kind):
    resumed(tmp_path, *SMALL, algo("Keeps"), f"+algo.kind={kind}", after=1)


@pytest.mark.parametrize(
    ("of", "to", "told"),
    [
        ("epochs", 3, "algo.epochs: has changed to 3; it may be a whole number from 1 to 2, what training began with"),
        ("epochs", 0, "algo.epochs: has changed to 0; it may be a whole number from 1 to 2, what training began with"),
        ("epochs", 1.0, "algo.epochs: has changed to 1.0; it may be a whole number from 1 to 2"),
        ("minibatches", 4, "algo.minibatches: has changed from 2 to 4; it is fixed once training starts"),
        ("rollout_steps", 16, "algo.rollout_steps: has changed from 32 to 16; it is fixed once training starts"),
    ],
)
def test_what_sizes_depend_on_stays(tmp_path, of, to, told):
    trainer = make_trainer(tmp_path, *SMALL, "total_steps=512", algo("Resizes"), f"+algo.of={of}", f"+algo.to={to}")
    with pytest.raises(ObjectiveError, match=re.escape(told)):
        trainer.train(False)


def test_epochs_change_between_updates_only(tmp_path):
    trainer = make_trainer(tmp_path, *SMALL, "total_steps=512", algo("ResizesWithin"), "+algo.to=1")
    with pytest.raises(ObjectiveError, match="changes within an update; change it in observe or adapt"):
        trainer.train(False)


def test_epochs_may_fall(tmp_path):
    train(tmp_path, *SMALL, "total_steps=512", algo("Resizes"), "+algo.of=epochs", "+algo.to=1")


# What slipped through -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("Complex", "the loss is complex"),
        ("Flickers", "returns metric 'calm' in some calls only"),
        ("Clock", "differs when called again"),
        ("System", "differs when called again"),
        ("Backward", "its gradient fails: RuntimeError: one of the variables needed for gradient"),
        ("MovesWeights", "modifies the policy's parameters in place"),
        ("Mixed", "writes self.last, which is lost"),
        ("Partial", r"the loss has shape \(2,\)"),
        ("Yields", "is a generator"),
        ("Unpacks", "ValueError: not enough values to unpack"),
    ],
)
def test_a_loss_is_refused_where_it_stands(tmp_path, name, what):
    place = place_of("SetsMixin" if name == "Mixed" else name)
    assert re.match(rf"\S*{place}: {name}\.loss: {what}", refused(tmp_path, name))


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("high", "a str, wants a scalar tensor"),
        (None, "nothing, wants a scalar tensor"),
        (2, "an int, wants a scalar tensor: torch.as_tensor(x)"),
        (0.5, "a float, wants a scalar tensor: leave out .item(), or torch.as_tensor(x)"),
    ],
)
def test_a_metric_that_is_no_tensor_is_told_how_it_becomes_one(value, told):
    with pytest.raises(ObjectiveError) as error:
        require_loss(PPO(), (torch.ones(()), {"calm": value}))
    assert str(error.value).endswith(f"metric 'calm' is {told}")


def test_a_loss_that_is_cut_off_is_told_what_may_have_done_it():
    with pytest.raises(ObjectiveError, match=r"depends on policy\(batch\), or \.detach\(\), no_grad or \.data"):
        require_gradient(PPO(), torch.ones(()))


def test_an_exception_of_numbers_is_no_mistake_by_its_kind_alone():
    assert not is_mistake(ValueError("too small"))
    assert not is_mistake(torch.linalg.LinAlgError("linalg.lstsq: no"))
    assert is_mistake(RuntimeError("linalg.lstsq: no"))


def test_a_gradient_that_comes_or_goes_is_another_one():
    x = torch.ones(2)
    assert same_outputs([x, None], [x.clone(), None], on_cuda=False)
    assert not same_outputs([x, None], [x, x], on_cuda=False)
    assert not same_outputs([x, x], [x, None], on_cuda=False)


@pytest.mark.parametrize("agent", [0, 1])
def test_agents_one_after_the_other_give_the_same_metrics(tmp_path, agent):
    trainer = make_trainer(tmp_path, *SMALL, "num_seeds=2", "batching=loop")
    learner, epochs = trainer.learner, trainer.learner._epochs

    def without_entropy(agents, *given):
        left_out = "entropy" if agents is learner.groups[agent] else ""
        return {name: x for name, x in epochs(agents, *given).items() if name != left_out}

    learner._epochs = without_entropy
    with pytest.raises(ObjectiveError, match="returns metric 'entropy' in some calls only"):
        trainer.train(False)


def test_a_loss_that_moves_the_critic_alone_is_told(tmp_path, caplog):
    make_trainer(tmp_path, *SMALL, algo("OnlyCritic"))
    assert re.search(rf"{place_of('OnlyCritic')}: OnlyCritic\.loss trains the critic only", caplog.text)
    caplog.clear()
    make_trainer(tmp_path, *SMALL, "algo=apo", "network.shared=true")
    assert "critic only" not in caplog.text


# Other hooks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("ObservesNothing", r"observe: returns nothing; wants a dictionary of tensors \(A,\)"),
        ("ObservesNumber", r"observe: metric 'calm' is a float; wants"),
        ("ObservesScalar", r"observe: metric 'calm' is a tensor \(\); wants"),
        ("ObservesComplex", r"observe: metric 'calm' is a tensor \(1,\); wants"),
        ("ReplaysFew", r"replay: \['rows'\] is a tensor \(1, 1\); wants tensors \(agents, minibatches"),
        ("CoefficientNumber", r"coefficients: calm is float; wants a tensor of 1 values"),
    ],
)
def test_other_hooks_are_refused_where_they_stand(tmp_path, name, what):
    assert re.match(rf"\S*{place_of(name)}: {name}\.{what}", refused(tmp_path, name))


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("ObservesLate", "observe: metric 'calm' was missing in the first call"),
        ("ObservesEntropyLate", "observe: metric 'entropy' is also one of the loss"),
        ("ReplaysLate", r"replay: \['rows'\] is a tensor \(1, 1\)"),
        ("CoefficientLate", "coefficients: calm is float"),
    ],
)
def test_hooks_are_looked_at_in_each_update(tmp_path, name, what):
    trainer = make_trainer(tmp_path, *SMALL, algo(name))
    with pytest.raises(ObjectiveError, match=rf"{place_of(name)}: {name}\.{what}"):
        trainer.train(False)


def test_what_raises_on_made_up_rollouts_leaves_the_rest_of_the_check_on(tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="rlexp"):
        trainer = train(tmp_path, *SMALL, algo("RaisesAtFirst"), "num_seeds=2", "total_steps=128")
    assert f"{place_of('RaisesAtFirst')}: RaisesAtFirst.loss reads".replace("\\", "") in caplog.text
    assert len(trainer.learner.groups) == 2


def test_a_hook_that_raises_in_a_run_is_one_line(cli):
    words = ["study=s", "tuned=none", "progress=none", "evaluation.episodes=0", *SMALL]
    result = cli(*words, algo("AdaptsToNothing"))
    assert result.code == 1
    assert re.search(rf"{place_of('AdaptsToNothing')}: AdaptsToNothing\.adapt: KeyError: 'nothing'", result.err)
    assert "Traceback" not in result.err
    assert "KeyError" in (jobs()[0] / "train.log").read_text()


# Places and reasons -------------------------------------------------------------------------------------------------


def test_an_error_in_another_file_names_both(tmp_path):
    line = inspect.getsourcelines(mistake_helpers.seventh)[1] + 1
    told = rf"\S*mistake_helpers\.py:{line}, called at \S*{place_of('CallsHelper')}: CallsHelper\.loss: IndexError"
    assert re.match(told, refused(tmp_path, "CallsHelper"))


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("Accumulates", "changes a shared tensor in place there (write acc = acc + x"),
        ("BranchesInHelper", "reads single values there"),
        ("PicksRows", "selects rows by value there"),
    ],
)
def test_why_agents_are_not_side_by_side(tmp_path, caplog, name, why):
    with caplog.at_level(logging.INFO, logger="rlexp"):
        make_trainer(tmp_path, *SMALL, algo(name), "num_seeds=2")
    assert f"{place_of(name)}: {name}.loss {why}".replace("\\", "") in caplog.text


def test_a_class_that_is_no_dataclass_or_no_algorithm_says_so(tmp_path):
    with pytest.raises(
        ConfigError, match=r"no such setting; its class declares it but is not a dataclass: write @data"
    ):
        make_trainer(tmp_path, *SMALL, algo("Undecorated"), "+algo.extra=2.0")
    with pytest.raises(
        ConfigError, match=r"hooks\.NoAlgorithm: makes a NoAlgorithm, which is not an rlexp\.algos\.base"
    ):
        make_trainer(tmp_path, *SMALL, algo("NoAlgorithm"))
