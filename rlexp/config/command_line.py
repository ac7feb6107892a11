"""What a user can mend is told in one line, and ends the command."""

import errno
import os
import sys
from collections.abc import Callable
from traceback import walk_tb
from typing import Any, NoReturn

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from yaml import MarkedYAMLError

from rlexp.config.messages import composed, explain, with_plus
from rlexp.config.search_path import require_search_path
from rlexp.errors import UserError, user_error_behind
from rlexp.text import harmless_output

FULL = "HYDRA_FULL_ERROR"
PLACES = (PermissionError, NotADirectoryError, FileExistsError)
FULL_OR_READ_ONLY = (errno.EROFS, errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
WANTS_TRACEBACK = os.environ.get(FULL) == "1"  # what the user asked for, read before it is set below


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
    while True:
        try:
            job()
            return
        except HydraException as error:  # nothing has begun: the config could not be composed
            better = with_plus(error, overrides, composed)
            if better is None:
                raise
        places = dict(zip(overrides, better, strict=True))
        sys.argv[1:] = [places.get(word, word) for word in sys.argv[1:]]
        overrides = better  # tried again out here, as whatever a job raises would be told with the error above it


def _broken_yaml(error: MarkedYAMLError) -> str | None:
    """Where one of the config's yamls cannot be read, and why; None for a yaml that is read by a job itself."""
    modules = {frame.f_globals.get("__name__") for frame, _ in walk_tb(error.__traceback__)}
    mark = error.problem_mark
    if mark is None or not modules & {"hydra._internal.config_repository", "rlexp.config.search_path"}:
        return None
    return f"{mark.name}, line {mark.line + 1}, column {mark.column + 1}: {error.problem}"


def _report(job: Callable[[], Any], overrides: list[str]) -> None:
    os.environ[FULL] = "1"  # makes Hydra raise its errors instead of printing them
    try:
        require_search_path(overrides)
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
    except MarkedYAMLError as error:
        told = _broken_yaml(error)
        if told is None:
            raise
        end_with(UserError(told))
    except ValueError as error:
        if "Config group override" not in str(error):  # Hydra's word for algo=null
            raise
        end_with(UserError(explain(error, overrides)))
    finally:
        del os.environ[FULL]
