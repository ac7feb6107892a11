"""Several vector environments, e.g. one per agent, as one."""

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

# key of infos: (N,) bool, whether the game goes on although an episode of the learner's ends, as at a lost life; whole
# games are recorded then
CONTINUES = "continues"


def continues(infos: Mapping[str, Any]) -> Any:
    """`infos[CONTINUES]`; None where it is not there, or is a number: of an environment that counts something so."""
    told = infos.get(CONTINUES)
    return None if np.asarray(told).dtype.kind in "iuf" else told


class AgentVectorEnv(VectorEnv):
    """Concatenates vector environments, so that a vector class with a single random stream has one per agent.

    Actions and observations are (parts · E, ...), part by part.
    """

    def __init__(self, parts: list[VectorEnv]) -> None:
        self.parts = parts
        self.num_envs = sum(part.num_envs for part in parts)
        self.single_observation_space = parts[0].single_observation_space
        self.single_action_space = parts[0].single_action_space
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self.metadata = {**parts[0].metadata, "autoreset_mode": AutoresetMode.NEXT_STEP}
        self.bounds = np.cumsum([0, *(part.num_envs for part in parts)])

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Reset every part; `seed` is a list with one seed per part."""
        seeds = [None] * len(self.parts) if seed is None else seed
        obs = [part.reset(seed=s, options=options)[0] for part, s in zip(self.parts, seeds, strict=True)]
        return np.concatenate(obs), {}

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Step every part with its rows of `actions`."""
        bounds = zip(self.bounds, self.bounds[1:], strict=False)
        results = [part.step(actions[low:high]) for part, (low, high) in zip(self.parts, bounds, strict=True)]
        obs, rewards, terminated, truncated = (np.concatenate([r[i] for r in results]) for i in range(4))
        told = [continues(result[4]) for result in results]
        if all(of_part is None for of_part in told):
            return obs, rewards, terminated, truncated, {}
        goes_on = [np.zeros(p.num_envs, bool) if x is None else x for x, p in zip(told, self.parts, strict=True)]
        return obs, rewards, terminated, truncated, {CONTINUES: np.concatenate(goes_on)}

    def render(self) -> tuple[Any, ...]:
        """A picture of every environment."""
        return tuple(picture for part in self.parts for picture in cast(Any, part.render()))

    def close(self, **kwargs: Any) -> None:
        """Close every part."""
        for part in self.parts:
            part.close(**kwargs)
