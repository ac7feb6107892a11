"""Packages that are optional: each comes by a pip extra, and where it is missing one line says so."""

import contextlib
import importlib
from collections.abc import Iterator
from typing import Any

from rlexp.errors import ConfigError
from rlexp.text import one_line


def pip_install(extra: str) -> str:
    """The command that installs an extra."""
    return f"pip install 'rlexp[{extra}]'"


def not_installed(package: str, extra: str) -> str:
    """What is missing, and the way out."""
    return f"needs {package}, which is not installed: {pip_install(extra)}"


@contextlib.contextmanager
def needing(extra: str, setting: str, way_out: str = "") -> Iterator[None]:
    """While entered, an import that fails is a ConfigError that names the setting that needs it, and the extra.

    way_out: what else can be done, if anything.
    """
    try:
        yield
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and error.name:
            if error.name.partition(".")[0] == "rlexp":
                raise
            raise ConfigError(f"{setting}: {not_installed(error.name, extra)}{way_out}") from None
        raise ConfigError(f"{setting}: what it needs cannot be imported: {one_line(str(error))}{way_out}") from error


def require(module: str, extra: str, setting: str, way_out: str = "") -> Any:
    """An optional package, imported; a ConfigError, as of `needing`, whatever keeps it from being imported."""
    with needing(extra, setting, way_out):
        try:
            return importlib.import_module(module)
        except ImportError:
            raise
        except Exception as error:  # such as that of a package whose own dependencies do not fit together
            raise ImportError(f"{type(error).__name__}: {error}") from error
