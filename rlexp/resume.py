"""What a checkpoint holds of a run, and how runs take it up again as if they had never stopped.

A checkpoint is of one run, also where several were trained side by side: whatever is kept agent by agent is cut to the
run's own agents, and put together again with others' when it is taken up.
"""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from rlexp import spaces
from rlexp.envs.state import copyable, restore, snapshot
from rlexp.errors import CheckpointError, UserError
from rlexp.run_writer import RunWriter
from rlexp.signals import Interrupted

if TYPE_CHECKING:
    from rlexp.trainer import Trainer

log = logging.getLogger(__name__)


def of_agents(state: Any, agents: slice, total: int) -> Any:
    """The part of nested state that is some agents' own: of tensors (total · n, ...), by agent. The rest is shared.

    Raises:
        ValueError: a tensor that is not kept agent by agent.
    """
    if isinstance(state, dict):
        return {key: of_agents(value, agents, total) for key, value in state.items()}
    if not isinstance(state, Tensor) or agents == slice(0, total):
        return state
    if state.dim() == 0 or state.shape[0] % total:
        raise ValueError(f"state of shape {tuple(state.shape)} is not kept agent by agent, of which there are {total}")
    return state.unflatten(0, (total, -1))[agents].flatten(0, 1).clone()


def together(states: Sequence[Any]) -> Any:
    """Nested state of several runs' agents as one; what `of_agents` took apart."""
    if len(states) == 1:
        return states[0]
    if isinstance(states[0], dict):
        return {key: together([state[key] for state in states]) for key in states[0]}
    return torch.cat(list(states)) if isinstance(states[0], Tensor) else states[0]


def kept_by_agent(trainer: "Trainer") -> dict[str, Any]:
    """What is kept agent by agent, of all that are trained side by side."""
    return {
        "learner": trainer.learner.state_dict(),
        "algo": trainer.algo.state_dict(),
        "scaler": None if trainer.scaler is None else trainer.scaler.state_dict(),
        "collector": trainer.collector.state_dict(),
    }


def capture(trainer: "Trainer", run: RunWriter, by_agent: dict[str, Any]) -> dict[str, Any]:
    """Everything that decides how the run goes on: tensors and plain values. by_agent: see `kept_by_agent`."""
    envs, agents, total = trainer.collector.envs, run.agents, len(trainer.streams)
    return {
        "config_hash": run.config_hash,
        "seeds": run.seeds,
        "spaces": {
            "observation": spaces.describe(envs.single_observation_space),
            "action": spaces.describe(envs.single_action_space),
        },
        **of_agents(by_agent, agents, total),
        "streams": [stream.state_dict() for stream in trainer.streams[agents]],
        "environments": _snapshot(trainer, agents),
        "trainer": {
            "update_number": trainer.update_number,
            "steps": trainer.steps[agents].tolist(),
            "episodes": trainer.episodes[agents].tolist(),
            "recent": [list(recent) for recent in trainer.recent[agents]],
            "seconds": run.seconds,
            "time": run.time,
            "rows": run.rows,
        },
    }


def _snapshot(trainer: "Trainer", agents: slice) -> Tensor | None:
    """The environments' state as bytes; None where a copy cannot be trusted."""
    if trainer.copyable is None:
        trainer.copyable = copyable(trainer.environment)
    if not trainer.copyable:
        return None
    try:
        data = snapshot(trainer.collector.envs, agents)
    except Exception as error:  # of an environment that has come to keep what it did not when it was tried
        log.warning("the state of %s can no longer be copied: %s", trainer.environment.id, error)
        trainer.copyable = False
        return None
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


def take_up(trainer: "Trainer") -> None:
    """Put freshly made agents where the checkpoints of their runs left others of the same configs.

    Raises:
        CheckpointError: a checkpoint is missing, damaged, of another config, does not fit, or is of another update than
            those it is to go on beside.
    """
    states = [run.load() for run in trainer.runs]
    try:
        _load(trainer, states)
    except Exception as error:  # whatever comes of a checkpoint that is not this run's
        if isinstance(error, UserError | Interrupted):
            raise
        line = " ".join(str(error).split())[:160]
        paths = ", ".join(str(run.checkpoint_path) for run in trainer.runs)
        raise CheckpointError(
            f"{paths}: does not fit this run ({line}); remove it, or start anew with resume=never"
        ) from error
    log.info("resumed at %d of %d steps", trainer.update_number * trainer.rows, trainer.total_rows)


def _load(trainer: "Trainer", states: list[dict[str, Any]]) -> None:
    by_agent = together([{name: s[name] for name in ("learner", "algo", "scaler", "collector")} for s in states])
    trainer.learner.load_state_dict(by_agent["learner"])
    trainer.algo.load_state_dict(by_agent["algo"])
    if trainer.scaler is not None:
        trainer.scaler.load_state_dict(by_agent["scaler"])
    numbers = {state["trainer"]["update_number"] for state in states}
    if len(numbers) > 1:
        raise ValueError(f"they stand at different updates: {sorted(numbers)}")
    trainer.update_number = numbers.pop()
    for run, state in zip(trainer.runs, states, strict=True):
        progress = state["trainer"]
        for stream, saved in zip(trainer.streams[run.agents], state["streams"], strict=True):
            stream.load_state_dict(saved)
        trainer.steps[run.agents] = np.array(progress["steps"], np.int64)
        trainer.episodes[run.agents] = np.array(progress["episodes"], np.int64)
        for recent, episodes in zip(trainer.recent[run.agents], progress["recent"], strict=True):
            recent.extend(tuple(episode) for episode in episodes)
        run.seconds = progress["seconds"]
        run.time = dict(progress.get("time", {}))
        run.rows = [int(count) for count in progress["rows"]]
    snapshots = [state["environments"] for state in states]
    if any(saved is None for saved in snapshots):
        _restart_environments(trainer)
        return
    for run, saved in zip(trainer.runs, snapshots, strict=True):
        restore(trainer.collector.envs, saved.numpy().tobytes(), run.agents)
    trainer.collector.load_state_dict(by_agent["collector"])


def _restart_environments(trainer: "Trainer") -> None:
    trainer.collector.envs.close()
    seeds = trainer.env_seeds(restart=trainer.update_number)
    trainer.collector.begin(*trainer.watch.call(trainer.environment.start, seeds, device=trainer.learner.device))
    if trainer.scaler is not None:
        trainer.scaler.running.zero_()
    log.info(
        "the state of %s cannot be copied: running episodes restart from fresh, seeded ones", trainer.environment.id
    )
