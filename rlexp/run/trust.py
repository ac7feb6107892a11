"""Trust: which code an untrusted run folder may run when its policies are loaded, and where may be written.

A config names classes to instantiate and modules to import, and both run code. Allowed are classes that rlexp and
torch.nn define, installed plugins of rlexp (entry points in the group `rlexp`), and packages that the user trusts by
name.
"""

import importlib
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from rlexp.errors import TrustError

KNOWN = ("gymnasium", "ale_py", "envpool", "minigrid")  # importing them only registers environments
HOMES = ("rlexp", "torch.nn")


def require_trusted(config: Mapping[str, Any], wanted: Mapping[str, type], trust: Sequence[str] = ()) -> None:
    """Refuse a config that would run untrusted code.

    Args:
        config: plain data, by group.
        wanted: groups that will be instantiated, and the class of each; nodes inside may be torch modules.
        trust: further packages whose classes may be instantiated, as those of installed plugins may.

    Raises:
        TrustError: names the key and the first untrusted name.
    """
    plugins = {entry.value.partition(":")[0].partition(".")[0] for entry in entry_points(group="rlexp")}
    packages = {name.partition(".")[0] for name in trust} | plugins
    _require_literals("", config)
    for group, kind in wanted.items():
        node = config.get(group)
        if not isinstance(node, Mapping) or "_target_" not in node:
            raise TrustError(f"{group}: has no _target_, so it cannot be instantiated")
        _check(group, node, kind, packages)
    module = str((config["env"] or {}).get("id", "")).rpartition(":")[0] if "env" in wanted else ""
    if module and module.partition(".")[0] not in {*KNOWN, *packages}:
        raise _refusal(f"env.id={config['env']['id']}", module)


def require_no_links(paths: Iterable[Path]) -> None:
    """Refuse symbolic links, through which a write would land elsewhere; the TrustError names the link."""
    for path in paths:
        if path.is_symlink():
            raise TrustError(f"{path}: is a symbolic link in a folder that a run writes to; remove it")


def _require_literals(path: str, value: Any) -> None:
    """Refuse interpolations."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            _require_literals(f"{path}.{key}".lstrip("."), item)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for item in value:
            _require_literals(path, item)
    elif isinstance(value, str) and "${" in value:
        raise TrustError(f"{path}={value}: is an interpolation; a run's config holds plain values")


def _check(path: str, value: Any, kind: type, packages: set[str]) -> None:
    """Refuse a node that is no instance of `kind`, or holds others than torch modules."""
    from torch import nn

    inside: list[tuple[str, Any]] = []
    if isinstance(value, Mapping):
        inside = [(f"{path}.{key}", item) for key, item in value.items() if key != "_target_"]
        target = value.get("_target_", "")
        if "_target_" in value and not (isinstance(target, str) and target.partition(".")[0] in packages):
            _require_class(f"{path}._target_", target, kind)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        inside = [(f"{path}[{index}]", item) for index, item in enumerate(value)]
    for key, item in inside:
        _check(key, item, nn.Module, packages)


def _require_class(path: str, target: Any, kind: type) -> None:
    """Refuse a name that is not a subclass of `kind` defined in one of HOMES; imported there is not enough."""
    setting = f"{path}={target}"
    if not isinstance(target, str) or not target.startswith(tuple(f"{home}." for home in HOMES)):
        raise _refusal(setting, str(target))
    module, _, name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except Exception:  # no such module, or its dependencies are not installed
        raise TrustError(f"{setting}: there is no such class") from None
    defined = getattr(found, "__module__", "") + "."
    if not (isinstance(found, type) and defined.startswith(tuple(f"{home}." for home in HOMES))):
        raise TrustError(f"{setting}: is not a class of rlexp or torch.nn; such a run is not loaded")
    if not issubclass(found, kind):
        raise TrustError(f"{setting}: is not a subclass of {kind.__name__}; such a run is not loaded")


def _refusal(setting: str, target: str) -> TrustError:
    package = target.partition(".")[0]
    return TrustError(
        f"{setting}: would run code of {package}, which is not trusted; if you trust it, set trust={package} "
        f"(in Python load_policy(..., trust=['{package}']))"
    )
