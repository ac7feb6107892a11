"""Drops settings of a `_target_` that another one replaces.

`optimizer._target_=torch.optim.SGD` on the command line, or a yaml that inherits from `adam` or `mlp` and names another
class, would otherwise pass Adam's eps to SGD, and MLP's widths to a user's torso.
"""

import copy
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict

from rlexp.config.schema import CONF_DIR, GROUPS, OVERLAYS
from rlexp.config.search_path import chain, folders, node_at, read
from rlexp.config.signatures import setting_names

Layer = dict[str, Any]  # settings of one yaml, or of the command line: nested, unresolved
SHARING = ("algo", "env", "network", "gae")  # classes of these share settings: those that the new one accepts are kept


def drop_replaced(config: DictConfig, hydra: Any) -> DictConfig:
    """A composed config without settings of replaced classes; settings that the user typed are kept."""
    words, choices = list(hydra.overrides.task), hydra.runtime.choices
    shipped = all((CONF_DIR / group / f"{choices.get(group)}.yaml").is_file() for group in GROUPS)
    search_path = list(folders(hydra))
    overlays = [folder / group / f"{choices.get(group)}.yaml" for folder in search_path for group in OVERLAYS]
    user_overlay = any(file.is_file() and not file.is_relative_to(CONF_DIR) for file in overlays)
    if shipped and not user_overlay and not any("_target_" in word for word in words):
        return config  # most commands need not read the yamls twice
    files = [(group, file) for group in (*GROUPS, *OVERLAYS) for file in chain(group, choices.get(group), search_path)]
    layers = [*(_layer(group, file) for group, file in files), _typed(words)]
    config = copy.deepcopy(config)
    for group in GROUPS:
        _drop(config, group, layers)
    return config


def _layer(group: str, file: Path) -> Layer:
    """Settings of one yaml, without its defaults."""
    settings = {key: value for key, value in read(file).items() if key != "defaults"}
    is_global = re.search(r"^# *@package _global_", file.read_text(encoding="utf-8"), re.MULTILINE)
    return settings if is_global else {group: settings}


def _typed(words: Sequence[str]) -> Layer:
    """Settings of the command line."""
    typed = OmegaConf.create()
    for override in OverridesParser.create().parse_overrides(list(words)):
        group, _, below = override.key_or_group.partition(".")
        if group not in GROUPS or override.is_delete():
            continue
        if below or isinstance(override.value(), dict):  # otherwise it chooses a yaml
            OmegaConf.update(typed, override.key_or_group, override.value(), force_add=True)
    plain: Any = OmegaConf.to_container(typed)
    return plain


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
    """The unresolved value of a key."""
    container: Any = OmegaConf.to_container(OmegaConf.masked_copy(node, [key]), resolve=False)
    return container[key]


def _inherited(node: DictConfig, path: str, layers: Sequence[Layer]) -> list[str]:
    """Keys of a node that were set for an earlier `_target_`."""
    nodes = [node_at(layer, path) for layer in layers]
    replaced, target = 0, None
    for number, layer in enumerate(nodes):
        name = layer.get("_target_", target)
        replaced, target = (number if target not in (None, name) else replaced), name
    before = {key: value for layer in nodes[:replaced] for key, value in layer.items()}
    since = {key for layer in nodes[replaced:] for key in layer}
    accepted = setting_names(str(node._target_)) if path in SHARING else []
    found = []
    for key in map(str, node):
        if key in since or key.startswith("_") or f"{path}.{key}" == "optimizer.lr":  # the learner's learning rate
            continue
        raw = plain_value(node, key)
        unchanged = key in before and (raw == before[key] or isinstance(raw, Mapping))
        if unchanged and not ({key, "**"} & set(accepted)):
            found.append(key)
    return found
