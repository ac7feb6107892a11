"""A run read from its folder: its config, its networks, and policies to act with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor
from yaml import YAMLError

from rlexp import spaces
from rlexp.config.identity import with_current_names
from rlexp.envs import Environment
from rlexp.errors import CheckpointError, UserError
from rlexp.networks.actor_critic import OF_OBJECTIVE, ActorCritic, build_networks
from rlexp.parts import network_builder
from rlexp.run import checkpoint
from rlexp.run.names import folder_named, missing_folder
from rlexp.run.trust import require_trusted
from rlexp.seeding import AgentStreams
from rlexp.text import one_line, sanitize
from rlexp.training.divergence import Divergence
from rlexp.training.watching import Episode
from rlexp.watch import Watch

TO_ACT: Mapping[str, type] = {"network": ActorCritic}  # config groups needed to act, and their classes


@dataclass
class SavedRun:
    """A run read from its folder: its config, and its networks from the checkpoint."""

    folder: Path
    config: DictConfig  # plain values
    seeds: list[int]
    networks: list[ActorCritic]
    observation_shape: tuple[int, ...]
    observation_dtype: torch.dtype
    spaces: dict[str, Any]  # observation and action, as plain data

    def policy(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Distribution parameters (A, E, P) and values (A, E) of raw observations (A, E, ...)."""
        outputs = [network(o) for network, o in zip(self.networks, obs, strict=True)]
        return torch.stack([params for params, _ in outputs]), torch.stack([values for _, values in outputs])

    def episode(self, environment: Environment, agent: int, seed: int, *, observation: bool, watch: Watch) -> Episode:
        """An episode of one agent, to be watched; observation: with what the policy sees beside it."""
        network = self.networks[agent]
        encode = network.encoder if observation else None
        return Episode(
            lambda obs: network(obs, True)[0], network.distribution, environment, seed, watch=watch, encode=encode
        )


def load_run(
    run: str | Path,
    seeds: list[int] | None = None,
    *,
    wanted: Mapping[str, type] = TO_ACT,
    trust: Sequence[str] = (),
) -> SavedRun:
    """Read a run's config and its agents' networks, all or those of some seeds. No environment is built.

    Args:
        run: the run's folder, or <study>/<hash>, the hash at its end.
        seeds: of the agents; by default all that have not diverged.
        wanted: config groups that the caller builds, and the class of each.
        trust: see `trust.require_trusted`.

    Raises:
        CheckpointError: no run there, a damaged config or checkpoint, or a missing seed.
        TrustError: untrusted code would run.
    """
    folder = folder_named(run)
    path = folder / ".hydra" / "config.yaml"
    if not path.is_file():
        runs = sorted(found.parent for found in folder.glob("*/run.json"))
        hint = f"; it is a study; one of its runs is {runs[0]}" if runs else ""
        missing = f"there is no run in that folder (no .hydra/config.yaml){hint}"
        why = missing if folder.is_dir() else missing_folder(folder).partition(": ")[2]
        raise CheckpointError(f"run={run}: {why}")
    try:
        plain: Any = with_current_names(OmegaConf.to_container(OmegaConf.load(path), resolve=False))
        config = OmegaConf.create({key: plain[key] for key in ("env", "network")})
    except (OSError, ValueError, TypeError, KeyError, YAMLError, OmegaConfBaseException) as error:
        raise CheckpointError(f"{path}: cannot be read ({one_line(error, 120)}); is it a run's config?") from None
    require_trusted({key: plain[key] for key in ("env", "network")}, wanted, trust)
    state = checkpoint.load(folder / "checkpoint.pt")
    held: list[int] = state.get("seeds") or []
    try:
        for seed in seeds or ():
            if seed not in held:
                trained = f"seeds {held[0]} to {held[-1]}" if len(held) > 1 else f"seed {held[0]} only"
                raise CheckpointError(f"seed={seed}: the run in {run} has {trained}")
        diverged = {seed: Divergence(**at) for seed, at in state.get("trainer", {}).get("diverged", {}).items()}
        alive = [seed for seed in held if seed not in diverged]
        for seed in seeds or ():
            if seed in diverged:
                others = " or ".join(f"seed={k}" for k in alive) or "another run, as all have"
                why = sanitize(one_line(diverged[seed].describe(), 160))
                raise CheckpointError(f"seed={seed}: it {why}, in {run}; use {others}")
        if not alive:
            raise CheckpointError(f"run={run}: all of its seeds have diverged, and none has a policy")
        return _restore(folder, config, state, list(seeds or alive))
    except Exception as error:  # anything, with the checkpoint of another run
        if isinstance(error, UserError):
            raise
        raise CheckpointError(f"{folder}: its checkpoint does not fit its config ({one_line(error, 160)})") from error


def _restore(folder: Path, config: DictConfig, state: dict[str, Any], seeds: list[int]) -> SavedRun:
    """Build the networks of some seeds and load their tensors."""
    observation_space, action_space = (spaces.restore(state["spaces"][name]) for name in ("observation", "action"))
    make = network_builder(config, observation_space, action_space)
    networks = []
    for seed in seeds:
        # built from the agent's stream: a network may keep random values that are not in its state
        (network,) = build_networks(make, [AgentStreams.make(seed, torch.device("cpu"))])
        tensors = dict(network.named_parameters()) | dict(network.named_buffers())
        with torch.no_grad():
            kept = state.get("kept", state["learner"])  # those that evaluation.weights names
            for name, tensor in kept["tensors"].items():
                if name.startswith(f"{OF_OBJECTIVE}."):  # not needed to act
                    continue
                tensors[name].copy_(tensor[state["seeds"].index(seed)])
        networks.append(network)
    shape, dtype = tuple(observation_space.shape or ()), spaces.storage_dtype(observation_space)
    return SavedRun(folder, config, seeds, networks, shape, dtype, state["spaces"])


class FrozenPolicy:
    """Acts on raw observations of the environment, single or batched; returns actions for `env.step`."""

    def __init__(
        self, network: ActorCritic, shape: tuple[int, ...], dtype: torch.dtype, deterministic: bool, seed: int
    ) -> None:
        self.network, self.shape, self.dtype, self.deterministic = network, shape, dtype, deterministic
        self.generator = torch.Generator().manual_seed(seed)

    @torch.no_grad()
    def __call__(self, obs: Any) -> np.ndarray:
        """Actions for observations (..., *observation shape): (..., *action shape).

        For a single observation of a Discrete space the action is a number.
        """
        x = torch.as_tensor(np.asarray(obs)).to(self.dtype)
        lead = x.shape[: x.dim() - len(self.shape)]
        params, _ = self.network(x.reshape(-1, *self.shape), True)  # one batch axis, as in training
        params = params.reshape(*lead, params.shape[-1])
        distribution = self.network.distribution
        if self.deterministic:
            action = distribution.mode(params)
        else:
            action = distribution.sample(params, distribution.draw_noise(params.shape[:-1], self.generator))
        return distribution.to_env(action.numpy())[()]  # a 0-d array is not hashable, a number is


def load_policy(
    run: str | Path, seed: int | None = None, *, deterministic: bool = True, trust: Sequence[str] = ()
) -> FrozenPolicy:
    """Load the policy of one agent of a run, normaliser included.

    Args:
        run: the run's folder, or <study>/<hash>, the hash at its end.
        seed: the agent's seed; by default the run's first that has not diverged.
        deterministic: the mode instead of a sample.
        trust: packages besides rlexp and torch.nn whose networks may be built, which runs their code.

    Raises:
        CheckpointError: no such run or seed, or a damaged checkpoint.
        TrustError: its network is from another package.
    """
    saved = load_run(run, None if seed is None else [seed], trust=trust)
    shape, dtype = saved.observation_shape, saved.observation_dtype
    return FrozenPolicy(saved.networks[0], shape, dtype, deterministic, saved.seeds[0])
