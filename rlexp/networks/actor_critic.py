"""The actor-critic of one agent: encoder, torso(s), and heads chosen from the spaces."""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from rlexp.errors import ConfigError, ObjectiveError
from rlexp.networks import noise
from rlexp.networks.distributions import DiagGaussian, Distribution, make_distribution
from rlexp.networks.init import Init, initialise
from rlexp.networks.normalizer import ObservationNormalizer
from rlexp.seeding import AgentStreams, seeded
from rlexp.spaces import require_readable
from rlexp.text import with_article
from rlexp.user_code import where_defined

OF_OBJECTIVE = "algo"  # submodule of a network that holds the objective's own: see `Algorithm.modules`
Torso = Callable[[spaces.Box], nn.Module]


class Encoder(nn.Module):
    """Encodes raw observations as floats.

    Box: float32, optionally normalised; images (uint8 with three axes) are divided by 255. Discrete: one-hot.
    MultiDiscrete: concatenated one-hots. `space` is the Box of the result, the input space of torsos. Raises
    ConfigError for any other observation space, and for normalisation of images.
    """

    def __init__(self, space: spaces.Space, *, normalize: bool, clip: float) -> None:
        super().__init__()
        self.sizes: list[int] = []
        self.pixels = isinstance(space, spaces.Box) and space.dtype == np.uint8 and len(space.shape) == 3
        if self.pixels and normalize:
            raise ConfigError("env.normalize_obs=true: images are divided by 255 instead; set env.normalize_obs=false")
        self.normalizer: ObservationNormalizer | None = None
        if isinstance(space, spaces.Box):
            self.space = spaces.Box(-np.inf, np.inf, space.shape or (1,), np.float32)
            self.scalar = not space.shape
            if normalize:
                self.normalizer = ObservationNormalizer(self.space.shape, clip)
        elif isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
            nvec = np.atleast_1d(space.n if isinstance(space, spaces.Discrete) else space.nvec)
            if nvec.ndim != 1:
                raise ConfigError(f"observation space {space}: only one-dimensional MultiDiscrete is supported")
            self.sizes = [int(n) for n in nvec]
            self.starts = [int(s) for s in np.atleast_1d(space.start)]
            self.space = spaces.Box(0.0, 1.0, (sum(self.sizes),), np.float32)
            self.scalar = isinstance(space, spaces.Discrete)
        else:
            require_readable(space)

    def forward(self, obs: Tensor) -> Tensor:
        """(..., *raw shape) -> (..., *space.shape), float32."""
        x = obs.unsqueeze(-1) if self.scalar else obs
        if self.sizes:
            # not F.one_hot, whose range check cannot be vmapped
            classes = [torch.arange(s, s + n, device=x.device) for n, s in zip(self.sizes, self.starts, strict=True)]
            return torch.cat([x[..., i, None] == c for i, c in enumerate(classes)], -1).float()
        x = x.float()
        if self.pixels:
            return x / 255.0
        return x if self.normalizer is None else self.normalizer(x)


class ActorCritic(nn.Module):
    """π_θ and V of one agent: ``network(obs) -> (dist_params (..., P), values (...))``.

    Separate torsos for actor and critic, or one for both (`shared`). The log standard deviation of continuous actions
    is a state-independent parameter. `torso` is called with the encoded Box space and returns a module with
    `out_features`; other settings are explained in conf/network/mlp.yaml and conf/env/cartpole.yaml.
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        torso: Torso,
        *,
        shared: bool = False,
        log_std_init: float = 0.0,
        init: Init = "orthogonal",
        normalize_obs: bool = False,
        clip_obs: float = 10.0,
    ) -> None:
        super().__init__()
        self.distribution: Distribution = make_distribution(action_space)
        self.encoder = Encoder(observation_space, normalize=normalize_obs, clip=clip_obs)
        self.actor_torso = torso(self.encoder.space)
        self.critic_torso = None if shared else torso(self.encoder.space)
        width: Any = getattr(self.actor_torso, "out_features", None)
        if isinstance(width, bool) or not isinstance(width, int | np.integer) or width < 1:
            location = where_defined(type(self.actor_torso), "__init__") or type(self.actor_torso).__name__
            what = f"out_features={width!r}: must be the number of features, at least 1"
            raise ConfigError(f"network: {location}: {what}")
        gaussian = isinstance(self.distribution, DiagGaussian)
        outputs = self.distribution.noise_size if gaussian else self.distribution.num_params
        self.log_std = nn.Parameter(torch.full((outputs,), float(log_std_init))) if gaussian else None
        self.actor_head = initialise(nn.Linear(int(width), outputs), init, 0.01)
        self.critic_head = initialise(nn.Linear(int(width), 1), init, 1.0)

    def forward(self, obs: Tensor, actor_only: bool = False) -> tuple[Tensor, Tensor | None]:
        """Packed distribution parameters (..., P), and values (...) unless `actor_only`."""
        encoded = self.encoder(obs)
        features = self.actor_torso(encoded)
        params = self.actor_head(features)
        if self.log_std is not None:
            params = torch.cat([params, self.log_std.expand_as(params)], -1)
        if actor_only:
            return params, None
        if self.critic_torso is not None:
            features = self.critic_torso(encoded)
        return params, self.critic_head(features).squeeze(-1)


class Rows(Protocol):
    """What a policy reads: a `Batch`, a `Rollout`, rows of a replay; an objective passes it whole."""

    @property
    def obs(self) -> Tensor:
        """Raw observations (..., *space.shape)."""


class Policies(Protocol):
    """All agents' policies, the argument of `Algorithm.rewards`."""

    def each(self, function: Callable[..., Any], *data: Any) -> Any:
        """``function(policy, *data)``, written for one agent, for all: data and results (A, ...); no gradients."""


class Policy:
    """One agent's π_θ and V, the `policy` argument of a loss: a network and the tensors to call it with.

    average: tensors by which the averaged policy differs, if the objective has one; rows: of the minibatch, which
    the batch has, a part of them where ranks share it.
    """

    def __init__(
        self,
        network: ActorCritic,
        tensors: dict[str, Tensor],
        key: Tensor | tuple[()] = (),
        average: dict[str, Tensor] | None = None,
        rows: slice = slice(0, 0),
    ) -> None:
        self._network, self._tensors, self._key, self._average = network, tensors, key, average or {}
        self._rows = rows
        self.draws = 0  # calls of `rand_like` and `randn_like`
        self._depth = noise.depth() if isinstance(key, Tensor) else 0
        self.distribution = network.distribution

    def _run(self, rows: Rows, actor_only: bool) -> Any:
        if not hasattr(rows, "obs"):
            wanted = "write policy(batch), or policy(batch._replace(obs=...)) for transformed observations"
            raise ObjectiveError(f"policy takes the batch, not {with_article(type(rows).__name__)}: {wanted}")
        return torch.func.functional_call(self._network, self._tensors, (rows.obs, actor_only))

    def __call__(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Packed distribution parameters (..., P) and values (...). Raises ObjectiveError for a tensor."""
        return self._run(rows, False)

    def dist_params(self, rows: Rows) -> Tensor:
        """Packed distribution parameters (..., P), without running the critic."""
        return self._run(rows, True)[0]

    @property
    def average(self) -> "Policy":
        """The policy of the averaged weights θ̄, without gradient: see `Algorithm.average_decay`."""
        if not self._average:
            raise ObjectiveError("policy.average: there is none; `average_decay` of the objective returns None")
        return Policy(self._network, self._tensors | self._average)

    def module(self, name: str) -> Callable[..., Any]:
        """A network of the objective's own, with this agent's parameters: see `Algorithm.modules`."""
        held: Any = getattr(self._network, OF_OBJECTIVE, {})
        if name not in held:
            known = ", ".join(held) or "none"
            raise ObjectiveError(f"policy.module({name!r}): there is no such module; `modules(spaces)` returns {known}")
        prefix = f"{OF_OBJECTIVE}.{name}."
        tensors = {key.removeprefix(prefix): x for key, x in self._tensors.items() if key.startswith(prefix)}
        return lambda *args: torch.func.functional_call(held[name], tensors, args)

    def rand_like(self, x: Tensor) -> Tensor:
        """Uniform random numbers in [0, 1), of the shape and dtype of x, from the agent's random stream.

        The same whether the agent is trained alone or side by side with others, compiled or resumed.

        Raises:
            ObjectiveError: called outside a loss, for a non-float x, inside a nested `torch.vmap`, or when
                `torch.utils.checkpoint` recomputes part of a loss.
        """
        return noise.uniform(x, self._next_key(x), self.draws, self._first(x))

    def randn_like(self, x: Tensor) -> Tensor:
        """Standard normal random numbers; otherwise like `rand_like`."""
        return noise.normal(x, self._next_key(x), self.draws, self._first(x))

    def _first(self, x: Tensor) -> int:
        """Index of its first element in a tensor of the whole minibatch, if x has as many rows as the batch.

        By its length alone: see training/README.md for replays that have as many.
        """
        rows = self._rows.stop - self._rows.start
        per_row = x.numel() // rows if rows and x.dim() and len(x) == rows else 0
        return self._rows.start * per_row

    def _next_key(self, x: Tensor) -> Tensor:
        noise.require_drawable(x, self._depth)
        if not isinstance(self._key, Tensor):
            raise ObjectiveError("policy.rand_like and randn_like can be used only inside a loss")
        self.draws += 1
        return self._key

    def parameters(self) -> list[Tensor]:
        """The agent's trainable parameters, e.g. for weight decay: gradients reach these, not those of the module."""
        return [self._tensors[name] for name, param in self._network.named_parameters() if param.requires_grad]


def attach(network: ActorCritic, modules: dict[str, nn.Module]) -> ActorCritic:
    """The network with the objective's own modules; ConfigError if it has a submodule of that name."""
    if modules:
        if hasattr(network, OF_OBJECTIVE):
            raise ConfigError(f"network: has an attribute {OF_OBJECTIVE}, where modules of the objective go; rename it")
        network.add_module(OF_OBJECTIVE, nn.ModuleDict(modules))
    return network


def build_networks(build: Callable[[], ActorCritic], streams: list[AgentStreams]) -> list[ActorCritic]:
    """One network per agent, with the global streams seeded by the agent's stream during initialisation."""
    networks = []
    for stream in streams:
        with seeded(stream.init):
            networks.append(build())
    owners: dict[int, int] = {}
    for agent, network in enumerate(networks):
        for name, tensor in (*network.named_parameters(), *network.named_buffers()):
            if tensor.numel() and owners.setdefault(tensor.untyped_storage().data_ptr(), agent) != agent:
                what = "is one tensor shared by several agents, each of which would train it; copy it"
                raise ConfigError(f"network: {name} {what}")
    return networks
