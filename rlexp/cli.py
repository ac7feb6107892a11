"""Errors on the command line: one plain line that names the key, the value and the nearest valid one."""

import difflib
import errno
import os
import re
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rlexp.config import CONF_DIR
from rlexp.errors import UserError, user_error_behind
from rlexp.run_folder import key_of
from rlexp.signatures import settings_of
from rlexp.terminal import harmless_output

FULL = "HYDRA_FULL_ERROR"
PLACES = (PermissionError, NotADirectoryError, FileExistsError)
FULL_OR_READ_ONLY = (errno.EROFS, errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
WANTS_TRACEBACK = os.environ.get(FULL) == "1"  # what the user asked for, read before it is set below


def _keys(node: Any, prefix: str = "") -> list[str]:
    """All dotted keys of a config."""
    found: list[str] = []
    for key in node:
        found.append(f"{prefix}{key}")
        child = node._get_node(key)
        if isinstance(child, DictConfig) and not child._is_none() and not child._is_interpolation():
            found += _keys(child, f"{prefix}{key}.")
    target = (
        node.get("_target_") if isinstance(node, DictConfig) and not OmegaConf.is_missing(node, "_target_") else None
    )
    return found + [f"{prefix}{name}" for name in settings_of(str(target)) if target and name not in node]


def _valid_keys(overrides: list[str], of_hydra: bool) -> list[str]:
    """Keys of the config that the group choices among the overrides make; of the default one if they make none."""
    groups = [o for o in overrides if "," not in o and (CONF_DIR / o.partition("=")[0]).is_dir()]
    groups += [o for o in overrides if o.startswith("hydra.searchpath=")]
    for attempt in (groups, []):
        try:
            GlobalHydra.instance().clear()
            with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
                config = compose("config", attempt, return_hydra_config=True)
                return [key for key in _keys(config) if key.startswith("hydra") == of_hydra]
        except (HydraException, OmegaConfBaseException):
            continue
    return []


def _override_of(key: str, overrides: list[str]) -> str:
    return next((o for o in overrides if o.lstrip("+~").partition("=")[0] == key), key)


def _how_to_write(override: str) -> str:
    key, _, value = override.partition("=")
    if key == "init_from":
        return "name the folder by the hash that it ends in, as in init_from=outputs/first/2eec0503, or quote it"
    if re.match(r"(tag|int|float|interval|range|choice)\(", value):
        return "write interval(1e-4,1e-2), tag(log,interval(1e-4,1e-2)), range(0,1,0.1) or choice(a,b)"
    if "[" in value and "=" in value:
        return """quote what holds =, as in '[["algo=ppo"],["algo=apo"]]'"""
    return "quote what holds spaces, brackets or commas"


def explain(error: Exception, overrides: list[str]) -> str:
    """One line for an error of Hydra or OmegaConf."""
    text = str(error)
    unknown = re.search(r"Could not override '([^']+)'", text)
    missing = re.search(r"Could not find '([^']+)'", text)
    merging = re.search(r"Error merging override (\S+)", text)
    if unknown:
        key = unknown[1]
        known = _valid_keys(overrides, key.startswith("hydra"))
        close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]}?" if close else "python -m rlexp.train --help lists the keys"
        return f"{_override_of(key, overrides)}: there is no setting {key}; {hint}"
    if missing:
        group, _, choice = missing[1].rpartition("/")
        options = re.findall(r"^\t(\S+)$", text, re.MULTILINE)
        close = difflib.get_close_matches(choice, options, n=1, cutoff=0.4)
        hint = f"did you mean {close[0]}? " if close else ""
        return f"{group}={choice}: there is no such choice; {hint}known: {', '.join(options)}"
    if isinstance(error, OverrideParseException):
        return f"{error.override}: cannot be read as key=value; {_how_to_write(str(error.override))}"
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    line = str(cause).splitlines()[0]
    line = line.removeprefix("ConfigError raised while resolving interpolation: ")
    return f"{merging[1]}: {line}" if merging else " ".join(line.split())


def with_plus(error: Exception, overrides: list[str], compose_with: Callable[[list[str]], Any]) -> list[str] | None:
    """The overrides with ++ before the key that an error is about, if no yaml has it but what it is meant for takes it.

    Args:
        error: Hydra's.
        overrides: as typed.
        compose_with: the config that some of them make.
    """
    unknown = re.search(r"Could not override '([^']+)'", str(error))
    if unknown is None:
        return None
    parent, _, key = unknown[1].rpartition(".")
    try:
        config = compose_with([o for o in overrides if _decides_targets(o)])
        node = OmegaConf.select(config, parent)
    except (HydraException, OmegaConfBaseException):
        return None
    of_environment = parent == "env.kwargs"
    taken = settings_of(str(node.get("_target_"))) if OmegaConf.is_dict(node) else []
    if not (of_environment or {key, "**"} & set(taken)):
        return None
    return [f"++{o}" if key_of(o) == unknown[1] else o for o in overrides]


def _decides_targets(override: str) -> bool:
    key, _, value = override.partition("=")
    return "," not in value and (key.endswith("_target_") or key == "hydra.searchpath" or (CONF_DIR / key).is_dir())


def _compose(overrides: list[str]) -> DictConfig:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return compose("config", overrides)


def end_with(error: UserError) -> NoReturn:
    """Tell a user's error in one line; exit code 1."""
    print(f"rlexp: {error}", file=sys.stderr)
    sys.exit(1)


def report_errors(job: Callable[[], Any]) -> None:
    """Run a Hydra job; what a user can mend is told in one line, exit code 1. HYDRA_FULL_ERROR=1 shows tracebacks."""
    overrides = [word for word in sys.argv[1:] if "=" in word and not word.startswith("--")]
    with harmless_output():
        if WANTS_TRACEBACK:
            job()
        else:
            _report(job, overrides)


def _with_plus_where_needed(job: Callable[[], Any], overrides: list[str]) -> None:
    """Run a job; keys that no yaml has, but that what they are meant for takes, need no + before them."""
    try:
        job()
    except HydraException as error:  # nothing has begun: the config could not be composed
        better = with_plus(error, overrides, _compose)
        if better is None:
            raise
        places = dict(zip(overrides, better, strict=True))
        sys.argv[1:] = [places.get(word, word) for word in sys.argv[1:]]
        _with_plus_where_needed(job, better)


def _report(job: Callable[[], Any], overrides: list[str]) -> None:
    os.environ[FULL] = "1"  # makes Hydra raise its errors instead of printing them
    try:
        _with_plus_where_needed(job, overrides)
    except KeyboardInterrupt:
        print("rlexp: interrupted before anything was to be saved, or twice", file=sys.stderr)
        sys.exit(130)
    except UserError as error:
        end_with(error)
    except (HydraException, OmegaConfBaseException) as error:  # of which one is an OSError, too
        end_with(user_error_behind(error) or UserError(explain(error, overrides)))
    except OSError as error:
        if error.filename is None or not (isinstance(error, PLACES) or error.errno in FULL_OR_READ_ONLY):
            raise
        end_with(UserError(f"{error.filename}: {error.strerror}; say by outputs=<folder> where runs may write"))
    except ValueError as error:
        if "Config group override" not in str(error):  # Hydra's word for algo=null
            raise
        end_with(UserError(" ".join(str(error).split())))
    finally:
        del os.environ[FULL]
