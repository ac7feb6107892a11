"""Settings of environments, and what they must keep to."""

from dataclasses import dataclass, field
from typing import Any, Literal

from rlexp.config.declaration import are_limits
from rlexp.envs.classic_control import WORLDS
from rlexp.envs.ids import has_world, require_known
from rlexp.errors import ConfigError

TIME_LIMIT = "max_episode_steps"  # in kwargs: another time limit, which every backend knows
CLIPPING = ("reward_clipping", "reward_clip")  # its names in ALE's and envpool's vector classes


@dataclass(kw_only=True)
class EnvironmentSettings:
    """Settings of the environments, their observations and rewards.

    Fields are explained in conf/env/cartpole.yaml. Raises ConfigError for an unknown id, a missing extra, or a setting
    out of range.
    """

    id: str
    backend: Literal["auto", "gymnasium", "envpool", "torch"] = "auto"
    num_envs: int = 8
    vectorization: Literal["auto", "vector", "sync", "async"] = "auto"
    kwargs: dict[str, Any] = field(default_factory=dict)
    wrappers: list[Any] = field(default_factory=list)
    normalize_obs: bool = False
    clip_obs: float = 10.0
    normalize_reward: bool = False
    clip_reward: float = 10.0
    sign_reward: bool = False
    timeout: float | None = None
    extra: str | None = None
    install: str | None = None
    threshold: float | None = None
    bounds: list[float] | None = None
    limits: list[float | None] | None = None

    def __post_init__(self) -> None:
        """Check the id and ranges; no environment is made."""
        self._require("num_envs", self.num_envs >= 1, "must be at least 1")
        for name in ("clip_obs", "clip_reward"):
            self._require(name, getattr(self, name) > 0, "must be positive")  # not a number is not positive either
        self._require("timeout", self.timeout is None or self.timeout > 0, "must be positive, in seconds, or null")
        if self.sign_reward and self.normalize_reward:
            what = "cannot be combined with env.normalize_reward=true; set one to false"
            raise ConfigError(f"env.sign_reward=true: {what}")
        for name in CLIPPING:
            if self.kwargs.get(name):
                what = "would clip recorded returns; env.sign_reward=true clips for the learner only"
                raise ConfigError(f"env.kwargs.{name}={self.kwargs[name]}: {what}")
        if self.backend in ("torch", "envpool"):
            what = f"has no effect with env.backend={self.backend}; use auto, or env.backend=gymnasium"
            self._require("vectorization", self.vectorization == "auto", what)
        self._require_wrappers()
        if self.backend == "torch":
            what = (
                "another environment than Gymnasium's is registered under this id, and env.backend=torch implements "
                "Gymnasium's; use env.backend=gymnasium"
            )
            self._require("id", self.id not in WORLDS or has_world(self.id), what)
            what = f"env.backend=torch takes only {TIME_LIMIT}; use env.backend=gymnasium"
            self._require("kwargs", not set(self.kwargs) - {TIME_LIMIT}, what)
        limit = self.kwargs.get(TIME_LIMIT, 1)
        if type(limit) is not int or limit < 1:
            raise ConfigError(f"env.kwargs.{TIME_LIMIT}={limit}: must be a whole number of at least 1")
        ordered = self.bounds is None or (len(self.bounds) == 2 and self.bounds[0] < self.bounds[1])
        self._require("bounds", ordered, "must be [low, high] with low < high, or null")
        what = "must be [low, high] with low < high, one of which may be null, or null"
        self._require("limits", are_limits(self.limits), what)
        require_known(self.id, self.backend, self.extra, self.install)

    def _require_wrappers(self) -> None:
        """Refuse wrappers of single environments where none is made."""
        if not self.wrappers:
            return
        if bad := [each for each in self.wrappers if not callable(each)]:
            raise ConfigError(f"env.wrappers: {bad[0]!r} is no wrapper; give each as {{_target_: module.Class}}")
        for name, kind in (("backend", self.backend), ("vectorization", self.vectorization)):
            if kind in ("torch", "envpool", "vector"):
                what = "steps no single environments, which wrappers need; use auto, or remove env.wrappers"
                raise ConfigError(f"env.{name}={kind}: {what}")

    def _require(self, name: str, holds: bool, wanted: str) -> None:
        if not holds:
            raise ConfigError(f"env.{name}={getattr(self, name)}: {wanted}")

    @property
    def name(self) -> str:
        """The id without the module that registers it."""
        return self.id.rpartition(":")[2]
