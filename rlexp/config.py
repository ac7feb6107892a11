"""The schema of run-level settings, and the checks that end a bad run before any environment is made."""

import dataclasses
import difflib
import inspect
import logging
import math
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from hydra.core.config_loader import ConfigLoader
from hydra.core.config_store import ConfigStore
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from rlexp.errors import ConfigError
from rlexp.schedules import Scheduled

# conf/ stands beside the package in a checkout and inside it in a wheel
_BESIDE = Path(__file__).resolve().parent.parent / "conf"
CONF_DIR = _BESIDE if (_BESIDE / "config.yaml").is_file() else Path(__file__).resolve().parent / "conf"

# Run-level keys that cannot change results: they name no folder and enter no hash.
NOT_IDENTITY = (
    "study",
    "outputs",
    "device",
    "torch_threads",
    "compile",
    "batching",
    "resume",
    "retry_failed",
    "stop_at",
    "checkpoint_every",
    "log_every",
    "progress",
)

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
    resume: str = "auto"
    retry_failed: bool = False
    stop_at: Union[int, float, None] = None  # noqa: UP007
    checkpoint_every: Union[int, float] = 50_000  # noqa: UP007
    log_every: Union[int, float] = 2_000  # noqa: UP007
    progress: str = "auto"
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    algo: Any = None
    env: Any = None
    network: Any = None
    gae: Any = None
    optimizer: Any = None


CHOICES = {
    "compile": ("auto", "true", "false"),  # the last two are booleans to YAML
    "batching": ("auto", "vmap", "loop"),
    "resume": ("auto", "never", "must"),
    "progress": ("auto", "bar", "lines", "none"),
}


def register_schema() -> None:
    """Make the schema known to Hydra as the config `schema`."""
    ConfigStore.instance().store(name="schema", node=RunConfig, provider="rlexp")


def whole_numbers(value: Any) -> Any:
    """The same plain data with floats that are whole numbers as ints, so that 5e5 and 500000 are one setting."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, Mapping):
        return {key: whole_numbers(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [whole_numbers(item) for item in value]
    return value


def identity(cfg: DictConfig) -> dict[str, Any]:
    """The resolved config less what cannot change results."""
    values = {str(key): cfg[key] for key in cfg if key not in (*NOT_IDENTITY, "hydra")}
    return whole_numbers(
        {
            key: OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
            for key, value in values.items()
        }
    )


def nearest(name: str, known: Sequence[str], prefix: str = "") -> str:
    """A hint for a name that is not known: the nearest one that is, or all of them."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.55)
    return f"did you mean {prefix}{close[0]}?" if close else f"known: {', '.join(sorted(known))}"


def _nearest_choice(value: str, choices: Sequence[str]) -> str:
    close = difflib.get_close_matches(value, choices, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def check_run_settings(cfg: DictConfig) -> None:
    """Ranges of the run-level settings.

    Raises:
        ConfigError: naming the key, its value and what would do.
    """
    import torch  # here, as --help and a misspelt word need not wait for it

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
    for key, choices in CHOICES.items():
        value = str(cfg[key]).lower() if isinstance(cfg[key], bool) else cfg[key]
        if value not in choices:
            raise ConfigError(f"{key}={value}: must be one of {', '.join(choices)}{_nearest_choice(value, choices)}")
    try:
        device = torch.device(cfg.device)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device={cfg.device}: no such device; use cpu, cuda or cuda:0")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device={cfg.device}: torch sees no CUDA device here; use device=cpu")


def _fits(value: Any, hint: Any) -> bool:
    """Whether plain data fits an annotation; annotations beyond plain data accept anything."""
    if hint in (Any, inspect.Parameter.empty) or hint is Scheduled:
        return True
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, arg) for arg in args)
    if origin is Literal:
        return value in args
    plain = origin or hint
    if plain is type(None):
        return value is None
    if plain is bool:
        return isinstance(value, bool)
    if plain is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if plain is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if plain is str:
        return isinstance(value, str)
    if plain in (list, tuple, Sequence):
        return isinstance(value, list | tuple) and all(_fits(v, a) for v in value for a in args[:1])
    if plain in (dict, Mapping):
        return isinstance(value, Mapping)
    return True


def _wanted(hint: Any) -> str:
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        return "one of " + ", ".join(map(str, args))
    if origin in (Union, types.UnionType):
        return " or ".join(_wanted(arg) for arg in args)
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}
    return names.get(hint, "a list" if origin in (list, tuple, Sequence) else str(getattr(hint, "__name__", hint)))


def check_call(path: str, node: Mapping[str, Any]) -> None:
    """Check a `_target_` node against the signature it will be called with, and the nodes below it.

    Raises:
        ConfigError: the target cannot be imported, a key is unknown to it, or a value does not fit its annotation.
    """
    for key, value in node.items():
        if isinstance(value, Mapping):
            check_call(f"{path}.{key}", value)
    if "_target_" not in node:
        return
    hydras_log = logging.getLogger("hydra.utils")
    hydras_log.disabled = True  # it would print what is told below
    try:
        target: Callable[..., Any] = get_object(node["_target_"])
    except Exception as error:
        line = " ".join(str(error).split())
        raise ConfigError(f"{path}._target_={node['_target_']}: cannot be imported: {line}") from None
    finally:
        hydras_log.disabled = False
    try:
        parameters = inspect.signature(target).parameters
    except (TypeError, ValueError):  # some built-ins have none
        return
    hints = get_type_hints(target if not inspect.isclass(target) else target.__init__, include_extras=True)
    if dataclasses.is_dataclass(target):
        hints = get_type_hints(target, include_extras=True)
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for key, value in node.items():
        if key.startswith("_") and key.endswith("_"):
            continue
        if key not in parameters and not open_ended:
            hint = nearest(key, list(parameters), f"{path}.")
            raise ConfigError(f"{path}.{key}={value}: {node['_target_']} has no such setting; {hint}")
        wanted = hints.get(key, Any)
        listed_rate = path == "optimizer" and key == "lr"  # a schedule; the optimizer itself gets its current value
        if not listed_rate and not isinstance(value, Mapping) and not _fits(value, wanted):
            hint = _nearest_choice(str(value), get_args(wanted) if get_origin(wanted) is Literal else ())
            raise ConfigError(f"{path}.{key}={value}: must be {_wanted(wanted)}{hint}")


def check_groups(plain: Mapping[str, Any]) -> None:
    """`check_call` for every config group of a resolved config."""
    for name in ("algo", "env", "network", "gae", "optimizer"):
        node = plain[name]
        if not isinstance(node, Mapping) or "_target_" not in node:
            raise ConfigError(f"{name}: has no _target_; choose one of conf/{name}/")
        check_call(name, node)


def check_tuned(loader: ConfigLoader, overrides: Iterable[str]) -> None:
    """Refuse a choice of `tuned` that is not there: the group is optional, so that Hydra would leave it out silently.

    Raises:
        ConfigError: naming the nearest one that is.
    """
    known = loader.get_group_options("tuned")
    for override in overrides:
        key, _, choice = override.partition("=")
        if key == "tuned" and choice not in (*known, "null"):
            raise ConfigError(f"tuned={choice}: there is no such choice; {nearest(choice, known)}")


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
