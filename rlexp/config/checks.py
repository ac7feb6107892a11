"""Checks of settings, made before any environment is built."""

import contextlib
import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from rlexp.config.declaration import is_number, margin_flaw
from rlexp.config.identity import flatten
from rlexp.config.schema import CHOICES, GROUPS, MAY_BE_EMPTY, TUNING_SEED, EvaluationConfig, RunConfig, seeds_of
from rlexp.config.signatures import check_call
from rlexp.errors import ConfigError
from rlexp.text import did_you_mean, nearest

OPTIONAL = ("stop_at", "torch_threads", "evaluation.every", "evaluation.video_every")
MOST_OF_A_TAG = 64  # characters, which is what Weights & Biases takes
EXTENDING = r"extend(:\d+)?"  # value of resume; the run to extend may be named by its total_steps


LEAST = {
    "seed": 0,
    "num_seeds": 1,
    "population": 1,
    "total_steps": 1,
    "checkpoint_every": 1,
    "log_every": 1,
    "evaluation.episodes": 0,
    "evaluation.max_steps": 1,
    "evaluation.every": 1,
    "evaluation.curve_episodes": 1,
    "evaluation.video_every": 1,
    "stop_at": 1,
    "torch_threads": 1,
}


def check_run_settings(cfg: DictConfig) -> None:
    """Check the ranges of the run-level settings; ConfigError names the key, its value and what is valid."""
    _check_keys(cfg)
    _check_counts(cfg)
    _check_seeds(cfg)
    extends = re.fullmatch(EXTENDING, str(cfg.resume)) is not None
    if extends:
        _check_extending(cfg)
    for tag in cfg.tags:
        if not (isinstance(tag, str) and 0 < len(tag) <= MOST_OF_A_TAG):
            raise ConfigError(f"tags={list(cfg.tags)}: each must be a text of 1 to {MOST_OF_A_TAG} characters")
    check_live_ranges(cfg.live_ranges)
    for key, choices in CHOICES.items():
        given = OmegaConf.select(cfg, key)
        value = str(given).lower() if isinstance(given, bool) else given
        if value not in choices and not (key == "resume" and extends):
            valid = ", ".join([*choices, *(["extend:<total_steps>"] if key == "resume" else [])])
            raise ConfigError(f"{key}={value}: must be one of {valid}{did_you_mean(value, choices)}")
    if cfg.evaluation.weights == "best" and cfg.evaluation.every is None:
        raise ConfigError("evaluation.weights=best: needs evaluations during training; set evaluation.every")
    if cfg.primary == "evaluation_sampled" and cfg.evaluation.every is None and cfg.seed < TUNING_SEED:
        raise ConfigError("primary=evaluation_sampled: is the last evaluation during training; set evaluation.every")
    if not 0.0 <= cfg.evaluation.average_decay < 1.0:
        raise ConfigError(f"evaluation.average_decay={cfg.evaluation.average_decay}: must lie in [0, 1)")
    if flaw := margin_flaw(cfg.margin):
        raise ConfigError(f"margin={cfg.margin}: {flaw}")
    _check_device(cfg)


def _check_keys(cfg: DictConfig) -> None:
    for node, known, prefix in ((cfg, RunConfig, ""), (cfg.evaluation, EvaluationConfig, "evaluation.")):
        names = [entry.name for entry in dataclasses.fields(known)]
        for key in map(str, node):
            if key not in (*names, "hydra"):
                hint = nearest(key, names, prefix)
                raise ConfigError(f"{prefix}{key}={node[key]}: there is no setting {prefix}{key}; {hint}")


def _check_counts(cfg: DictConfig) -> None:
    for key, low in LEAST.items():
        value, optional = OmegaConf.select(cfg, key), key in OPTIONAL
        if value is not None and value < low:
            raise ConfigError(f"{key}={value}: must be at least {low}{', or null' if optional else ''}")
        if value is not None and (not math.isfinite(value) or value != int(value)):
            raise ConfigError(f"{key}={value}: must be a whole number")


def _check_seeds(cfg: DictConfig) -> None:
    """No run may have both tuning and evaluation seeds."""
    last = seeds_of(cfg)[-1]
    if cfg.seed < TUNING_SEED <= last:
        most, each = (TUNING_SEED - cfg.seed) // cfg.population, ""
        if cfg.population > 1:
            each = f" and population={cfg.population}"
        remedy = f"use at most {most} with seed={cfg.seed}{each}" if most else "use a smaller seed or population"
        raise ConfigError(
            f"num_seeds={cfg.num_seeds}: seeds {cfg.seed} to {last} mix evaluation seeds (below {TUNING_SEED}) and "
            f"tuning seeds ({TUNING_SEED} and above); {remedy}"
        )


def _check_extending(cfg: DictConfig) -> None:
    if cfg.debug:
        why = "makes the first update of a new run and cannot extend one"
        raise ConfigError(f"debug=true: {why}; leave out resume={cfg.resume}")
    if cfg.stale == "rerun":
        why = f"resume={cfg.resume} retrains nothing"
        raise ConfigError(f"stale=rerun: {why}; to train from scratch, leave out resume={cfg.resume}")
    if cfg.live:
        why = "its changes belong to updates of a run of that length"
        raise ConfigError(f"live=true: {why}; leave out resume={cfg.resume}")


def _check_device(cfg: DictConfig) -> None:
    import torch  # here, as --help and a misspelt key need not wait for it

    kind = None
    with contextlib.suppress(RuntimeError):
        kind = torch.device(cfg.device).type
    if kind not in ("cpu", "cuda"):
        raise ConfigError(f"device={cfg.device}: no such device; use cpu, cuda or cuda:0")
    if kind == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device={cfg.device}: torch sees no CUDA device here; use device=cpu")


def check_live_ranges(given: Any) -> None:
    """Refuse (ConfigError) what is no mapping of keys to [lowest, highest]."""
    plain: Any = OmegaConf.to_container(given, resolve=True) if OmegaConf.is_config(given) else given
    flat: dict[str, Any] = flatten(plain) if isinstance(plain, dict) else {"": plain}
    for key, between in flat.items() if plain is not None else ():
        pair = isinstance(between, tuple) and len(between) == 2 and all(map(is_number, between))
        if not (pair and between[0] <= between[1]):
            what = "must be [lowest, highest], as in live_ranges={optimizer: {lr: [0, 1e-3]}}"
            raise ConfigError(f"live_ranges{'.' * bool(key)}{key}={between}: {what}")


def check_groups(plain: Mapping[str, Any]) -> None:
    """Run `check_call` on every group of a resolved config."""
    for name in GROUPS:
        node = plain[name]
        if name in MAY_BE_EMPTY and not node:
            continue
        if not isinstance(node, Mapping) or "_target_" not in node:
            raise ConfigError(f"{name}: has no _target_; choose one of conf/{name}/")
        check_call(name, node)


def check_rows(num_envs: int, rollout_steps: int, minibatches: int, total_steps: int) -> None:
    """Refuse (ConfigError) rows not divisible by minibatches, minibatches of one row, a budget below one rollout."""
    rows, product = num_envs * rollout_steps, f"(env.num_envs={num_envs} x algo.rollout_steps={rollout_steps})"
    if rows % minibatches:
        fitting = min((d for d in range(1, rows + 1) if rows % d == 0), key=lambda d: (abs(d - minibatches), -d))
        raise ConfigError(
            f"algo.minibatches={minibatches}: the {rows} rows of an update {product} are not divisible by it; the "
            f"nearest that fits is {fitting}"
        )
    if rows == minibatches and rows > 1:
        raise ConfigError(f"algo.minibatches={minibatches}: gives minibatches of one row; use at most {rows // 2}")
    if total_steps < rows:
        why = f"less than one rollout of {rows} rows {product}"
        raise ConfigError(f"total_steps={total_steps}: {why}; use at least {rows}")


def check_shares(cfg: DictConfig, num_envs: int, rollout_steps: int, minibatches: int, processes: int) -> None:
    """Refuse (ConfigError) what several processes cannot share, or cannot do together."""
    if num_envs % processes:
        fitting = max(processes, round(num_envs / processes) * processes)
        why = f"{processes} processes cannot share them equally; use {fitting}, or another number of processes"
        raise ConfigError(f"env.num_envs={num_envs}: {why}")
    rows = num_envs * rollout_steps // minibatches
    if rows % processes:
        why = f"{processes} processes cannot share its minibatches of {rows} rows equally; use another number of either"
        raise ConfigError(f"algo.minibatches={minibatches}: {why}")
    for key in ("debug", "live", "profile"):
        if cfg[key]:
            raise ConfigError(f"{key}=true: takes one process, these are {processes}; leave out torchrun, or {key}")
    if cfg.device not in ("cpu", "cuda"):
        why = f"{processes} processes would use it; with device=cuda each has the GPU of its number"
        raise ConfigError(f"device={cfg.device}: {why}")


INIT_WITH = ("optimizer", "normalizer", "memory")  # valid entries of init_with


def check_initial(cfg: DictConfig) -> None:
    """Refuse (ConfigError) unknown entries of init_with."""
    for word in init_parts(cfg):
        if word not in INIT_WITH:
            raise ConfigError(f"init_with={cfg.init_with}: there is no {word}; {nearest(word, INIT_WITH)}")


def init_parts(cfg: DictConfig) -> list[str]:
    """init_with as a sorted list: what a run restores from init_from besides parameters."""
    words = cfg.get("init_with")
    each = words if isinstance(words, ListConfig | list) else [] if words is None else [words]
    return sorted({str(word) for word in each})
