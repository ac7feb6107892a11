"""Episode memory: each agent's best episodes, with the action distributions recorded during them."""

from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from rlexp.data import Rollout, RunSpec

FIELDS = ("obs", "actions", "dist_params")


class MemoryRows(NamedTuple):
    """Rows drawn from remembered episodes; weight 0 while there is none."""

    obs: Tensor  # raw
    actions: Tensor
    dist_params: Tensor  # of the behaviour policy, as recorded
    weights: Tensor


class EpisodeMemory:
    """Keeps the `top_k` episodes of each agent, with at most `max_steps` rows each.

    A longer episode is kept as a uniform sample of its rows (reservoir sampling, Vitter 1985). Rows of running
    episodes are held in buffers of the same size until the episode ends.

    Args:
        spec: agents, environments, random streams.
        top_k: K, episodes kept per agent.
        max_steps: M, rows kept per episode.
        keep: "best": highest raw return; "random": a uniform sample of all finished episodes.
        replace_on_tie: a new episode that equals the worst one kept replaces it.
    """

    def __init__(
        self,
        spec: RunSpec,
        *,
        top_k: int = 1,
        max_steps: int = 512,
        keep: Literal["best", "random"] = "best",
        replace_on_tie: bool = True,
    ) -> None:
        self.spec, self.top_k, self.max_steps = spec, top_k, max_steps
        self.keep, self.replace_on_tie = keep, replace_on_tie
        slots = (spec.num_agents, top_k)
        self.returns = np.full(slots, -np.inf)
        self.lengths = np.zeros(slots, np.int64)  # steps of the whole episode
        self.counts = np.zeros(slots, np.int64)  # rows kept
        self.recorded_at = np.zeros(slots, np.int64)  # the agent's step count when recorded
        self.steps = np.zeros(spec.num_agents, np.int64)
        self.seen = np.zeros(spec.num_agents, np.int64)  # episodes finished
        self.kept: dict[str, Tensor] = {}  # (A*K, M, ...)
        self.running: dict[str, Tensor] = {}  # (A*E, M, ...)

    def add(self, rollout: Rollout) -> None:
        """Add the episodes that ended in this rollout, and buffer the rows of those still running."""
        for table, slots in ((self.kept, self.top_k), (self.running, self.spec.num_envs)):
            for name in FIELDS if not table else ():
                rows = getattr(rollout, name)  # (A, T, E, ...)
                table[name] = rows.new_zeros((len(rows) * slots, self.max_steps, *rows.shape[3:]))
        self.steps += rollout.steps
        chosen: dict[tuple[int, int], int] = {}  # (agent, slot) -> episode; only a slot's last occupant is copied
        episodes = rollout.episodes
        for index, (agent, score) in enumerate(zip(episodes.agents.tolist(), episodes.returns.tolist(), strict=True)):
            self.seen[agent] += 1
            slot = self._slot(agent, score)
            if slot is not None:
                self.returns[agent, slot] = score
                self.lengths[agent, slot] = episodes.lengths[index]
                self.recorded_at[agent, slot] = self.steps[agent]
                chosen.pop((agent, slot), None)
                chosen[agent, slot] = index
        for (agent, slot), index in chosen.items():
            self._store(agent, slot, rollout, index)
        self._carry(rollout)

    def _slot(self, agent: int, score: float) -> int | None:
        if self.keep == "random":
            seen = int(self.seen[agent])
            if seen <= self.top_k:
                return seen - 1
            draw = int(self._uniform(agent, 1)[0] * seen)
            return draw if draw < self.top_k else None
        returns = self.returns[agent]
        worst = returns.min()
        if score < worst or (score == worst and not self.replace_on_tie):
            return None
        ties = np.flatnonzero(returns == worst)
        return int(ties[self.recorded_at[agent, ties].argmin()])  # the oldest

    def _store(self, agent: int, slot: int, rollout: Rollout, index: int) -> None:
        episodes = rollout.episodes
        env, start, end = int(episodes.envs[index]), int(episodes.starts[index]), int(episodes.ends[index])
        before = int(episodes.lengths[index]) - (end - start + 1)
        source, target = agent * self.spec.num_envs + env, agent * self.top_k + slot
        held = min(before, self.max_steps)
        for name in FIELDS:
            self.kept[name][target, :held] = self.running[name][source, :held]
        rows = {name: getattr(rollout, name)[agent, start : end + 1, env] for name in FIELDS}
        self._append({name: table[target] for name, table in self.kept.items()}, before, rows, agent)
        self.counts[agent, slot] = min(int(episodes.lengths[index]), self.max_steps)

    def _append(self, kept: dict[str, Tensor], before: int, rows: dict[str, Tensor], agent: int) -> None:
        """Add rows (N, ...) to a reservoir (M, ...) that has seen `before` rows."""
        count = len(rows["obs"])
        free = max(0, min(count, self.max_steps - before))
        for name in FIELDS:
            kept[name][before : before + free] = rows[name][:free]
        if free == count:
            return
        # row n (from 0) replaces a random one of the M kept, with probability M / (n + 1)
        numbers = np.arange(free, count)
        draws = (self._uniform(agent, len(numbers)) * (before + numbers + 1)).astype(np.int64)
        last = {
            index: int(number) for index, number in zip(draws.tolist(), numbers, strict=True) if index < self.max_steps
        }
        for name in FIELDS if last else ():
            kept[name][list(last)] = rows[name][list(last.values())]

    def _carry(self, rollout: Rollout) -> None:
        """Buffer the rows of episodes still running."""
        envs, steps = self.spec.num_envs, rollout.obs.shape[1]
        before = rollout.open_lengths.copy()
        start = rollout.dummy_first.astype(np.int64)
        episodes = rollout.episodes
        np.maximum.at(start, (episodes.agents, episodes.envs), episodes.ends + 2)
        before[episodes.agents, episodes.envs] = 0
        room = np.clip(self.max_steps - before, 0, np.maximum(steps - start, 0))
        # all environments at once while their buffers have room ...
        t = np.arange(steps)[None, :, None]
        fits = (t >= start[:, None]) & (t < (start + room)[:, None])  # (A, T, E)
        a, rows, e = np.nonzero(fits)
        indices = before[a, e] + rows - start[a, e]
        device = rollout.obs.device
        target = [torch.from_numpy(x).to(device) for x in (a * envs + e, indices)]
        source = torch.from_numpy((a * steps + rows) * envs + e).to(device)
        for name in FIELDS:
            self.running[name][target[0], target[1]] = getattr(rollout, name).flatten(0, 2)[source]
        # ... then one by one where a buffer overflows
        for agent, env in np.argwhere(start + room < steps).tolist():
            more = {name: getattr(rollout, name)[agent, (start + room)[agent, env] :, env] for name in FIELDS}
            buffer = {name: table[agent * envs + env] for name, table in self.running.items()}
            self._append(buffer, int((before + room)[agent, env]), more, agent)

    def _uniform(self, agent: int, n: int) -> np.ndarray:
        generator = self.spec.streams[agent].memory
        return torch.rand(n, generator=generator, device=generator.device, dtype=torch.float64).cpu().numpy()

    def sample(self, minibatches: int, rows: int) -> MemoryRows:
        """Rows drawn uniformly with replacement from all rows kept: (A, minibatches, rows, ...)."""
        agents = self.spec.num_agents
        u = np.stack([self._uniform(agent, minibatches * rows) for agent in range(agents)])  # (A, N)
        ends = self.counts.cumsum(1)  # (A, K)
        total = ends[:, -1:]
        draw = np.minimum((u * total).astype(np.int64), np.maximum(total - 1, 0))
        slot = (draw[:, :, None] >= ends[:, None, :]).sum(2).clip(max=self.top_k - 1)
        row = draw - np.take_along_axis(ends - self.counts, slot, 1)
        flat = ((np.arange(agents)[:, None] * self.top_k + slot) * self.max_steps + row).reshape(-1)
        device = self.kept["obs"].device
        index = torch.from_numpy(flat).to(device)
        shape = (agents, minibatches, rows)
        drawn = {name: self.kept[name].flatten(0, 1)[index].unflatten(0, shape) for name in FIELDS}
        known = torch.from_numpy((total > 0).astype(np.float32)).to(device)
        return MemoryRows(**drawn, weights=known[:, :, None].expand(shape).contiguous())

    def summary(self) -> dict[str, Tensor]:
        """Mean return, length and age (in steps) of each agent's kept episodes (A,); NaN while there are none."""
        held = self.counts > 0
        n = np.where(held.any(1), held.sum(1), np.nan)
        values = {"return": self.returns, "length": self.lengths, "age": self.steps[:, None] - self.recorded_at}
        means = {name: np.where(held, x, 0.0).sum(1) / n for name, x in values.items()}
        return {name: torch.from_numpy(mean).float() for name, mean in means.items()}

    def state_dict(self) -> dict[str, Any]:
        """Everything a resumed run needs."""
        names = ("returns", "lengths", "counts", "recorded_at", "steps", "seen")
        arrays = {name: torch.from_numpy(getattr(self, name).copy()) for name in names}
        return {"arrays": arrays, "kept": self.kept, "running": self.running}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the result of `state_dict`."""
        for name, value in state["arrays"].items():
            setattr(self, name, value.cpu().numpy().copy())
        self.kept = {name: value.to(self.spec.device) for name, value in state["kept"].items()}
        self.running = {name: value.to(self.spec.device) for name, value in state["running"].items()}
