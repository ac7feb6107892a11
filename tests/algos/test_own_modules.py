"""Networks of an objective's own: made per agent, trained, saved and resumed with the policy, called by its loss."""

import pytest
import torch
from extras import Auxiliary
from helpers import have_same_weights, make_trainer, resumed, train, weights_of, write_config
from torch import nn

import rlexp
from rlexp.errors import ConfigError, ObjectiveError
from rlexp.networks.normalizer import ObservationNormalizer

SMALL = ("total_steps=1536", "env.num_envs=4", "algo.rollout_steps=64", "algo.epochs=2", "algo.minibatches=2")
OWN = ("algo._target_=extras.Auxiliary", "log_every=1", *SMALL)
LEARNT, FIXED = "algo.aux.2.weight", "algo.aux.0.weight"


def test_they_are_trained_with_the_policy_and_what_needs_no_gradient_stays(tmp_path):
    trainer = make_trainer(tmp_path, *OWN, "optimizer.lr=1e-2")
    before = {name: x.clone() for name, x in weights_of(trainer).items()}
    trainer.train(False)
    after = weights_of(trainer)
    assert not torch.equal(after[LEARNT], before[LEARNT])
    assert torch.equal(after[FIXED], before[FIXED])
    # CartPole's reward is 1 in every state
    errors = [float(x) for x in _column(tmp_path, "aux_error")]
    assert errors[-1] < 0.8 * errors[0]


def _column(folder, name):
    header, *rows = (folder / "metrics.csv").read_text().splitlines()
    at = header.split(",").index(name)
    return [row.split(",")[at] for row in rows]


def test_the_policy_starts_as_without_them(tmp_path):
    mine, plain = make_trainer(tmp_path / "a", *OWN), make_trainer(tmp_path / "b", *SMALL)
    assert all(torch.equal(weights_of(mine)[name], x) for name, x in weights_of(plain).items())


def test_a_term_of_no_weight_leaves_the_policy_alone(tmp_path):
    free = ("algo.max_grad_norm=null",)  # else its gradient, though 0 times, has a part in the norm
    mine = train(tmp_path / "a", *OWN, "+algo.aux_coef=0", *free)
    assert have_same_weights(train(tmp_path / "b", *SMALL, *free), mine)


def test_agents_side_by_side_are_those_alone(tmp_path):
    both, second = train(tmp_path / "both", *OWN, "num_seeds=2"), train(tmp_path / "one", *OWN, "seed=1")
    for name, x in weights_of(both).items():
        torch.testing.assert_close(x[1:], weights_of(second)[name], rtol=1e-4, atol=1e-5)
    assert not torch.equal(weights_of(both)[FIXED][0], weights_of(both)[FIXED][1])


@pytest.mark.parametrize("batching", ["vmap", pytest.param("loop", marks=pytest.mark.slow)])
def test_resumed_they_are_those_of_an_uninterrupted_run(tmp_path, batching):
    settings = (*OWN, "num_seeds=2", f"batching={batching}")
    assert have_same_weights(resumed(tmp_path / "a", *settings), train(tmp_path / "b", *settings))


def test_a_saved_policy_acts_without_them(tmp_path):
    train(tmp_path, *OWN)
    write_config(tmp_path, *OWN)
    policy = rlexp.load_policy(tmp_path)
    assert policy([0.0, 0.0, 0.0, 0.0]) in (0, 1)
    assert not hasattr(policy.network, "algo")


def test_what_is_no_module_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(Auxiliary, "modules", lambda self, spaces: nn.Linear(1, 1))
    with pytest.raises(ObjectiveError, match=r"Auxiliary.modules: returns .*; wants a dictionary of torch.nn.Module"):
        make_trainer(tmp_path, *OWN)
    monkeypatch.setattr(Auxiliary, "modules", lambda self, spaces: {"aux": nn.Linear})
    with pytest.raises(ObjectiveError, match=r"'aux' is a.*; wants a dictionary of torch.nn.Module by name"):
        make_trainer(tmp_path, *OWN)


def test_a_name_that_is_not_there_is_told_with_those_that_are(monkeypatch, tmp_path):
    def loss(self, policy, batch):
        return policy.module("other")(batch.obs).mean(), {}

    monkeypatch.setattr(Auxiliary, "loss", loss)
    with pytest.raises(ObjectiveError, match=r"module\('other'\): there is no such module; .* returns aux"):
        make_trainer(tmp_path, *OWN)


def test_one_module_for_all_agents_is_refused(monkeypatch, tmp_path):
    shared = {"aux": nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1))}
    monkeypatch.setattr(Auxiliary, "modules", lambda self, spaces: shared)
    with pytest.raises((ConfigError, ObjectiveError), match=r"is one tensor shared by several agents"):
        make_trainer(tmp_path, *OWN, "num_seeds=2")


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.one = self.other = nn.Linear(4, 4)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.other = nn.Linear(4, 4), nn.Linear(4, 4)
        self.other.weight = self.one.weight


@pytest.mark.parametrize(
    ("modules", "said"),
    [
        (lambda: {"aux": nn.LazyLinear(1)}, "its parameter aux.weight has no shape yet"),
        (lambda: {"aux": nn.Linear(4, 1).double()}, "its parameter aux.weight has dtype torch.float64"),
        (lambda: {"aux": Shared()}, "aux.other.weight is one tensor with another"),
        (lambda: {"aux": Tied()}, "aux.other.weight is one tensor with another"),
        (
            lambda: {"aux": ObservationNormalizer((8,))},
            "aux normalises (8,), and it is updated with observations, (4,)",
        ),
        (lambda: {"keys": nn.Linear(4, 1)}, "'keys' cannot name a module"),
        (lambda: {"a.b": nn.Linear(4, 1)}, "'a.b' cannot name a module"),
    ],
)
def test_what_cannot_be_stacked_is_refused_in_one_line(monkeypatch, tmp_path, modules, said):
    monkeypatch.setattr(Auxiliary, "modules", lambda self, spaces: modules())
    with pytest.raises(ObjectiveError, match=r"Auxiliary\.modules: ") as error:
        make_trainer(tmp_path, *OWN, "num_seeds=2")
    assert said in str(error.value)


class Counts(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 1)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return self.layer(x)


def test_a_buffer_that_a_forward_pass_changes_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(Auxiliary, "modules", lambda self, spaces: {"aux": Counts()})
    with pytest.raises(ObjectiveError, match=r"loss: changes the buffer algo\.aux\.calls"):
        make_trainer(tmp_path, *OWN)
