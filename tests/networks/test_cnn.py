"""Torsos for pixels: what they compute, and what they refuse."""

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from torch import nn
from torch.testing import assert_close

from rlexp.errors import ConfigError
from rlexp.networks import MLP, ImpalaCNN, NatureCNN


def test_impalas_blocks_by_hand():
    torso = ImpalaCNN(Box(0, 1, (3, 20, 17)), channels=[4, 6], features=7)
    x = torch.rand(5, 3, 20, 17)
    params = dict(torso.named_parameters())
    y = x
    for block in range(2):
        first = f"layers.{block}.first"
        y = nn.functional.conv2d(y, params[f"{first}.weight"], params[f"{first}.bias"], padding=1)
        y = nn.functional.max_pool2d(y, 3, 2, 1)
        for residual in range(2):
            z = y
            for layer in (1, 3):
                name = f"layers.{block}.residuals.{residual}.{layer}"
                z = nn.functional.conv2d(z.relu(), params[f"{name}.weight"], params[f"{name}.bias"], padding=1)
            y = y + z
    assert y.shape == (5, 6, 5, 5)  # 20 and 17, halved and rounded up twice
    wanted = nn.functional.linear(y.relu().flatten(1), params["head.0.weight"], params["head.0.bias"]).relu()
    assert_close(torso(x), wanted)
    assert torso(x.reshape(5, 1, 3, 20, 17)).shape == (5, 1, 7)


@pytest.mark.parametrize("kind", [NatureCNN, ImpalaCNN])
def test_channels_may_be_last(kind):
    torch.manual_seed(0)
    first = kind(Box(0, 1, (3, 40, 44)), features=8)
    torch.manual_seed(0)
    last = kind(Box(0, 1, (40, 44, 3)), features=8)
    x = torch.rand(2, 3, 40, 44)
    assert_close(last(x.movedim(1, -1)), first(x))


REFUSED = {
    (NatureCNN, (4,)): "NatureCNN cannot read observations of shape (4,): it needs images of at least 36x36 pixels",
    (NatureCNN, (3, 30, 40)): "at least 36x36 pixels, (C, H, W) or (H, W, C); use network=mlp",
    (ImpalaCNN, (4,)): "ImpalaCNN cannot read observations of shape (4,): it needs images of at least 8x8",
    (ImpalaCNN, (7, 7, 3)): "at least 8x8 pixels",
    (
        MLP,
        (4, 84, 84),
    ): "MLP would read images of shape (4, 84, 84) as 28,224 numbers; use network=nature_cnn, or flatten",
    (MLP, (64, 64, 3)): "images of shape (64, 64, 3) as 12,288 numbers",
}


@pytest.mark.parametrize(("kind", "shape"), REFUSED)
def test_a_network_for_other_observations_is_one_line(kind, shape):
    with pytest.raises(ConfigError) as caught:
        kind(Box(0, 255, shape, np.uint8))
    assert REFUSED[kind, shape] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_small_grids_and_flat_pictures_are_an_mlps():
    assert MLP(Box(0, 255, (7, 7, 3), np.uint8))(torch.zeros(2, 7, 7, 3)).shape == (2, 64)
    assert MLP(Box(0, 255, (28_224,), np.uint8), hidden=[2])(torch.zeros(2, 28_224)).shape == (2, 2)
