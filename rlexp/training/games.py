"""The games that agents have finished: their number, and the means that metrics.csv has of them."""

from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np

from rlexp.data import FinishedEpisodes

WINDOW = 100  # games that episodic_return and episodic_length average over


class Games:
    """Counts finished games of `agents` agents."""

    def __init__(self, agents: int) -> None:
        self.finished = np.zeros(agents, np.int64)
        self.recent = [deque[tuple[float, int]](maxlen=WINDOW) for _ in range(agents)]  # (return, length)
        # sum of returns and number of the games since the last row of metrics.csv, and what they were just before it
        self.since_row, self.before_row = np.zeros((agents, 2)), np.zeros((agents, 2))

    def count(self, games: FinishedEpisodes) -> None:
        """Add the games that ended in a rollout."""
        np.add.at(self.finished, games.agents, 1)
        np.add.at(self.since_row[:, 0], games.agents, games.returns)
        np.add.at(self.since_row[:, 1], games.agents, 1)
        for agent, score, length in zip(games.agents, games.returns, games.lengths, strict=True):
            self.recent[agent].append((float(score), int(length)))

    def window(self, alive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean return and length of each agent's last `WINDOW` games (A,); NaN before the first, or if not alive."""
        shown = [recent if is_alive else () for recent, is_alive in zip(self.recent, alive, strict=True)]
        means = [np.mean(list(recent), axis=0) if recent else (np.nan, np.nan) for recent in shown]
        returns, lengths = np.array(means, float).T
        return returns, lengths

    def next_row(self) -> np.ndarray:
        """Mean return of each agent's games since the last row (A,), NaN if there are none; begins the next row."""
        self.before_row, self.since_row = self.since_row, np.zeros_like(self.since_row)
        total, count = self.before_row.T
        return np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0)

    def state_of(self, agents: slice) -> dict[str, Any]:
        """State of some agents, as plain values."""
        return {
            "episodes": self.finished[agents].tolist(),
            "recent": [list(recent) for recent in self.recent[agents]],
            "since_row": self.since_row[agents].tolist(),
            "before_row": self.before_row[agents].tolist(),
        }

    def load_state_of(self, agents: slice, state: Mapping[str, Any]) -> None:
        """Restore the state of some agents of whom nothing is counted yet."""
        self.finished[agents] = np.array(state["episodes"], np.int64)
        for recent, games in zip(self.recent[agents], state["recent"], strict=True):
            recent.extend(tuple(game) for game in games)
        unknown = [[np.nan, np.nan]] * len(self.recent[agents])  # in checkpoints of earlier versions
        self.since_row[agents] = state.get("since_row", unknown)
        self.before_row[agents] = state.get("before_row", unknown)
