"""Reports user errors in one line and ends the command."""

import errno
import os
import sys
from collections.abc import Callable
from traceback import walk_tb
from typing import Any, NoReturn

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from yaml import MarkedYAMLError

from rlexp.config.messages import compose_config, explain, with_plus
from rlexp.config.search_path import require_search_path
from rlexp.errors import UserError, user_error_behind
from rlexp.text import sanitized_output

FULL = "HYDRA_FULL_ERROR"
PATH_ERRORS = (PermissionError, NotADirectoryError, FileExistsError)
FULL_OR_READ_ONLY = (errno.EROFS, errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
WANTS_TRACEBACK = os.environ.get(FULL) == "1"  # as set by the user, read before it is set below


def exit_with(error: UserError) -> NoReturn:
    """Print an error in one line; exit code 1."""
    print(f"rlexp: {error}", file=sys.stderr)
    sys.exit(1)


def report_errors(job: Callable[[], Any]) -> None:
    """Run a Hydra job; a UserError is printed in one line, exit code 1. HYDRA_FULL_ERROR=1 shows tracebacks."""
    overrides = [word for word in sys.argv[1:] if "=" in word and not word.startswith("--")]
    with sanitized_output():
        if WANTS_TRACEBACK:
            job()
        else:
            _report(job, overrides)


def _run_adding_plus(job: Callable[[], Any], overrides: list[str]) -> None:
    """Run a job; prefix ++ to keys that are in no yaml but that their target accepts."""
    while True:
        try:
            job()
            return
        except HydraException as error:  # the config could not be composed: nothing has started
            better = with_plus(error, overrides, compose_config)
            if better is None:
                raise
        replacements = dict(zip(overrides, better, strict=True))
        sys.argv[1:] = [replacements.get(word, word) for word in sys.argv[1:]]
        overrides = better  # retried outside `except`: an error of the job would otherwise be chained to this one


def _broken_yaml(error: MarkedYAMLError) -> str | None:
    """Location and cause of a syntax error in a yaml of the config; None for a yaml that the job itself reads."""
    modules = {frame.f_globals.get("__name__") for frame, _ in walk_tb(error.__traceback__)}
    mark = error.problem_mark
    if mark is None or not modules & {"hydra._internal.config_repository", "rlexp.config.search_path"}:
        return None
    return f"{mark.name}, line {mark.line + 1}, column {mark.column + 1}: {error.problem}"


def _report(job: Callable[[], Any], overrides: list[str]) -> None:
    os.environ[FULL] = "1"  # makes Hydra raise its errors instead of printing them
    try:
        require_search_path(overrides)
        _run_adding_plus(job, overrides)
    except KeyboardInterrupt:
        print("rlexp: interrupted before there was anything to save, or twice", file=sys.stderr)
        sys.exit(130)
    except UserError as error:
        exit_with(error)
    except (HydraException, OmegaConfBaseException) as error:  # one of them is also an OSError
        exit_with(user_error_behind(error) or UserError(explain(error, overrides)))
    except OSError as error:
        if error.filename is None or not (isinstance(error, PATH_ERRORS) or error.errno in FULL_OR_READ_ONLY):
            raise
        exit_with(UserError(f"{error.filename}: {error.strerror}; set outputs=<folder> to a writable folder"))
    except MarkedYAMLError as error:
        message = _broken_yaml(error)
        if message is None:
            raise
        exit_with(UserError(message))
    except ValueError as error:
        if "Config group override" not in str(error):  # Hydra's message for algo=null
            raise
        exit_with(UserError(explain(error, overrides)))
    finally:
        del os.environ[FULL]
