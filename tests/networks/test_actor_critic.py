from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from gymnasium import spaces as gym_spaces
from helpers import make_batch
from torch import nn
from torch.testing import assert_close

from rlexp import spaces
from rlexp.algos.episode_memory import MemoryRows
from rlexp.errors import ConfigError, ObjectiveError
from rlexp.networks import MLP, NatureCNN
from rlexp.networks.actor_critic import ActorCritic, Encoder, Policy

IMAGE = gym_spaces.Box(0, 255, (4, 84, 84), np.uint8)
VECTOR = gym_spaces.Box(-1, 1, (3,))


def encode(space, x, **kwargs):
    return Encoder(space, **{"normalize": False, "clip": 10.0, **kwargs})(torch.as_tensor(x))


def test_encoding_of_each_space():
    assert encode(gym_spaces.Discrete(3, start=1), [2, 1]).tolist() == [[0, 1, 0], [1, 0, 0]]
    assert encode(gym_spaces.MultiDiscrete([2, 3]), [[1, 2]]).tolist() == [[0, 1, 0, 0, 1]]
    pixels = encode(IMAGE, np.full((1, 4, 84, 84), 51, np.uint8))
    assert pixels.dtype == torch.float32
    assert_close(pixels.max(), torch.tensor(0.2))
    assert encode(gym_spaces.Box(-1, 1, ()), [0.5]).shape == (1, 1)
    with pytest.raises(ConfigError, match="observation space"):
        encode(gym_spaces.Dict({"a": VECTOR}), [0])


def test_shapes_of_parameters_and_values():
    for action_space, width in ((gym_spaces.Discrete(5), 5), (gym_spaces.MultiDiscrete([2, 3]), 5), (VECTOR, 6)):
        policy = ActorCritic(VECTOR, action_space, MLP)
        params, values = policy(torch.zeros(2, 7, 3))
        assert params.shape == (2, 7, width)
        assert values.shape == (2, 7)
    params, values = ActorCritic(IMAGE, gym_spaces.Discrete(4), NatureCNN, shared=True)(
        torch.zeros(2, 3, 4, 84, 84, dtype=torch.uint8)
    )
    assert (params.shape, values.shape) == ((2, 3, 4), (2, 3))


def test_channels_last_images_are_read_as_channels_first_ones():
    torch.manual_seed(0)
    last = NatureCNN(gym_spaces.Box(0, 1, (48, 60, 3)))
    torch.manual_seed(0)
    first = NatureCNN(gym_spaces.Box(0, 1, (3, 48, 60)))
    x = torch.rand(2, 48, 60, 3)
    assert_close(last(x), first(x.movedim(-1, -3)))


def test_orthogonal_initialisation_and_gains():
    torch.manual_seed(0)
    policy = ActorCritic(VECTOR, gym_spaces.Discrete(2), MLP)
    hidden = policy.actor_torso.layers[2].weight
    assert_close(hidden @ hidden.T, 2 * torch.eye(64), atol=1e-5, rtol=0)
    assert_close(policy.actor_head.weight @ policy.actor_head.weight.T, 1e-4 * torch.eye(2), atol=1e-8, rtol=0)
    assert policy.critic_head.weight.norm().item() == pytest.approx(1.0, rel=1e-5)
    assert all((p == 0).all() for name, p in policy.named_parameters() if name.endswith("bias"))


def test_a_policy_reads_whatever_has_observations():
    network = ActorCritic(VECTOR, VECTOR, MLP)
    policy, obs = Policy(network, {}), torch.randn(5, 3)
    params, values = network(obs)
    drawn = MemoryRows(obs, torch.zeros(5, 3), params, torch.ones(5))
    for rows in (make_batch(obs=obs), drawn, SimpleNamespace(obs=obs)):
        assert torch.equal(policy(rows)[0], params)
        assert torch.equal(policy(rows)[1], values)
        assert torch.equal(policy.dist_params(rows), params)


@pytest.mark.parametrize("rows", [torch.zeros(5, 3), np.zeros((5, 3)), {"obs": torch.zeros(5, 3)}])
def test_a_policy_refuses_observations_without_their_rows(rows):
    policy = Policy(ActorCritic(VECTOR, VECTOR, MLP), {})
    for call in (policy, policy.dist_params):
        with pytest.raises(
            ObjectiveError, match=r"not an? \w+: write policy\(batch\), or policy\(batch\._replace\(obs="
        ):
            call(rows)


def test_log_std_does_not_depend_on_the_state():
    policy = ActorCritic(VECTOR, VECTOR, MLP, log_std_init=-0.5)
    params, _ = policy(torch.randn(4, 3))
    assert (params[:, 3:] == -0.5).all()


def test_separate_torsos_by_default():
    separate = ActorCritic(VECTOR, VECTOR, MLP)
    assert separate.critic_torso is not separate.actor_torso
    assert ActorCritic(VECTOR, VECTOR, MLP, shared=True).critic_torso is None


def test_what_cannot_be_read_is_named():
    with pytest.raises(ConfigError, match=r"\(3,\).*network=mlp"):
        NatureCNN(VECTOR)
    with pytest.raises(ConfigError, match="'tahn' is unknown"):
        MLP(VECTOR, activation="tahn")


def test_spaces_survive_as_plain_data():
    for space in (
        VECTOR,
        IMAGE,
        gym_spaces.Box(np.array([-np.inf, 0], np.float64), np.array([1, np.inf]), dtype=np.float64),
        gym_spaces.Discrete(4, start=-1),
        gym_spaces.MultiDiscrete([2, 5], start=[1, 0]),
    ):
        assert spaces.restore(spaces.describe(space)) == space


def test_uint8_is_an_image_only_with_three_axes():
    vector = gym_spaces.Box(0, 255, (3,), np.uint8)
    assert encode(vector, np.full((1, 3), 51, np.uint8)).tolist() == [[51.0] * 3]
    assert Encoder(vector, normalize=True, clip=10.0).normalizer is not None
    with pytest.raises(ConfigError, match=r"env\.normalize_obs=true: images are divided by 255 instead"):
        Encoder(IMAGE, normalize=True, clip=10.0)


@pytest.mark.parametrize(("space", "torso"), [(VECTOR, MLP), (gym_spaces.Box(0, 1, (3, 48, 60)), NatureCNN)])
def test_torch_initialisation_is_torchs_own(space, torso):
    torch.manual_seed(0)
    network = ActorCritic(space, gym_spaces.Discrete(2), partial(torso, init="torch"), init="torch")
    for layer in [module for module in network.modules() if isinstance(module, nn.Linear | nn.Conv2d)]:
        bound = layer.weight[0].numel() ** -0.5  # of weights and biases alike
        assert 0.9 * bound < layer.weight.abs().max() <= bound
        assert 0 < layer.bias.abs().max() <= bound
