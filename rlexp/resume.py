"""What a checkpoint holds of a run, and how a run takes it up again as if it had never stopped."""

import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from rlexp import spaces
from rlexp.envs.state import copyable, restore, snapshot
from rlexp.errors import CheckpointError
from rlexp.run_folder import config_hash

if TYPE_CHECKING:
    from rlexp.trainer import Trainer

log = logging.getLogger(__name__)


def capture(run: "Trainer") -> dict[str, Any]:
    """Everything that decides how the run goes on: tensors and plain values."""
    envs = run.collector.envs
    return {
        "config_hash": config_hash(run.settings.config),
        "seeds": run.seeds,
        "spaces": {
            "observation": spaces.describe(envs.single_observation_space),
            "action": spaces.describe(envs.single_action_space),
        },
        "learner": run.learner.state_dict(),
        "algo": run.algo.state_dict(),
        "streams": [stream.state_dict() for stream in run.streams],
        "scaler": None if run.scaler is None else run.scaler.state_dict(),
        "collector": run.collector.state_dict(),
        "environments": _snapshot(run),
        "trainer": {
            "update_number": run.update_number,
            "steps": run.steps.tolist(),
            "episodes": run.episodes.tolist(),
            "recent": [list(recent) for recent in run.recent],
            "seconds": run.seconds,
        },
    }


def _snapshot(run: "Trainer") -> Tensor | None:
    """The environments' state as bytes; None where a copy cannot be trusted."""
    if run.copyable is None:
        run.copyable = copyable(run.environment)
    if not run.copyable:
        return None
    return torch.frombuffer(bytearray(snapshot(run.collector.envs)), dtype=torch.uint8)


def take_up(run: "Trainer", state: dict[str, Any]) -> None:
    """Put a freshly made run where `capture` found another of the same config.

    Raises:
        CheckpointError: the state does not fit the run.
    """
    try:
        _load(run, state)
    except (KeyError, RuntimeError, ValueError, TypeError) as error:
        line = " ".join(str(error).split())[:160]
        raise CheckpointError(
            f"{run.checkpoint_path}: does not fit this run ({line}); remove it, or start anew with resume=never"
        ) from error
    log.info("resumed at %d of %d steps", run.update_number * run.rows, run.total_rows)


def _load(run: "Trainer", state: dict[str, Any]) -> None:
    run.learner.load_state_dict(state["learner"])
    run.algo.load_state_dict(state["algo"])
    for stream, saved in zip(run.streams, state["streams"], strict=True):
        stream.load_state_dict(saved)
    if run.scaler is not None:
        run.scaler.load_state_dict(state["scaler"])
    progress = state["trainer"]
    run.update_number = progress["update_number"]
    run.steps = np.array(progress["steps"], np.int64)
    run.episodes = np.array(progress["episodes"], np.int64)
    for recent, saved in zip(run.recent, progress["recent"], strict=True):
        recent.extend(tuple(episode) for episode in saved)
    run.seconds = progress["seconds"]
    if state["environments"] is None:
        _restart_environments(run)
    else:
        restore(run.collector.envs, state["environments"].numpy().tobytes())
        run.collector.load_state_dict(state["collector"])


def _restart_environments(run: "Trainer") -> None:
    run.collector.envs.close()
    seeds = run.env_seeds(restart=run.update_number)
    run.collector.begin(*run.environment.start(seeds, device=run.learner.device))
    if run.scaler is not None:
        run.scaler.running.zero_()
    log.info("the state of %s cannot be copied: running episodes restart from fresh, seeded ones", run.environment.id)
