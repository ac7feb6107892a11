"""--help: every key with its value and the comment of its yaml; `--help algo.anchor_coef`: all that is known of one."""

import inspect
import itertools
import re
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from rlexp.config.messages import composed
from rlexp.config.replaced import plain_value, without_inherited
from rlexp.config.schema import CHOICES, CONF_DIR, GROUPS
from rlexp.config.search_path import chain, choices_with, folders, read
from rlexp.config.signatures import nearest, parameters_of
from rlexp.errors import ConfigError

HEAD = """python -m rlexp.train [group=choice] [key=value ...]   trains agents; -m: a job for each of a,b,c
python -m rlexp.train --help                           all keys, with their values here and what they mean
python -m rlexp.train --help algo.anchor_coef          one key, or one group

total_steps, stop_at, checkpoint_every and log_every count rows of an agent's rollouts: environment steps, and one row
for each reset.
"""
DEFAULTS = {
    "env": "cartpole",
    "algo": "ppo",
    "network": "mlp",
    "optimizer": "adam",
    "gae": "default",
}  # explain most keys
LINE = re.compile(
    r"^(?P<indent> *)(?P<key>[A-Za-z_][\w.]*):(?P<value>(?:[^#\"']|\"[^\"]*\"|'[^']*'|(?<! )#)*)(?:#(?P<comment>.*))?$"
)
WIDTH, ROOM = 34, 116  # of key and value, before the comment; of both


def comments(file: Path) -> dict[str, str]:
    """What a yaml says beside its keys: dotted key -> comment, of several lines as one."""
    found: dict[str, str] = {}
    path: list[tuple[int, str]] = []
    last = ""
    for line in file.read_text(encoding="utf-8").splitlines():
        if line.lstrip().startswith("#"):
            if last and line.startswith(" "):  # goes on below
                found[last] += f" {line.strip(' #')}"
            continue
        match = LINE.match(line)
        if match is None:
            last = ""
            continue
        indent = len(match["indent"])
        path = [(depth, name) for depth, name in path if depth < indent] + [(indent, match["key"])]
        key = ".".join(name for _, name in path)
        last = key if match["comment"] else ""
        if last:
            found[key] = match["comment"].strip()
    return found


def _about(file: Path) -> str:
    """What a yaml says of itself, at its head."""
    lines = file.read_text(encoding="utf-8").splitlines()
    head = itertools.takewhile(lambda line: line.startswith("#"), lines)
    return " ".join(line.strip("# ") for line in head if "@package" not in line)


class Explainer:
    """Knows the config that some words make, and what its yamls say of it.

    Args:
        words: overrides.
    """

    def __init__(self, words: Sequence[str]) -> None:
        config = composed(list(words), return_hydra_config=True)
        self.hydra: Any = config.hydra
        config = without_inherited(config, self.hydra)
        self.config = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
        self.places = list(folders(self.hydra))
        self.said = comments(CONF_DIR / "config.yaml")
        for group in GROUPS:
            files = [*chain(group, DEFAULTS[group], self.places), *chain(group, self.choice(group), self.places)]
            for file in files:
                self.said |= {f"{group}.{key}": text for key, text in comments(file).items()}

    def choice(self, group: str) -> str:
        """What is chosen in a group."""
        return str(self.hydra.runtime.choices.get(group))

    def everything(self) -> str:
        """All keys."""
        lines = [HEAD]
        for key in map(str, self.config):
            if key in GROUPS:
                lines += ["", *self._group(key)]
            else:
                lines += self._lines(key, self.config._get_node(key))
        return "\n".join(lines)

    def one(self, key: str) -> str:
        """One key or group.

        Raises:
            ConfigError: there is none, nor does what it is meant for take it.
        """
        if key in GROUPS:
            return "\n".join(self._group(key))
        parent, _, name = key.rpartition(".")
        above = OmegaConf.select(self.config, parent) if parent else self.config
        node = above._get_node(name) if isinstance(above, DictConfig) else None
        target = above.get("_target_") if isinstance(above, DictConfig) and parent else None
        taken = parameters_of(str(target)) if target else {}
        if node is None and name not in taken:
            raise ConfigError(f"{key}: {self._unknown(key, [*map(str, above or self.config), *taken])}")
        if node is not None and isinstance(node, DictConfig):
            return "\n".join(self._lines(key, node))
        default = taken[name].default if name in taken else inspect.Parameter.empty
        value = _told(plain_value(above, name)) if node is not None else _told(default)
        lines = [f"{key}={value}   {self.said.get(key, '')}".rstrip()]
        if target:
            own = "" if default is inspect.Parameter.empty else f", by itself {_told(default)}"
            lines.append(f"  of {target}{own}" + ("" if node is not None else "; in no yaml"))
        if key in CHOICES:
            lines.append(f"  one of {', '.join(CHOICES[key])}")
        places = list(self._set_by(key))
        lines += [f"  {file} sets {text}" for file, text in places]
        if places and key not in self.said:
            lines.append(f"  what it means is told here once it is written beside it: {name}: {value}  # ...")
        return "\n".join(lines)

    def _unknown(self, key: str, known: list[str]) -> str:
        """What is told of a key that there is not."""
        group, parent = key.partition(".")[0], key.rpartition(".")[0]
        if others := choices_with(key, self.places):
            of = f"of {', '.join(others)} it is one: {others[0]} --help {key}"
            return f"{group}={self.choice(group)} has no such setting; {of}"
        names = [name for name in dict.fromkeys(known) if not name.startswith("_")]
        return f"there is no such setting; {nearest(key.rpartition('.')[2], names, f'{parent}.' if parent else '')}"

    def _set_by(self, key: str) -> Iterator[tuple[Path, str]]:
        for group in (*GROUPS, "tuned", "experiment"):
            inside = key if group in ("tuned", "experiment") else key.removeprefix(f"{group}.")
            for file in chain(group, self.choice(group), self.places) if inside != key or group not in GROUPS else ():
                value = OmegaConf.select(OmegaConf.create(read(file)), inside)
                if value is not None:
                    yield file, str(value)

    def _group(self, group: str) -> list[str]:
        options = sorted({file.stem for place in self.places for file in (place / group).glob("*.yaml")})
        *_, file = [CONF_DIR, *chain(group, self.choice(group), self.places)]
        about = _about(file) if file != CONF_DIR else ""
        head = f"{group}={self.choice(group)}"
        return [*_beside(head, about), *_beside("", f"one of {', '.join(options)}"), *self._children(group)]

    def _children(self, path: str) -> list[str]:
        node = OmegaConf.select(self.config, path)
        return [line for key in map(str, node or ()) for line in self._lines(f"{path}.{key}", node._get_node(key))]

    def _lines(self, path: str, node: Any) -> list[str]:
        """A key and those below it."""
        if path.rpartition(".")[2] in ("_partial_", "_convert_"):
            return []
        if isinstance(node, DictConfig) and len(node):
            return self._children(path)
        parent, _, name = path.rpartition(".")
        head = f"{path}={_told(plain_value(OmegaConf.select(self.config, parent) if parent else self.config, name))}"
        return _beside(head, self.said.get(path, ""))


def _beside(head: str, comment: str) -> list[str]:
    """A comment beside what it is about, in as many lines as it takes."""
    first, *others = textwrap.wrap(comment, ROOM - WIDTH) or [""]
    space = " " * WIDTH
    return [f"{head:{WIDTH}}  # {first}" if first else head, *(f"{space}  # {line}" for line in others)]


def _told(value: Any) -> str:
    """A value as it is typed."""
    if isinstance(value, list):
        return f"[{','.join(map(_told, value))}]"
    return (
        {None: "null", True: "true", False: "false"}[value] if value is None or isinstance(value, bool) else str(value)
    )


def help_text(words: Sequence[str]) -> str:
    """What --help prints beside these words, of which those without = are the keys that are asked for."""
    parser = OverridesParser.create()
    chosen = [word for word in words if "=" in word and not parser.parse_override(word).is_sweep_override()]
    explainer = Explainer(chosen)
    keys = [word for word in words if "=" not in word and not word.startswith("-")]
    return "\n".join(explainer.one(key) for key in keys) if keys else explainer.everything()
