"""--help: every key with its value and the comment in its yaml; `--help algo.anchor_coef` describes one key."""

import inspect
import itertools
import re
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from rlexp.config.messages import compose_config
from rlexp.config.replaced import drop_replaced, plain_value
from rlexp.config.schema import CHOICES, CONF_DIR, GROUPS, LOCAL, LOGGER, OVERLAYS
from rlexp.config.search_path import chain, choices_that_set, folders, node_at, read
from rlexp.config.signatures import parameters_of
from rlexp.errors import ConfigError
from rlexp.text import nearest

HEAD = """python -m rlexp.train [group=choice] [key=value ...]   trains agents; -m: a job for each of a,b,c
python -m rlexp.train --help                           all keys, with their values and meanings
python -m rlexp.train --help algo.anchor_coef          one key, or one group, as env, tuned or experiment

total_steps, stop_at, checkpoint_every, log_every and evaluation.every count rows of an agent's rollouts: environment
steps plus one row per reset.
"""
# their yamls have comments on most keys
DEFAULTS = {
    "env": "cartpole",
    "algo": "ppo",
    "network": "mlp",
    "optimizer": "adam",
    "gae": "default",
    "bonus": "none",
    LOGGER: "none",
}
CHOSEN = (*GROUPS, LOGGER)
OF_HYDRA = ("hydra/launcher", "hydra/sweeper")  # groups, too, whose keys are Hydra's
LINE = re.compile(
    r"^(?P<indent> *)(?P<key>[A-Za-z_][\w.]*):(?P<value>(?:[^#\"']|\"[^\"]*\"|'[^']*'|(?<! )#)*)(?:#(?P<comment>.*))?$"
)
HEAD_WIDTH, LINE_WIDTH = 34, 116  # of "key=value"; of the whole line with its comment


def comments(file: Path) -> dict[str, str]:
    """Comments after a yaml's keys: dotted key -> comment, continuation lines joined."""
    found: dict[str, str] = {}
    path: list[tuple[int, str]] = []
    last = ""
    for line in file.read_text(encoding="utf-8").splitlines():
        if line.lstrip().startswith("#"):
            if last and line.startswith(" "):  # continuation line
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


def header(file: Path) -> list[str]:
    """Lines of the comment at the top of a yaml."""
    head = itertools.takewhile(lambda line: line.startswith("#"), file.read_text(encoding="utf-8").splitlines())
    return [line.removeprefix("#").removeprefix(" ") for line in head if "@package" not in line]


class _Explainer:
    """Composes a config from overrides and looks up its keys' comments."""

    def __init__(self, words: Sequence[str]) -> None:
        config = compose_config(list(words), return_hydra_config=True)
        self.hydra: Any = config.hydra
        config = drop_replaced(config, self.hydra)
        self.config = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
        self.folders = list(folders(self.hydra))
        self.comments = comments(CONF_DIR / "config.yaml")
        for group in CHOSEN:
            files = [*chain(group, DEFAULTS[group], self.folders), *chain(group, self.choice(group), self.folders)]
            for file in files:
                self.comments |= {f"{group}.{key}": text for key, text in comments(file).items()}

    def choice(self, group: str) -> str:
        """The choice made in a group."""
        return str(self.hydra.runtime.choices.get(group))

    def all_keys(self) -> str:
        """Describe all keys."""
        lines = [HEAD]
        for key in map(str, self.config):
            lines += ["", *self._group(key)] if key in CHOSEN else self._lines(key)
        return "\n".join(lines)

    def one_key(self, key: str) -> str:
        """Describe one key or group; ConfigError if no yaml has the key and its target does not accept it."""
        if key in (*OVERLAYS, *OF_HYDRA):
            return "\n".join(self._choices(key))
        if key in (*CHOSEN, LOCAL):
            return "\n".join(self._group(key))
        above, name, node = self._find(key)
        target = above.get("_target_") if isinstance(above, DictConfig) and "." in key else None
        accepted = parameters_of(str(target)) if target else {}
        if node is None and name not in accepted:
            raise ConfigError(f"{key}: {self._unknown(key, [*map(str, above or self.config), *accepted])}")
        if node is not None and isinstance(node, DictConfig):
            return "\n".join(self._lines(key))
        default = accepted[name].default if name in accepted else inspect.Parameter.empty
        value = _as_typed(plain_value(above, name)) if node is not None else _as_typed(default)
        lines = [f"{key}={value}   {self.comments.get(key, '')}".rstrip()]
        if target:
            by_default = "" if default is inspect.Parameter.empty else f", default {_as_typed(default)}"
            lines.append(f"  of {target}{by_default}" + ("" if node is not None else "; in no yaml"))
        if key in CHOICES:
            lines.append(f"  one of {', '.join(CHOICES[key])}")
        set_in = list(self._set_by(key))
        lines += [f"  {file} sets {text}" for file, text in set_in]
        if set_in and key not in self.comments:
            lines.append(f"  no description: add a comment in the yaml, as in {name}: {value}  # ...")
        return "\n".join(lines)

    def _find(self, key: str) -> tuple[Any, str, Any]:
        """The parent of a key, its name there and its node."""
        parent, _, name = key.rpartition(".")
        above = OmegaConf.select(self.config, parent) if parent else self.config
        return above, name, above._get_node(name) if isinstance(above, DictConfig) else None

    def _unknown(self, key: str, known: list[str]) -> str:
        group, (parent, _, last) = key.partition(".")[0], key.rpartition(".")
        if others := choices_that_set(key, self.folders):
            hint = f"{', '.join(others)} has it: {others[0]} --help {key}"
            return f"{group}={self.choice(group)} has no such setting; {hint}"
        names = [name for name in dict.fromkeys(known) if not name.startswith("_")]
        return f"there is no such setting; {nearest(last, names, f'{parent}.' if parent else '')}"

    def _set_by(self, key: str) -> Iterator[tuple[Path, str]]:
        above = (*OVERLAYS, LOCAL)
        for group in [group for group in (*CHOSEN, *above) if group in above or key.startswith(f"{group}.")]:
            for file in chain(group, self.choice(group), self.folders):
                inside = key if group in above else key.removeprefix(f"{group}.")
                parent, _, name = inside.rpartition(".")
                value = node_at(read(file), parent).get(name)  # unresolved, as an interpolation may name another group
                if value is not None:
                    yield file, str(value)

    def _options(self, group: str) -> list[Path]:
        """The yamls of a group, by name; where folders have one of the same name, the first folder's."""
        found = {file.stem: file for folder in reversed(self.folders) for file in (folder / group).glob("*.yaml")}
        return [found[name] for name in sorted(found)]

    def _choices(self, group: str) -> list[str]:
        """What a group is, and each of its choices with the comment at its top."""
        told = {file.stem: " ".join(map(str.strip, header(file))) for file in self._options(group)}
        each = [_with_comment(f"  {name}", about) for name, about in told.items()]
        return [f"{group}={_as_typed(self.hydra.runtime.choices.get(group))}   one of", *itertools.chain(*each)]

    def _group(self, group: str) -> list[str]:
        options = [file.stem for file in self._options(group)]
        known = f"one of {', '.join(options)}" if options else f"there is no conf/{group}/ here"
        *_, file = [CONF_DIR, *chain(group, self.choice(group), self.folders)]
        about = " ".join(map(str.strip, header(file))) if file != CONF_DIR else ""
        head = _with_comment(f"{group}={self.choice(group)}", about)
        return [*head, *_with_comment("", known), *self._children(group)]

    def _children(self, path: str) -> list[str]:
        return [line for key in OmegaConf.select(self.config, path) or () for line in self._lines(f"{path}.{key}")]

    def _lines(self, path: str) -> list[str]:
        """Describe a key and those below it."""
        above, name, node = self._find(path)
        if name in ("_partial_", "_convert_"):
            return []
        if isinstance(node, DictConfig) and len(node) and all(isinstance(key, str) for key in node):
            return self._children(path)
        return _with_comment(f"{path}={_as_typed(plain_value(above, name))}", self.comments.get(path, ""))


def _with_comment(head: str, comment: str) -> list[str]:
    """A line with its comment, wrapped over as many lines as needed."""
    first, *others = textwrap.wrap(comment, LINE_WIDTH - HEAD_WIDTH) or [""]
    space = " " * HEAD_WIDTH
    return [f"{head:{HEAD_WIDTH}}  # {first}" if first else head, *(f"{space}  # {line}" for line in others)]


def _as_typed(value: Any) -> str:
    """A value as one would type it."""
    if isinstance(value, list):
        return f"[{','.join(map(_as_typed, value))}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def help_text(words: Sequence[str]) -> str:
    """The output of --help. words: overrides, and keys (without =) to describe."""
    parser = OverridesParser.create()
    chosen = [word for word in words if "=" in word and not parser.parse_override(word).is_sweep_override()]
    explainer = _Explainer(chosen)
    keys = [word for word in words if "=" not in word and not word.startswith("-")]
    return "\n".join(explainer.one_key(key) for key in keys) if keys else explainer.all_keys()
