"""Trust: which code an untrusted run folder may run when its policies are loaded, and where may be written.

A config names classes to instantiate and modules to import, and both run code. Allowed are classes that rlexp and
torch.nn define, wrappers of well-known packages that only transform, installed plugins of rlexp (entry points
in the group `rlexp`), and packages that the user trusts by name.
"""

import importlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from gymnasium import ActionWrapper, ObservationWrapper, RewardWrapper, Wrapper

from rlexp.errors import TrustError

KNOWN = ("gymnasium", "ale_py", "envpool", "minigrid")  # importing them only registers environments
HOMES = ("rlexp", "torch.nn")
# wrappers of KNOWN that are not of observations, rewards or actions alone; those that write files are not among them
WRAPPERS = ("FrameStackObservation", "MaxAndSkipObservation", "TimeAwareObservation", "TimeLimit", "StickyAction")


def require_trusted(config: Mapping[str, Any], wanted: Mapping[str, type], trust: Sequence[str] = ()) -> None:
    """Refuse a config that would run untrusted code; the TrustError names the key and the first untrusted name.

    Args:
        config: plain data, by group.
        wanted: groups that will be instantiated, and the class of each; nodes inside may be torch modules.
        trust: further packages whose classes may be instantiated, as those of installed plugins may.
    """
    from torch import nn

    plugins = {entry.value.partition(":")[0].partition(".")[0] for entry in entry_points(group="rlexp")}
    packages = {name.partition(".")[0] for name in trust} | plugins
    for path, value in _nodes("", config):
        if isinstance(value, str) and "${" in value:
            raise TrustError(f"{path}={value}: is an interpolation; a run's config holds plain values")
    for group, kind in wanted.items():
        node = config.get(group)
        if not isinstance(node, Mapping) or "_target_" not in node:
            raise TrustError(f"{group}: has no _target_, so it cannot be instantiated")
        for path, value in _nodes(group, node):
            if isinstance(value, Mapping) and "_target_" in value:
                target = value["_target_"]
                if isinstance(target, str) and target.partition(".")[0] in packages:
                    continue
                wraps = re.fullmatch(r"env\.wrappers\[\d+\]", path) is not None
                if wraps and str(target).partition(".")[0] in KNOWN:
                    _require_wrapper(f"{path}._target_", str(target))
                else:
                    _require_class(
                        f"{path}._target_", target, kind if path == group else Wrapper if wraps else nn.Module
                    )
    module = str((config["env"] or {}).get("id", "")).rpartition(":")[0] if "env" in wanted else ""
    if module and module.partition(".")[0] not in {*KNOWN, *packages}:
        raise _refusal(f"env.id={config['env']['id']}", module)


def require_no_links(paths: Iterable[Path]) -> None:
    """Refuse symbolic links, through which a write would land elsewhere; the TrustError names the link."""
    for path in paths:
        if path.is_symlink():
            raise TrustError(f"{path}: is a symbolic link in a folder that a run writes to; remove it")


def require_no_links_in(folder: Path) -> None:
    """Refuse a folder that is a symbolic link, or has one in it."""
    require_no_links([folder, *folder.glob("*")])


def _nodes(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """A value and all that it holds, with their paths."""
    yield path, value
    inside: list[tuple[str, Any]] = []
    if isinstance(value, Mapping):
        inside = [(f"{path}.{key}".lstrip("."), item) for key, item in value.items()]
    elif isinstance(value, Sequence) and not isinstance(value, str):
        inside = [(f"{path}[{index}]", item) for index, item in enumerate(value)]
    for each in inside:
        yield from _nodes(*each)


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


def _require_wrapper(path: str, target: str) -> None:
    """Refuse a name of KNOWN that is no wrapper defined there which only transforms."""
    module, _, name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except Exception:  # no such module, or its dependencies are not installed
        raise TrustError(f"{path}={target}: there is no such class") from None
    transforms = isinstance(found, type) and issubclass(found, ObservationWrapper | RewardWrapper | ActionWrapper)
    defined = getattr(found, "__module__", "").partition(".")[0] in KNOWN
    if not (defined and (transforms or (isinstance(found, type) and found.__name__ in WRAPPERS))):
        raise _refusal(f"{path}={target}", target)


def _refusal(setting: str, target: str) -> TrustError:
    package = target.partition(".")[0]
    return TrustError(
        f"{setting}: would run code of {package}, which is not trusted; if you trust it, set trust={package} "
        f"(in Python load_policy(..., trust=['{package}']))"
    )
