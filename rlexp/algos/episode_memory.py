"""Episode memory: each agent's best episodes, with the action distributions recorded during them."""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from rlexp.data import Rollout, RunSpec

FIELDS = ("obs", "actions", "dist_params")
ARRAYS = ("scores", "returns", "lengths", "counts", "recorded_at", "steps", "seen", "mean", "holder", "held_since")
EPISODES = 100  # that the running mean of scores is over, about


class MemoryRows(NamedTuple):
    """Rows drawn from remembered episodes; weight 0 while there is none."""

    obs: Tensor  # raw
    actions: Tensor
    dist_params: Tensor  # of the behaviour policy, as recorded
    weights: Tensor


class EpisodeMemory:
    """Keeps the `top_k` episodes of each agent with the highest scores, with at most `max_steps` rows each.

    A longer episode is kept as a uniform sample of its rows (reservoir sampling, Vitter 1985). Rows of running
    episodes are held in buffers of the same size until the episode ends. The effective score of an episode of score x
    that its agent recorded t of its steps ago, m being the running mean of the scores of its finished episodes:

        x_eff = min(x, m + (x − m) · 2^(−t/half_life)),   m ← m + (x − m) / min(n, 100) with the n-th episode

    so that a lead over m halves every `half_life` steps, and a score below m stays. Without a half_life x_eff = x. With
    `share`, rows are drawn from the `top_k` of all agents of a population.
    """

    def __init__(
        self,
        spec: RunSpec,
        *,
        top_k: int = 1,
        max_steps: int = 512,
        replace_on_tie: bool = True,
        half_life: float | None = None,
        share: bool = False,
    ) -> None:
        self.spec, self.top_k, self.max_steps = spec, top_k, max_steps
        self.replace_on_tie, self.half_life, self.share = replace_on_tie, half_life, share
        slots = (spec.num_agents, top_k)
        self.scores = np.full(slots, -np.inf)  # when recorded; -inf: an empty slot
        self.returns = np.full(slots, -np.inf)
        self.lengths = np.zeros(slots, np.int64)  # steps of the whole episode
        self.counts = np.zeros(slots, np.int64)  # rows kept
        self.recorded_at = np.zeros(slots, np.int64)  # the agent's step count when recorded
        self.steps = np.zeros(spec.num_agents, np.int64)
        self.seen = np.zeros(spec.num_agents, np.int64)  # episodes finished
        self.mean = np.zeros(spec.num_agents)  # running mean m of their scores
        self.holder = np.full(spec.num_agents, -1)  # of the shared anchor: its agent's index in the population
        self.held_since = np.zeros(spec.num_agents, np.int64)  # the agent's step count when the holder became it
        self.kept: dict[str, Tensor] = {}  # (A*K, M, ...)
        self.running: dict[str, Tensor] = {}  # (A*E, M, ...)

    def add(self, rollout: Rollout, scores: np.ndarray | None = None) -> None:
        """Add the episodes that ended in this rollout, and buffer the rows of those still running.

        scores: of `rollout.episodes` (N,), higher is better; default: their returns. An episode whose score is not
        finite is not kept, nor is any of a retired agent.
        """
        for table, slots in ((self.kept, self.top_k), (self.running, self.spec.num_envs)):
            for name in FIELDS if not table else ():
                rows = getattr(rollout, name)  # (A, T, E, ...)
                table[name] = rows.new_zeros((len(rows) * slots, self.max_steps, *rows.shape[3:]))
        self.steps += rollout.steps
        chosen: dict[tuple[int, int], int] = {}  # (agent, slot) -> episode; only a slot's last occupant is copied
        episodes, sound = rollout.episodes, self._sound(rollout)
        found = (episodes.returns if scores is None else scores).tolist()
        for index, (agent, score) in enumerate(zip(episodes.agents.tolist(), found, strict=True)):
            if not (sound[agent] and math.isfinite(score)):
                continue
            self.seen[agent] += 1
            self.mean[agent] += (score - self.mean[agent]) / min(self.seen[agent], EPISODES)
            slot = self._slot(agent, score)
            if slot is not None:
                self.scores[agent, slot], self.returns[agent, slot] = score, episodes.returns[index]
                self.lengths[agent, slot] = episodes.lengths[index]
                self.recorded_at[agent, slot] = self.steps[agent]
                chosen.pop((agent, slot), None)
                chosen[agent, slot] = index
        for (agent, slot), index in chosen.items():
            self._store(agent, slot, rollout, index)
        self._carry(rollout)
        if self.share:
            self._note_holder()

    def _sound(self, rollout: Rollout) -> np.ndarray:
        """Agents whose episodes may be kept (A,): not retired, and if others are anchored to them, all finite."""
        sound = np.ones(self.spec.num_agents, bool) if rollout.alive is None else rollout.alive.copy()
        if self.share:  # else the agent alone would see it, and it is retired in this update
            finite = rollout.dist_params.isfinite().flatten(3).all(-1) | (rollout.weights == 0)  # (A, T, E)
            sound &= finite.flatten(1).all(1).cpu().numpy()
        return sound

    def effective(self) -> np.ndarray:
        """Effective score x_eff of each kept episode (A, K); -inf of empty slots."""
        if self.half_life is None:
            return self.scores
        known = np.isfinite(self.scores)
        mean = np.broadcast_to(self.mean[:, None], known.shape)[known]
        age = (self.steps[:, None] - self.recorded_at)[known]
        now = self.scores.copy()
        now[known] = np.minimum(now[known], mean + (now[known] - mean) * 0.5 ** (age / self.half_life))
        return now

    def _slot(self, agent: int, score: float) -> int | None:
        """The slot that an episode takes: of the worst one kept, if it is at least as good; the oldest of equals."""
        kept = self.effective()[agent]
        worst = kept.min()
        if score < worst or (score == worst and not self.replace_on_tie):
            return None
        ties = np.flatnonzero(kept == worst)
        return int(ties[self.recorded_at[agent, ties].argmin()])

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
        draws = (self.spec.uniform(agent, len(numbers)) * (before + numbers + 1)).astype(np.int64)
        last = {
            index: int(number) for index, number in zip(draws.tolist(), numbers, strict=True) if index < self.max_steps
        }
        for name in FIELDS if last else ():
            kept[name][list(last)] = rows[name][list(last.values())]

    def _carry(self, rollout: Rollout) -> None:
        """Buffer the rows of episodes still running."""
        envs, steps = self.spec.num_envs, rollout.obs.shape[1]
        before, start, episodes = rollout.open_lengths.copy(), rollout.open_starts(), rollout.episodes
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

    def anchors(self) -> np.ndarray:
        """Slots that each agent draws from, as indices into all A*K (A, K): its own, or the best of its population.

        The best come first; of equal ones the most recently recorded, by the steps of the agent that recorded it.
        """
        agents, together = self.spec.num_agents, self.spec.population
        slots = np.arange(agents * self.top_k)
        if not self.share:
            return slots.reshape(agents, self.top_k)
        pools = slots.reshape(-1, together * self.top_k)  # (populations, n*K)
        keys = [x.reshape(pools.shape) for x in (-self.recorded_at, -self.effective())]
        best = np.lexsort(keys, axis=1)[:, : self.top_k]
        return np.take_along_axis(pools, best, 1).repeat(together, 0)

    def _note_holder(self) -> None:
        """Note whose episode is the first anchor of each population, and since when."""
        first = self.anchors()[:, 0]
        known = self.counts.reshape(-1)[first] > 0
        holder = np.where(known, first // self.top_k % self.spec.population, -1)
        self.held_since = np.where(holder == self.holder, self.held_since, self.steps)
        self.holder = holder

    def sample(self, minibatches: int, rows: int) -> MemoryRows:
        """Rows drawn uniformly with replacement from all rows of the anchors: (A, minibatches, rows, ...)."""
        agents = self.spec.num_agents
        u = np.stack([self.spec.uniform(agent, minibatches * rows) for agent in range(agents)])  # (A, N)
        anchors = self.anchors()  # (A, K)
        counts = self.counts.reshape(-1)[anchors]
        ends = counts.cumsum(1)
        total = ends[:, -1:]
        draw = np.minimum((u * total).astype(np.int64), np.maximum(total - 1, 0))
        slot = (draw[:, :, None] >= ends[:, None, :]).sum(2).clip(max=self.top_k - 1)
        row = draw - np.take_along_axis(ends - counts, slot, 1)
        flat = (np.take_along_axis(anchors, slot, 1) * self.max_steps + row).reshape(-1)
        device = self.kept["obs"].device
        index = torch.from_numpy(flat).to(device)
        shape = (agents, minibatches, rows)
        drawn = {name: self.kept[name].flatten(0, 1)[index].unflatten(0, shape) for name in FIELDS}
        known = torch.from_numpy((total > 0).astype(np.float32)).to(device)
        return MemoryRows(**drawn, weights=known[:, :, None].expand(shape).contiguous())

    def summary(self, *, score: bool = False) -> dict[str, Tensor]:
        """Of each agent's anchors (A,), NaN while there are none: mean return, length, age and effective score.

        The age is in steps of the agent that recorded the episode. If shared also `holder`, the index in the population
        of the agent that recorded the first of them, and `held`, the agent's steps since that last changed.
        """
        anchors = self.anchors()
        held = self.counts.reshape(-1)[anchors] > 0  # (A, K)
        n = np.where(held.any(1), held.sum(1), np.nan)
        age = self.steps[:, None] - self.recorded_at
        values = {"return": self.returns, "length": self.lengths, "age": age}
        values |= {"score": self.effective()} if score else {}
        means = {name: np.where(held, x.reshape(-1)[anchors], 0.0).sum(1) / n for name, x in values.items()}
        if self.share:
            known = self.holder >= 0
            means["holder"] = np.where(known, self.holder, np.nan)
            means["held"] = np.where(known, self.steps - self.held_since, np.nan)
        return {name: torch.from_numpy(mean).float() for name, mean in means.items()}

    def state_dict(self) -> dict[str, Any]:
        """Everything a resumed run needs."""
        arrays = {name: torch.from_numpy(getattr(self, name).copy()) for name in ARRAYS}
        return {"arrays": arrays, "kept": self.kept, "running": self.running}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the result of `state_dict`."""
        arrays = {"scores": state["arrays"]["returns"], **state["arrays"]}  # earlier versions had none but returns
        for name in [name for name in ARRAYS if name in arrays]:
            setattr(self, name, arrays[name].cpu().numpy().copy())
        self.kept = {name: value.to(self.spec.device) for name, value in state["kept"].items()}
        self.running = {name: value.to(self.spec.device) for name, value in state["running"].items()}
