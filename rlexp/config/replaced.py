"""A `_target_` that takes the place of another: what was set for the one before goes, and its own defaults count.

`optimizer._target_=torch.optim.SGD` on the command line, or a yaml that starts from `adam` or `mlp` and names another
class, would otherwise hand Adam's eps to SGD, and MLP's widths to somebody's torso.
"""

import copy
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict

from rlexp.config.schema import CONF_DIR, GROUPS
from rlexp.config.search_path import chain, folders, read
from rlexp.config.signatures import settings_of

Layer = dict[str, Any]  # what one yaml, or the command line, sets by itself: nested, unresolved
WIDE = ("algo", "env", "network", "gae")  # whose classes share settings by design: they keep what the new one takes
OVERLAYS = ("tuned", "experiment")  # yamls that set keys of other groups


def without_inherited(config: DictConfig, hydra: Any) -> DictConfig:
    """A composed config without what was set for classes that others have replaced; what the user typed stays.

    Args:
        config: composed; it stays as it is.
        hydra: Hydra's own settings of it.
    """
    words, choices = list(hydra.overrides.task), hydra.runtime.choices
    shipped = all((CONF_DIR / group / f"{choices.get(group)}.yaml").is_file() for group in GROUPS)
    places = list(folders(hydra))
    overlays = [place / group / f"{choices.get(group)}.yaml" for place in places for group in OVERLAYS]
    theirs = any(file.is_file() and not file.is_relative_to(CONF_DIR) for file in overlays)
    if shipped and not theirs and not any("_target_" in word for word in words):
        return config  # so that most commands need not read the yamls twice
    files = [(group, file) for group in (*GROUPS, *OVERLAYS) for file in chain(group, choices.get(group), places)]
    layers = [_layer(group, file) for group, file in files]
    layers += [_typed(words)]
    config = copy.deepcopy(config)
    for group in GROUPS:
        _drop(config, group, layers)
    return config


def _layer(group: str, file: Path) -> Layer:
    """What a yaml sets by itself."""
    own = {key: value for key, value in read(file).items() if key != "defaults"}
    return own if re.search(r"^# *@package _global_", file.read_text(encoding="utf-8"), re.MULTILINE) else {group: own}


def _typed(words: Sequence[str]) -> Layer:
    """What is set on the command line."""
    typed = OmegaConf.create()
    for override in OverridesParser.create().parse_overrides(list(words)):
        group, _, below = override.key_or_group.partition(".")
        if group not in GROUPS or override.is_delete():
            continue
        if below or isinstance(override.value(), dict):  # else it chooses a yaml
            OmegaConf.update(typed, override.key_or_group, override.value(), force_add=True)
    plain: Any = OmegaConf.to_container(typed)
    return plain


def _at(layer: Layer, path: str) -> Mapping[str, Any]:
    node: Any = layer
    for name in path.split("."):
        node = node.get(name) if isinstance(node, Mapping) else None
    return node if isinstance(node, Mapping) else {}


def _drop(config: DictConfig, path: str, layers: Sequence[Layer]) -> None:
    node = OmegaConf.select(config, path)
    if not OmegaConf.is_dict(node):
        return
    if "_target_" in node:
        for key in _inherited(node, path, layers):
            with open_dict(node):
                node.pop(key)
    for key in list(node):
        if OmegaConf.is_dict(node._get_node(key)):
            _drop(config, f"{path}.{key}", layers)


def plain_value(node: DictConfig, key: str) -> Any:
    """What a node has under a key, unresolved."""
    container: Any = OmegaConf.to_container(OmegaConf.masked_copy(node, [key]), resolve=False)
    return container[key]


def _inherited(node: DictConfig, path: str, layers: Sequence[Layer]) -> list[str]:
    """Keys of a node that were set before its `_target_` was, for another."""
    own = [_at(layer, path) for layer in layers]
    replaced, target = 0, None
    for number, layer in enumerate(own):
        name = layer.get("_target_", target)
        replaced, target = (number if target not in (None, name) else replaced), name
    before = {key: value for layer in own[:replaced] for key, value in layer.items()}
    since = {key for layer in own[replaced:] for key in layer}
    taken = settings_of(str(node._target_)) if path in WIDE else []
    found = []
    for key in map(str, node):
        if key in since or key.startswith("_") or f"{path}.{key}" == "optimizer.lr":  # the rate is the learner's own
            continue
        raw = plain_value(node, key)
        unchanged = key in before and (raw == before[key] or isinstance(raw, Mapping))
        if unchanged and not ({key, "**"} & set(taken)):
            found.append(key)
    return found
