"""The schema of run-level settings, and the checks that end a bad run before any environment is made."""

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Union

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from rlexp.errors import ConfigError
from rlexp.schedules import Scheduled
from rlexp.signatures import as_type, check_call, nearest, nearest_choice, typed

# conf/ stands beside the package in a checkout and inside it in a wheel
_BESIDE = Path(__file__).resolve().parent.parent / "conf"
CONF_DIR = _BESIDE if (_BESIDE / "config.yaml").is_file() else Path(__file__).resolve().parent / "conf"

# Keys that cannot change results: they name no folder and enter no hash.
NOT_IDENTITY = (
    "study",
    "outputs",
    "device",
    "torch_threads",
    "compile",
    "batching",
    "resume",
    "retry_failed",
    "stale",
    "stop_at",
    "checkpoint_every",
    "log_every",
    "progress",
    "profile",
    "debug",
    "env.timeout",
)

BY_CONTENT = ("init_from", "init_with")  # enter it as the run that they name; see `jobs.settings_of`
EXTENDING = r"extend(:\d+)?"  # of resume: what is extended may be named by its total_steps

GROUPS = ("algo", "env", "network", "gae", "optimizer")  # each instantiated by its _target_
WHOLE = ("total_steps", "stop_at", "checkpoint_every", "log_every")  # may be written as 5e5

TUNING_SEED = 1000  # seeds from here on are for tuning; those before it for evaluation: what is compared


@dataclass
class EvaluationConfig:
    """Evaluation of the final policy."""

    episodes: int = 20
    deterministic: bool = True
    max_steps: int = 100_000


@dataclass
class RunConfig:
    """Types of the run-level keys; conf/config.yaml explains them. Groups stay open to third parties."""

    seed: int = 0
    num_seeds: int = 1
    total_steps: Union[int, float] = 500_000  # noqa: UP007  (OmegaConf reads Union; 5e5 is a float to YAML)
    study: str = ""
    outputs: str = "outputs"
    device: str = "cpu"
    torch_threads: int | None = None
    compile: Union[bool, str] = "auto"  # noqa: UP007
    batching: str = "auto"
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
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    algo: Any = None
    env: Any = None
    network: Any = None
    gae: Any = None
    optimizer: Any = None


CHOICES = {
    "compile": ("auto", "true", "false"),  # the last two are booleans to YAML
    "batching": ("auto", "vmap", "loop"),
    "resume": ("auto", "never", "must", "extend"),
    "stale": ("refuse", "keep", "rerun"),
    "progress": ("auto", "bar", "lines", "none"),
}


def register_schema() -> None:
    """Make the schema known to Hydra as the config `schema`."""
    ConfigStore.instance().store(name="schema", node=RunConfig, provider="rlexp")


def typed_config(plain: Mapping[str, Any]) -> dict[str, Any]:
    """A resolved config whose numbers have the types that their keys ask for, as 5e5 of total_steps is 500000.

    What is asked for nowhere, as in `env.kwargs`, keeps its type: there 2 and 2.0 are two settings.
    """
    values = {key: typed(value) if key in GROUPS else value for key, value in plain.items()}
    for key in WHOLE:
        value = values.get(key)
        values[key] = int(value) if isinstance(value, float) and value.is_integer() else value
    if isinstance(values.get("optimizer"), Mapping):
        values["optimizer"] = {**values["optimizer"], "lr": as_type(plain["optimizer"].get("lr"), Scheduled)}
    return values


def identity(cfg: DictConfig) -> dict[str, Any]:
    """The resolved config less what cannot change results, and less earlier runs; see `jobs.settings_of`."""
    values = {str(key): cfg[key] for key in cfg if key != "hydra"}
    plain = {
        key: OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
        for key, value in values.items()
        if key not in (*NOT_IDENTITY, *BY_CONTENT)
    }
    kept = {key: value for key, value in typed_config(plain).items() if key not in NOT_IDENTITY}
    for key in NOT_IDENTITY:
        group, _, name = key.partition(".")
        if name and isinstance(kept.get(group), dict):
            kept[group] = {key: value for key, value in kept[group].items() if key != name}
    return kept


def flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as dotted keys; lists as tuples."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = tuple(value) if isinstance(value, list) else str(value) if value == {} else value
    return flat


def check_run_settings(cfg: DictConfig) -> None:
    """Ranges of the run-level settings.

    Raises:
        ConfigError: naming the key, its value and what would do.
    """
    import torch  # here, as --help and a misspelt word need not wait for it

    for node, known, prefix in ((cfg, RunConfig, ""), (cfg.evaluation, EvaluationConfig, "evaluation.")):
        names = [entry.name for entry in dataclasses.fields(known)]
        for key in map(str, node):
            if key not in (*names, "hydra"):
                hint = nearest(key, names, prefix)
                raise ConfigError(f"{prefix}{key}={node[key]}: there is no setting {prefix}{key}; {hint}")
    least = {
        "seed": 0,
        "num_seeds": 1,
        "total_steps": 1,
        "checkpoint_every": 1,
        "log_every": 1,
        "evaluation.episodes": 0,
        "evaluation.max_steps": 1,
    }
    for key, low in least.items():
        value = OmegaConf.select(cfg, key)
        if value < low:
            raise ConfigError(f"{key}={value}: must be at least {low}")
        if not math.isfinite(value) or value != int(value):
            raise ConfigError(f"{key}={value}: must be a whole number")
    last = cfg.seed + cfg.num_seeds - 1
    if cfg.seed < TUNING_SEED <= last:
        raise ConfigError(
            f"num_seeds={cfg.num_seeds}: seeds {cfg.seed} to {last} are of both kinds; those from {TUNING_SEED} on are "
            f"for tuning, those before it for evaluation. At most {TUNING_SEED - cfg.seed} from seed={cfg.seed}"
        )
    if cfg.stop_at is not None and cfg.stop_at < 1:
        raise ConfigError(f"stop_at={cfg.stop_at}: must be at least 1, or null")
    if cfg.torch_threads is not None and cfg.torch_threads < 1:
        raise ConfigError(f"torch_threads={cfg.torch_threads}: must be at least 1, or null")
    extends = re.fullmatch(EXTENDING, str(cfg.resume)) is not None
    if extends and cfg.debug:
        raise ConfigError(
            f"debug=true: makes the first update of a run, and extends none; leave out resume={cfg.resume}"
        )
    if extends and cfg.stale == "rerun":
        raise ConfigError(
            f"stale=rerun: with resume={cfg.resume} nothing is made anew; train from the start without "
            f"resume={cfg.resume}"
        )
    for key, choices in CHOICES.items():
        value = str(cfg[key]).lower() if isinstance(cfg[key], bool) else cfg[key]
        if key == "resume" and extends:
            continue
        if value not in choices:
            told = ", ".join([*choices, *(["extend:<total_steps>"] if key == "resume" else [])])
            raise ConfigError(f"{key}={value}: must be one of {told}{nearest_choice(value, choices)}")
    try:
        device = torch.device(cfg.device)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device={cfg.device}: no such device; use cpu, cuda or cuda:0")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device={cfg.device}: torch sees no CUDA device here; use device=cpu")


def check_groups(plain: Mapping[str, Any]) -> None:
    """`check_call` for every config group of a resolved config."""
    for name in GROUPS:
        node = plain[name]
        if not isinstance(node, Mapping) or "_target_" not in node:
            raise ConfigError(f"{name}: has no _target_; choose one of conf/{name}/")
        check_call(name, node)


def check_rows(num_envs: int, rollout_steps: int, minibatches: int, total_steps: int) -> None:
    """Sizes that must fit one another.

    Raises:
        ConfigError: rows not divisible by minibatches, minibatches of a single row, or no whole rollout in the budget.
    """
    rows = num_envs * rollout_steps
    if rows % minibatches:
        near = min((d for d in range(1, rows + 1) if rows % d == 0), key=lambda d: (abs(d - minibatches), -d))
        raise ConfigError(
            f"algo.minibatches={minibatches}: the {rows} rows of an update (env.num_envs={num_envs} x "
            f"algo.rollout_steps={rollout_steps}) are not divisible by it; the nearest that fits is {near}"
        )
    if rows == minibatches and rows > 1:
        raise ConfigError(f"algo.minibatches={minibatches}: leaves one row a minibatch; use at most {rows // 2}")
    if total_steps < rows:
        raise ConfigError(
            f"total_steps={total_steps}: less than one rollout of {rows} rows (env.num_envs={num_envs} x "
            f"algo.rollout_steps={rollout_steps}); give at least {rows}"
        )
