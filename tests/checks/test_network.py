"""Networks of others are tried beforehand; what is wrong with them is told in a line that names their file."""

import logging
import re

import pytest
import torch
from helpers import make_trainer
from strangers import torso as theirs
from torch import nn
from torch.utils.checkpoint import checkpoint

from rlexp.errors import ConfigError, ObjectiveError

SMALL = ("env=cartpole", "total_steps=256", "env.num_envs=4", "algo.rollout_steps=32", "algo.minibatches=2")
HERE = r"\S*test_network\.py:\d+: "


class Torso(nn.Module):
    """A linear layer and tanh; the base of those below, each of which has one thing wrong."""

    out_features = 8

    def __init__(self, space):
        super().__init__()
        self.layer = nn.Linear(space.shape[0], 8)

    def forward(self, x):
        return self.layer(x).tanh()


class Squeezes(Torso):
    def forward(self, x):
        return super().forward(x).squeeze()


class LooksAtSize(Torso):
    def forward(self, x):
        return super().forward(x) * (1.0 if len(x) < 10 else 0.5)


class CountsHidden(Torso):
    def forward(self, x):
        self._n = getattr(self, "_n", 0) + 1
        return super().forward(x)


CALLS = []


class CountsGlobally(Torso):
    def forward(self, x):
        CALLS.append(1)
        return super().forward(x) + len(CALLS) % 7


class Loose(Torso):
    def __init__(self, space):
        super().__init__(space)
        self.gains = [torch.ones(8, requires_grad=True)]

    def forward(self, x):
        return super().forward(x) * self.gains[0]


class LooseModules(Torso):
    def __init__(self, space):
        super().__init__(space)
        self.more = [nn.Linear(8, 8)]

    def forward(self, x):
        return self.more[0](super().forward(x))


class Lazy(Torso):
    def __init__(self, space):
        super().__init__(space)
        self.layer = nn.LazyLinear(8)


class NoFeatures(Torso):
    out_features = 0


class BoolFeatures(Torso):
    out_features = True


class WrongFeatures(Torso):
    out_features = 7


class ExtraAxis(Torso):
    def forward(self, x):
        return super().forward(x)[None]


class Doubles(Torso):
    def forward(self, x):
        return super().forward(x).double()


class Mixes(Torso):
    def forward(self, x):
        return self.layer(x.double())


class Raises(Torso):
    def forward(self, x):
        return {}["no"]


class RaisesAtOnce(Torso):
    def __init__(self, space):
        raise KeyError("no")


class Overlaps(Torso):
    def __init__(self, space):
        super().__init__(space)
        f = torch.ones(3, 8)
        self.w, self.b = nn.Parameter(f), nn.Parameter(f[0])

    def forward(self, x):
        return super().forward(x) * self.w.sum(0) + self.b


class Turned(Torso):
    def __init__(self, space):
        super().__init__(space)
        self.other = nn.Parameter(self.layer.weight.data.t())

    def forward(self, x):
        return super().forward(x) + x @ self.other


class Alias(Torso):
    def __init__(self, space):
        super().__init__(space)
        self.seen = self.layer.bias.data

    def forward(self, x):
        return super().forward(x) + self.seen


class Repeats(Torso):
    def __init__(self, space):
        super().__init__(space)
        self.gain = nn.Parameter(torch.ones(1).expand(8))

    def forward(self, x):
        return super().forward(x) * self.gain


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("Squeezes", r"one observation gives parameters and values of shapes \(2,\) and \(\); wants \(1, 2\)"),
        ("LooksAtSize", "the outputs of a row differ between a batch of 64 rows and one of 3"),
        ("CountsHidden", r"changes its actor_torso\._n"),
        ("CountsGlobally", "gives other outputs for the same rows in a second forward pass"),
        ("Loose", r"actor_torso\.gains\[0\] requires grad but is not registered"),
        ("LooseModules", r"the parameters of actor_torso\.more\[0\] would not be trained"),
        ("Lazy", r"its parameter actor_torso\.layer\.weight has no shape yet"),
        ("NoFeatures", r"out_features=0: must be the number of features"),
        ("BoolFeatures", r"out_features=True: must be the number of features"),
        (
            "WrongFeatures",
            r"actor_torso returns shape \(3, 8\) for 3 observations; its out_features=7 promises \(3, 7\)",
        ),
        (
            "ExtraAxis",
            r"actor_torso returns shape \(1, 3, 8\) for 3 observations; its out_features=8 promises \(3, 8\)",
        ),
        ("Doubles", "actor_torso returns torch.float64"),
        ("Mixes", r"Mixes\.forward: RuntimeError: .*same dtype"),
        ("Raises", r"Raises\.forward: KeyError: 'no'$"),
        ("RaisesAtOnce", r"RaisesAtOnce\.__init__: KeyError: 'no'$"),
        (
            "Overlaps",
            r"its parameter actor_torso\.w shares memory with actor_torso\.b, but would not once agents are stacked",
        ),
        (
            "Turned",
            r"its parameter actor_torso\.\S+ shares memory with actor_torso\.\S+, but would not once agents are stac",
        ),
        ("Alias", r"its parameter actor_torso\.layer\.bias shares memory with actor_torso\.seen"),
        ("Repeats", r"elements of its parameter actor_torso\.gain share memory"),
    ],
)
def test_networks_that_would_go_wrong_are_told_by_their_file(tmp_path, name, line):
    with pytest.raises(ConfigError) as caught:
        make_trainer(tmp_path, *SMALL, *torso(name))
    assert re.search(rf"{HERE}\w+\.\w+", str(caught.value))
    assert re.search(line, str(caught.value))
    assert "\n" not in str(caught.value)


class Tied(Torso):
    """One parameter in two places, and parts of one tensor that do not overlap."""

    def __init__(self, space):
        super().__init__(space)
        self.same = self.layer.weight
        whole = torch.ones(2, 8)
        self.gain, self.shift = nn.Parameter(whole[0]), nn.Parameter(whole[1])

    def forward(self, x):
        return (super().forward(x) + x @ self.same.t()) * self.gain + self.shift


class Branches(Torso):
    def forward(self, x):
        y = super().forward(x)
        return y * 2 if x.abs().max() > 1e30 else y


class Checkpointed(Torso):
    def forward(self, x):
        return checkpoint(super().forward, x, use_reentrant=False)


class GivesNaN(Torso):
    def forward(self, x):
        return super().forward(x).log()


class Detached(Torso):
    def forward(self, x):
        return super().forward(x).detach()


class Unused(Torso):
    def __init__(self, space):
        super().__init__(space)
        self.spare = nn.Parameter(torch.ones(8))
        self.frozen = nn.Parameter(torch.ones(8), requires_grad=False)


def torso(name):
    return (f"network.torso._target_=test_network.{name}", "~network.torso.hidden", "~network.torso.activation")


def test_a_tied_parameter_and_parts_that_do_not_overlap_are_fine(tmp_path, caplog):
    make_trainer(tmp_path, *SMALL, *torso("Tied"), "num_seeds=3", "batching=vmap")
    assert "no gradient" not in caplog.text


@pytest.mark.parametrize("name", ["Branches", "Checkpointed"])
def test_a_network_that_cannot_be_stacked_is_told_as_the_network(tmp_path, name):
    line = r"batching=vmap: the network \(\S*test_network\.py:\d+\) cannot be used with stacked agents"
    with pytest.raises(ConfigError, match=line):
        make_trainer(tmp_path, *SMALL, *torso(name), "num_seeds=3", "batching=vmap")


def test_agents_whose_numbers_are_none_do_not_differ(tmp_path):
    make_trainer(tmp_path, *SMALL, *torso("GivesNaN"), "num_seeds=3", "batching=vmap")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("Detached", ["no gradient reaches actor_torso, so", "no gradient reaches critic_torso, so"]),
        ("Unused", [r"no gradient reaches its actor_torso\.spare, critic_torso\.spare, so"]),
        ("Torso", []),
    ],
)
def test_parts_that_no_gradient_reaches_are_told_once(tmp_path, caplog, name, told):
    caplog.set_level(logging.WARNING)
    make_trainer(tmp_path, *SMALL, *torso(name), "num_seeds=2")
    lines = sorted(line for line in caplog.messages if "no gradient" in line)
    assert len(lines) == len(told)
    assert all(re.search(pattern, line) for pattern, line in zip(told, lines, strict=True))


@pytest.mark.parametrize(
    ("name", "error", "line"),
    [
        (
            "Dropped",
            ObjectiveError,
            r"the network draws random numbers \((bernoulli_|native_dropout)\), as Dropout does",
        ),
        ("BatchNormed", ConfigError, r"network: the outputs of a row depend on the other rows of its batch"),
        ("Counted", ConfigError, r"network: a forward pass changes its buffer actor_torso\.calls"),
        ("ByMode", ConfigError, r"network: differs between eval\(\) and train\(\)"),
        ("CountsAside", ConfigError, r"network: a forward pass changes its actor_torso\.calls"),
        ("Double", ConfigError, r"network: its parameter actor_torso\.layer\.weight has dtype torch\.float64"),
        ("Shares", ConfigError, r"network: actor_torso\.layer\.weight is one tensor shared by several agents"),
        ("Projected", ConfigError, r"network: agents differ in a value that is neither parameter nor buffer"),
    ],
)
def test_networks_that_would_go_wrong_are_refused_before_the_first_step(tmp_path, name, error, line):
    with pytest.raises(error, match=line):
        make_trainer(tmp_path, *SMALL, "algo.epochs=2", *theirs(name), "num_seeds=2")
