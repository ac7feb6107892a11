"""What a run's folder, which may be a stranger's, may have made when its policies are loaded, and where it is written.

A config names classes to be made and modules to be imported, and either runs code. Of a run that is only read, that is
what rlexp and torch.nn define, what is installed as a plugin of rlexp (an entry point of the group `rlexp`), and what
the reader trusts by name.
"""

import importlib
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from rlexp.errors import TrustError

KNOWN = ("gymnasium", "ale_py", "envpool", "minigrid")  # whose import registers environments, and does nothing else
HOMES = ("rlexp", "torch.nn")


def trusted_packages(trust: Iterable[str]) -> set[str]:
    """Top-level packages whose code may run: those named, and those installed as plugins."""
    plugins = {entry.value.partition(":")[0].partition(".")[0] for entry in entry_points(group="rlexp")}
    return {name.partition(".")[0] for name in trust} | plugins


def require_trusted(config: Mapping[str, Any], wanted: Mapping[str, type], trust: Sequence[str] = ()) -> None:
    """Refuse a config that would have a stranger's code run.

    Args:
        config: plain data, by group.
        wanted: the groups that are to be made, and of what class each is; nodes within one may be torch's modules.
        trust: packages whose classes may be made all the same.

    Raises:
        TrustError: names the key and the first thing that is not trusted.
    """
    packages = trusted_packages(trust)
    _require_literals("", config)
    for group, kind in wanted.items():
        node = config.get(group)
        if not isinstance(node, Mapping) or "_target_" not in node:
            raise TrustError(f"{group}: has no _target_, so that nothing can be made of it")
        _check(group, node, kind, packages)
    module = str((config["env"] or {}).get("id", "")).rpartition(":")[0] if "env" in wanted else ""
    if module and module.partition(".")[0] not in {*KNOWN, *packages}:
        raise _refusal(f"env.id={config['env']['id']}", module)


def require_no_links(paths: Iterable[Path]) -> None:
    """Refuse to write where a link, which may be a stranger's, would have it land elsewhere.

    Raises:
        TrustError: naming the link.
    """
    for path in paths:
        if path.is_symlink():
            raise TrustError(f"{path}: is a link to elsewhere, where a run would write; remove it")


def _require_literals(path: str, value: Any) -> None:
    """Refuse what would be worked out when it is read."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            _require_literals(f"{path}.{key}".lstrip("."), item)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for item in value:
            _require_literals(path, item)
    elif isinstance(value, str) and "${" in value:
        raise TrustError(f"{path}={value}: is worked out when it is read; a run keeps plain values")


def _check(path: str, value: Any, kind: type, packages: set[str]) -> None:
    if isinstance(value, Sequence) and not isinstance(value, str):
        for index, item in enumerate(value):
            _check(f"{path}[{index}]", item, _module_kind(), packages)
    if not isinstance(value, Mapping):
        return
    if "_target_" in value:
        target = value["_target_"]
        if not isinstance(target, str) or target.partition(".")[0] not in packages:
            _require_class(f"{path}._target_", target, kind)
    for key, item in value.items():
        if key != "_target_":
            _check(f"{path}.{key}", item, _module_kind(), packages)


def _module_kind() -> type:
    from torch import nn

    return nn.Module


def _require_class(path: str, target: Any, kind: type) -> None:
    """Refuse a name that is no class of that kind, defined in one of HOMES; what is only reached through them is not.

    Raises:
        TrustError: naming it.
    """
    told = f"{path}={target}"
    if not isinstance(target, str) or not target.startswith(tuple(f"{home}." for home in HOMES)):
        raise _refusal(told, str(target))
    module, _, name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except Exception:  # no module of that name, or one that needs what is not installed
        raise TrustError(f"{told}: there is no such class") from None
    defined = getattr(found, "__module__", "") + "."
    if not (isinstance(found, type) and defined.startswith(tuple(f"{home}." for home in HOMES))):
        raise TrustError(f"{told}: is no class of rlexp's or of torch.nn; such a run is not loaded")
    if not issubclass(found, kind):
        raise TrustError(f"{told}: is no {kind.__name__}; such a run is not loaded")


def _refusal(told: str, target: str) -> TrustError:
    package = target.partition(".")[0]
    return TrustError(
        f"{told}: code of {package}, which rlexp does not know, would run; if you trust it, say trust={package} "
        f"(in Python load_policy(..., trust=['{package}']))"
    )
