"""Checkpoint contents and exact resume.

A checkpoint belongs to one run, even if several are trained side by side: per-agent state is sliced to the run's
agents when saved, and joined with that of other runs when restored.
"""

import logging
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlexp import spaces
from rlexp.algos.base import Algorithm
from rlexp.algos.return_scaler import ReturnScaler
from rlexp.checks.saved_state import require_loadable, undividable
from rlexp.envs import Environment
from rlexp.envs.checks import close
from rlexp.envs.snapshot import copyable, move, snapshot
from rlexp.envs.snapshot import restore as restore_environments
from rlexp.errors import CheckpointError, UserError
from rlexp.plain.by_agent import Division, join_agents, select_agents
from rlexp.seeding import AgentStreams, env_seeds
from rlexp.signals import Interrupted
from rlexp.text import one_line
from rlexp.training.collector import Collector
from rlexp.training.divergence import Divergence
from rlexp.training.games import Games
from rlexp.training.how import Choice, compiled_in_fact
from rlexp.training.kept import Kept
from rlexp.training.learner import Learner
from rlexp.training.ranks import Ranks
from rlexp.training.recorder import Recorder
from rlexp.watch import Watch

log = logging.getLogger(__name__)


class Resumable:
    """The part of `Trainer` that saves and restores its state; attributes are those of `Trainer`."""

    environment: Environment
    algo: Algorithm
    learner: Learner
    scaler: ReturnScaler | None
    collector: Collector
    streams: list[AgentStreams]
    runs: list[Recorder]
    watch: Watch
    how: dict[str, Choice]
    rows: int
    num_updates: int
    update_number: int
    steps: np.ndarray
    games: Games
    kept: Kept | None
    alive: np.ndarray
    unevaluated: list[Recorder]
    copyable: bool | None
    ranks: Ranks
    division: Division

    @property
    def total_rows(self) -> int:
        """Rows per agent of the whole run: environment steps, dummies included."""
        return self.num_updates * self.rows

    def env_seeds(self, restart: int = 0) -> list[list[int]]:
        """Seeds of all environments, one list per agent; `restart` as in `seeding.env_seeds`."""
        return [env_seeds(stream.seed, self.environment.num_envs, restart) for stream in self.streams]

    def kept_by_agent(self) -> dict[str, Any]:
        """Per-agent state of all agents trained side by side."""
        return {
            "learner": self.learner.state_dict(),
            "algo": self.algo.state_dict(),
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
            "collector": self.collector.state_dict(),
            **({} if self.kept is None else {"kept": self.kept.state_dict()}),
        }

    def save(self, runs: list[Recorder] | None = None) -> None:
        """Write the checkpoints of some runs, by default all: everything needed for exact resume."""
        by_agent = self.kept_by_agent()
        require_loadable(self.algo, by_agent["algo"])  # which may be of another kind than in the dry run
        how = self.how | {"compiled": compiled_in_fact(self.how["compiled"], self.learner.notes.uncompiled)}
        for run in self.runs if runs is None else runs:
            run.save(self.capture(run, by_agent), how)

    def capture(self, run: Recorder, by_agent: dict[str, Any]) -> dict[str, Any]:
        """A run's checkpoint: all state needed for exact resume, as tensors and plain values.

        by_agent: the result of `kept_by_agent`.
        """
        envs, agents, total = self.collector.envs, run.agents, len(self.streams)
        others = {name: by_agent[name] for name in by_agent if name != "algo"}
        try:
            algo = select_agents(by_agent["algo"], agents, total, self.division)
        except ValueError as error:  # it may have grown into what cannot be divided
            raise undividable(self.algo, str(error)) from None
        return {
            "config_hash": run.config_hash,
            "seeds": run.seeds,
            "spaces": {
                "observation": spaces.describe(envs.single_observation_space),
                "action": spaces.describe(envs.single_action_space),
            },
            "algo": algo,
            **select_agents(others, agents, total),
            "streams": [stream.state_dict() for stream in self.streams[agents]],
            "environments": self._snapshot(agents),
            "trainer": {
                "update_number": self.update_number,
                "steps": self.steps[agents].tolist(),
                **self.games.state_of(agents),
                "unevaluated": run in self.unevaluated,
                "evaluating": run.evaluating,
                "seconds": run.seconds,
                "time": run.time,
                "rows": run.rows,
                "diverged": {seed: entry._asdict() for seed, entry in run.diverged.items()},
            },
        }

    def _snapshot(self, agents: slice) -> Tensor | list[Tensor] | None:
        """The environments' state as bytes, of several ranks each one's; None where it cannot be copied exactly."""
        if self.ranks.size == 1:
            return self._own_snapshot(agents)
        each = self.ranks.gather(self._own_snapshot(agents))
        return None if any(share is None for share in each) else each

    def _own_snapshot(self, agents: slice) -> Tensor | None:
        if self.copyable is None:
            self.copyable = copyable(self.environment)
        if not self.copyable:
            return None
        try:
            data = snapshot(self.collector.envs, agents)
        except Exception as error:  # an environment may have acquired new state since the check
            log.warning("the state of %s can no longer be copied: %s", self.environment.id, error)
            self.copyable = False
            return None
        return torch.frombuffer(bytearray(data), dtype=torch.uint8)

    def restore(self) -> None:
        """Restore the runs' checkpoints into a new trainer of the same configs.

        Raises:
            CheckpointError: a checkpoint is missing, damaged, of another config, of another update than those of the
                other runs, or does not fit.
        """
        states = self.ranks.tell([run.load() for run in self.runs] if self.ranks.first else None)
        try:
            self._load(states)
        except Exception as error:  # anything, if the checkpoint is not this run's
            if isinstance(error, UserError | Interrupted):
                raise
            line = one_line(str(error), 160)
            paths = ", ".join(str(run.checkpoint_path) for run in self.runs)
            raise CheckpointError(
                f"{paths}: does not fit this run ({line}); remove it, or start from scratch with resume=never"
            ) from error
        log.info("resumed at %d of %d steps", self.update_number * self.rows, self.total_rows)

    def begin_together(self) -> None:
        """Start from what the first rank starts from, which it may have read from another run."""
        by_agent = self.ranks.tell(self.kept_by_agent() if self.ranks.first else None)
        if not self.ranks.first:
            self._load_by_agent(by_agent)

    def _load_by_agent(self, by_agent: dict[str, Any]) -> None:
        if self.kept is not None:
            self.kept.load_state_dict(by_agent["kept"])
        self.learner.load_state_dict(by_agent["learner"])
        self.algo.load_state_dict(by_agent["algo"])
        if self.scaler is not None:
            self.scaler.load_state_dict(by_agent["scaler"])

    def _load(self, states: list[dict[str, Any]]) -> None:
        numbers = {state["trainer"]["update_number"] for state in states}
        if len(numbers) > 1:
            raise ValueError(f"they are from different updates: {sorted(numbers)}")
        names = self.kept_by_agent().keys() - {"algo"}
        by_agent = join_agents([{name: state[name] for name in names} for state in states])
        by_agent["algo"] = join_agents([state["algo"] for state in states], self.division, equal=True)
        self._load_by_agent(by_agent)
        self.update_number = numbers.pop()
        exact = True
        for run, state in zip(self.runs, states, strict=True):
            progress = state["trainer"]
            for stream, saved in zip(self.streams[run.agents], state["streams"], strict=True):
                exact &= stream.load_state_dict(saved, self.update_number)
            self.steps[run.agents] = np.array(progress["steps"], np.int64)
            self.games.load_state_of(run.agents, progress)
            run.evaluating = progress.get("evaluating", 0.0)
            run.seconds = progress["seconds"]
            run.time = dict(progress.get("time", {}))
            run.rows = [int(count) for count in progress["rows"]]
            run.diverged = {seed: Divergence(**entry) for seed, entry in progress.get("diverged", {}).items()}
            self.alive[run.agents] = [seed not in run.diverged for seed in run.seeds]
        if not exact:
            log.warning("saved on another kind of device: random streams start anew, so the rest is not as it would be")
        self.unevaluated = [
            run for run, state in zip(self.runs, states, strict=True) if state["trainer"].get("unevaluated")
        ]
        snapshots = [state["environments"] for state in states]
        if any(saved is None for saved in snapshots) or not self._restore_environments(snapshots):
            self._restart_environments("copied" if None in snapshots else "divided among other processes")
            return
        self.collector.load_state_dict(by_agent["collector"])

    def _restore_environments(self, snapshots: list[Tensor | list[Tensor]]) -> bool:
        """Restore the state of the environments; returns whether it could be divided among these ranks."""
        for run, saved in zip(self.runs, snapshots, strict=True):
            shares = [share.numpy().tobytes() for share in (saved if isinstance(saved, list) else [saved])]
            if len(shares) == self.ranks.size:
                restore_environments(self.collector.envs, shares[self.ranks.rank], run.agents)
            elif not self._divide(shares, run.agents):
                return False
        return True

    def _divide(self, shares: list[bytes], agents: slice) -> bool:
        """Restore shares of another number of ranks; returns whether the environments can be divided."""
        count, device = self.environment.num_envs, self.learner.device
        mine, each = range(count)[self.ranks.share(count)], count // len(shares)
        for number, data in enumerate(shares):
            theirs = range(number * each, (number + 1) * each)
            wanted = range(max(mine.start, theirs.start), min(mine.stop, theirs.stop))
            if not wanted:
                continue
            part = slice(theirs.start, theirs.stop)
            seeds = self.env_seeds()[agents]
            source = self.watch.call(self.environment.start, seeds, device=device, share=part)[0]
            restore_environments(source, data)
            places = [(k - theirs.start, k - mine.start) for k in wanted]
            moved = move(source, self.collector.envs, places, agents)
            close(source, self.environment.id)
            if not moved:
                return False
        return True

    def _restart_environments(self, what: str) -> None:
        close(self.collector.envs, self.environment.id)
        seeds, share = self.env_seeds(restart=self.update_number), self.ranks.share(self.environment.num_envs)
        self.collector.begin(*self.watch.call(self.environment.start, seeds, device=self.learner.device, share=share))
        if self.scaler is not None:
            self.scaler.running.zero_()
        log.info(
            "the state of %s cannot be %s: running episodes are replaced by new, seeded ones", self.environment.id, what
        )
