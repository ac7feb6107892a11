"""Frozen policies: evaluation on a fixed list of seeds, and loading one to act with.

python -m rlexp.evaluate run=outputs/... [episodes=20] [deterministic=true] [max_steps=100000] [trust=package,...]

trust: packages besides rlexp and torch whose networks and environments the run may have made, which runs their code.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor
from yaml import YAMLError

from rlexp import spaces
from rlexp.build import build_environment, network_builder
from rlexp.config.identity import with_current_names
from rlexp.config.schema import EvaluationConfig
from rlexp.envs import Environment
from rlexp.errors import CheckpointError, ConfigError, UserError, command
from rlexp.jobs.init_from import locate
from rlexp.networks.actor_critic import ActorCritic, build_networks
from rlexp.run import checkpoint
from rlexp.run.names import no_folder
from rlexp.run.record import RunRecord
from rlexp.run.trust import require_trusted
from rlexp.run.writer import write_evaluation
from rlexp.seeding import AgentStreams
from rlexp.training.evaluation import evaluate, summarize
from rlexp.watch import Watch

WANTED: Mapping[str, type] = {"network": ActorCritic}  # of a config, to act


@dataclass
class SavedRun:
    """A run read back: its config, and its networks as they stood at the checkpoint."""

    folder: Path
    config: DictConfig  # plain values
    seeds: list[int]
    networks: list[ActorCritic]
    observation_shape: tuple[int, ...]
    observation_dtype: torch.dtype

    def policy(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Distribution parameters (A, E, P) and values (A, E) of raw observations (A, E, ...)."""
        outputs = [network(o) for network, o in zip(self.networks, obs, strict=True)]
        return torch.stack([params for params, _ in outputs]), torch.stack([values for _, values in outputs])


def load_run(
    run: str | Path,
    seeds: list[int] | None = None,
    *,
    wanted: Mapping[str, type] = WANTED,
    trust: Sequence[str] = (),
) -> SavedRun:
    """Read a run's config and its agents' networks, all or those of some seeds. No environment is made.

    Args:
        run: the run's folder, or <study>/<hash>, the hash that it ends in.
        seeds: of the agents; by default all.
        wanted: config groups that the caller makes something of, and of what class that is.
        trust: see `trust.require_trusted`.

    Raises:
        CheckpointError: no run there, a damaged config or checkpoint, or a seed that it does not hold.
        TrustError: it would have code run that is nobody's whom one trusts.
    """
    folder = locate(Path(run)) or Path(run)
    path = folder / ".hydra" / "config.yaml"
    if not path.is_file():
        raise CheckpointError(f"run={run}: {_why_no_run(folder)}")
    try:
        plain: Any = with_current_names(OmegaConf.to_container(OmegaConf.load(path), resolve=False))
        config = OmegaConf.create({key: plain[key] for key in ("env", "network")})
    except (OSError, ValueError, TypeError, KeyError, YAMLError, OmegaConfBaseException) as error:
        line = " ".join(f"{type(error).__name__}: {error}".split())[:120]
        raise CheckpointError(f"{path}: cannot be read ({line}); is it a run's config?") from None
    require_trusted({key: plain[key] for key in ("env", "network")}, wanted, trust)
    state = checkpoint.load(folder / "checkpoint.pt")
    held: list[int] = state.get("seeds") or []
    for seed in seeds or ():
        if seed not in held:
            theirs = f"seeds {held[0]} to {held[-1]}" if len(held) > 1 else f"seed {held[0]} alone"
            raise CheckpointError(f"seed={seed}: the run in {run} holds {theirs}")
    try:
        return _restore(folder, config, state, list(seeds or held))
    except Exception as error:  # whatever comes of a checkpoint that is another run's
        if isinstance(error, UserError):
            raise
        line = " ".join(f"{type(error).__name__}: {error}".split())[:160]
        raise CheckpointError(f"{folder}: its checkpoint does not fit its config ({line})") from error


def _why_no_run(folder: Path) -> str:
    if not folder.is_dir():
        return no_folder(folder).partition(": ")[2]
    runs = sorted(path.parent for path in folder.glob("*/run.json"))
    hint = f"; it is a study, of which one run is {runs[0]}" if runs else ""
    return f"there is no run in that folder (no .hydra/config.yaml){hint}"


def _restore(folder: Path, config: DictConfig, state: dict[str, Any], seeds: list[int]) -> SavedRun:
    """Networks of some seeds, with the tensors that they had."""
    observation_space, action_space = (spaces.restore(state["spaces"][name]) for name in ("observation", "action"))
    make = network_builder(config, observation_space, action_space)
    networks = []
    for seed in seeds:
        # from the agent's own stream: a network may keep what it drew, and is in no state
        (network,) = build_networks(make, [AgentStreams.make(seed, torch.device("cpu"))])
        own = dict(network.named_parameters()) | dict(network.named_buffers())
        with torch.no_grad():
            for name, tensor in state["learner"]["tensors"].items():
                own[name].copy_(tensor[state["seeds"].index(seed)])
        networks.append(network)
    shape, dtype = tuple(observation_space.shape or ()), spaces.storage_dtype(observation_space)
    return SavedRun(folder, config, seeds, networks, shape, dtype)


class FrozenPolicy:
    """Acts on raw observations as the environment gives them, single or batched; returns actions it takes."""

    def __init__(
        self, network: ActorCritic, shape: tuple[int, ...], dtype: torch.dtype, deterministic: bool, seed: int
    ) -> None:
        self.network, self.shape, self.dtype, self.deterministic = network, shape, dtype, deterministic
        self.generator = torch.Generator().manual_seed(seed)

    @torch.no_grad()
    def __call__(self, obs: Any) -> np.ndarray:
        """Actions for observations (..., *observation shape): (..., *action shape).

        Of a single observation the action is what `env.step` takes: a number where the space is Discrete.
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
        return distribution.to_env(action.numpy())[()]  # an array without axes is no key of a table, a number is


def load_policy(
    run: str | Path, seed: int | None = None, *, deterministic: bool = True, trust: Sequence[str] = ()
) -> FrozenPolicy:
    """The policy of one agent of a run, normaliser included.

    Args:
        run: the run's folder, or <study>/<hash>, the hash that it ends in.
        seed: the agent's seed; by default the run's first.
        deterministic: the most likely action instead of a drawn one.
        trust: packages besides rlexp and torch.nn whose networks may be made, which runs their code.

    Raises:
        CheckpointError: no such run or seed, or a damaged checkpoint.
        TrustError: its network is of another package.
    """
    saved = load_run(run, None if seed is None else [seed], trust=trust)
    shape, dtype = saved.observation_shape, saved.observation_dtype
    return FrozenPolicy(saved.networks[0], shape, dtype, deterministic, saved.seeds[0])


@dataclass
class _Arguments(EvaluationConfig):
    run: str = MISSING
    trust: str = ""


def run_command(words: list[str]) -> None:
    """Evaluate every agent of a run and write evaluation.json into its folder.

    Raises:
        ConfigError: an unknown setting or a wrong type.
        CheckpointError: no run there, or a damaged one.
    """
    if "run=" in words:
        raise ConfigError("run=: say which run, as in run=outputs/<study>/<run>")
    try:
        options = cast(_Arguments, OmegaConf.merge(OmegaConf.structured(_Arguments), OmegaConf.from_cli(words)))
        run = options.run
    except (OmegaConfBaseException, YAMLError) as error:
        line = str(error).splitlines()[0]
        raise ConfigError(f"{line}; the settings are run, episodes, deterministic, max_steps, trust") from None
    for name, least in (("episodes", 1), ("max_steps", 1)):
        if getattr(options, name) < least:
            raise ConfigError(f"{name}={getattr(options, name)}: must be at least {least}")
    trust = [name.strip() for name in options.trust.split(",") if name.strip()]
    saved = load_run(run, wanted={**WANTED, "env": Environment}, trust=trust)
    environment = build_environment(saved.config)
    watch = Watch(environment.timeout, environment.id)
    settings = {name: getattr(options, name) for name in ("episodes", "deterministic", "max_steps")}
    with watch.on():
        results = evaluate(
            saved.policy,
            saved.networks[0].distribution,
            environment,
            len(saved.seeds),
            device=torch.device("cpu"),
            watch=watch,
            **settings,
        )
    content = summarize(saved.seeds, results, settings)
    write_evaluation(saved.folder, content)
    record = RunRecord(saved.folder)
    if record.status == "done":
        record.update(files=record.digests())
    for agent in content["agents"]:
        print(f"seed {agent['seed']}: mean return {agent['mean_return']:.2f} over {settings['episodes']} episodes")


def main(arguments: list[str] | None = None) -> None:
    """Entry point."""
    command("rlexp.evaluate", __doc__, run_command, arguments)


if __name__ == "__main__":
    main()
