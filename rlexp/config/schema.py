"""The schema of run-level settings."""

from dataclasses import dataclass, field
from typing import Any, Union

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig

from rlexp.config.declaration import PRIMARY
from rlexp.files import PACKAGE

# conf/ is next to the package in a checkout and inside it in a wheel
_IN_CHECKOUT = PACKAGE.parent / "conf"
CONF_DIR = _IN_CHECKOUT if (_IN_CHECKOUT / "config.yaml").is_file() else PACKAGE / "conf"

GROUPS = ("algo", "env", "network", "gae", "optimizer", "bonus")  # each instantiated by its _target_
MAY_BE_EMPTY = ("bonus",)  # of those
LOGGER = "logger"  # group of which none, one or several are chosen, each below its own name
OVERLAYS = ("tuned", "experiment")  # groups whose yamls set keys of other groups
LOCAL = "local"  # likewise, but only keys that change no result; see `search_path.check_local`
WHOLE_NUMBERS = (  # may be written as 5e5
    "total_steps",
    "stop_at",
    "checkpoint_every",
    "log_every",
    "evaluation.every",
    "evaluation.video_every",
)

TUNING_SEED = 1000  # seeds from here on are for tuning, those below for evaluation and comparisons


@dataclass
class FinalEvaluation:
    """Evaluation of the final policy."""

    episodes: int = 20
    deterministic: bool = True
    max_steps: int = 100_000


@dataclass
class EvaluationConfig(FinalEvaluation):
    """Evaluation of the final policy, and during training."""

    weights: str = "last"
    average_decay: float = 0.99
    every: Union[int, float, None] = None  # noqa: UP007
    curve_episodes: int = 10
    video_every: Union[int, float, None] = None  # noqa: UP007


@dataclass
class RunConfig:
    """Types of the run-level keys; conf/config.yaml documents them. Groups are open to user code."""

    seed: int = 0
    num_seeds: int = 1
    population: int = 1
    total_steps: Union[int, float] = 500_000  # noqa: UP007  (OmegaConf reads Union; 5e5 is a float to YAML)
    study: str = ""
    outputs: str = "outputs"
    device: str = "cpu"
    torch_threads: int | None = None
    compile: Union[bool, str] = "auto"  # noqa: UP007
    batching: str = "auto"
    primary: str = "evaluation"
    margin: Union[int, float, str, None] = None  # noqa: UP007
    init_from: str | None = None
    init_with: Any = field(default_factory=lambda: ["normalizer"])
    resume: str = "auto"
    retry_failed: bool = False
    stale: str = "refuse"
    stop_at: Union[int, float, None] = None  # noqa: UP007
    checkpoint_every: Union[int, float] = 50_000  # noqa: UP007
    log_every: Union[int, float] = 2_000  # noqa: UP007
    progress: str = "auto"
    profile: bool = False
    debug: bool = False
    live: bool = False
    live_ranges: Any = None
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    algo: Any = None
    bonus: Any = None
    env: Any = None
    network: Any = None
    gae: Any = None
    optimizer: Any = None
    logger: Any = None
    tags: list[str] = field(default_factory=list)


CHOICES = {
    "compile": ("auto", "true", "false"),  # the last two are booleans to YAML
    "batching": ("auto", "vmap", "loop"),
    "resume": ("auto", "never", "must", "extend"),
    "stale": ("refuse", "keep", "rerun"),
    "progress": ("auto", "bar", "lines", "none"),
    "primary": PRIMARY,
    "evaluation.weights": ("last", "average", "best"),
}


def register_schema() -> None:
    """Register the schema with Hydra as the config `schema`."""
    ConfigStore.instance().store(name="schema", node=RunConfig, provider="rlexp")


def seeds_of(cfg: DictConfig) -> list[int]:
    """Seeds of a run, one per agent, population by population."""
    return [int(cfg.seed) + k for k in range(int(cfg.num_seeds) * population_of(cfg))]


def population_of(cfg: DictConfig) -> int:
    """Agents per population; 1 in configs of versions that had none."""
    return int(cfg.get("population", 1))
