"""Packages that are optional: each comes by a pip extra, and where it is missing one line says so."""

import contextlib
import importlib
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlexp.errors import ConfigError
from rlexp.files import PACKAGE
from rlexp.user_code import describe_error


def pip_install(extra: str) -> str:
    """The command that installs an extra."""
    return f"pip install 'rlexp[{extra}]'"


def not_installed(package: str, extra: str) -> str:
    """What is missing, and the way out."""
    return f"needs {package}, which is not installed: {pip_install(extra)}"


@contextlib.contextmanager
def needing(extra: str, setting: str, way_out: str = "", module: str = "") -> Iterator[None]:
    """While entered, an import that fails is a ConfigError that names the setting that needs it, and the extra.

    setting: empty if it is the command itself that needs it; way_out: what else can be done, if anything; module: what
    is imported, if that is one package.
    """
    prefix, again = f"{setting}: " if setting else "", f"pip install --force-reinstall 'rlexp[{extra}]'"
    try:
        yield
    except ModuleNotFoundError as error:
        if not error.name or error.name.partition(".")[0] == "rlexp":
            raise
        if "." in error.name:  # of a package that is there
            raise ConfigError(f"{prefix}{cannot_be_imported(error, module)}: {again}{way_out}") from error
        raise ConfigError(f"{prefix}{not_installed(error.name, extra)}{way_out}") from None
    except (Exception, SystemExit) as error:  # such as that of a package whose own dependencies do not fit together
        if _is_own(error):
            raise
        raise ConfigError(f"{prefix}{cannot_be_imported(error, module)}: {again}{way_out}") from error


def cannot_be_imported(error: BaseException, module: str = "") -> str:
    """Which package is broken, and how; module: its name, if that is known."""
    files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    files += [error.filename] if isinstance(error, SyntaxError) and error.filename else []
    parts = [Path(file).parts for file in files if "site-packages" in Path(file).parts]
    names = [each[each.index("site-packages") + 1].removesuffix(".py") for each in parts]
    what = f"needs {name}, which" if (name := module or (names or [""])[-1]) else "what it needs"
    return f"{what} cannot be imported ({describe_error(error)})"


def _is_own(error: BaseException) -> bool:
    """Whether an error was raised by rlexp itself."""
    last = traceback.extract_tb(error.__traceback__)[-1].filename
    return not isinstance(error, ImportError | SyntaxError) and Path(last).is_relative_to(PACKAGE)


def require(module: str, extra: str, setting: str, way_out: str = "") -> Any:
    """An optional package, imported; a ConfigError, as of `needing`, whatever keeps it from being imported."""
    with needing(extra, setting, way_out, module):
        return importlib.import_module(module)
