"""Packages that are optional: each comes by a pip extra, and where it is missing one line says so."""

import contextlib
from collections.abc import Iterator

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
