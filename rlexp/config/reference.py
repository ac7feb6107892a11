"""conf/reference.md, every key and choice, made from the yamls: python -m rlexp.config.reference writes it."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import yaml

from rlexp.config.help import comments, header
from rlexp.config.schema import CONF_DIR, GROUPS, LOGGER, OVERLAYS
from rlexp.config.search_path import chain

PAGE = CONF_DIR / "reference.md"
HYDRA = ("hydra/launcher", "hydra/sweeper")
PAGED = ("algo", "bonus")  # groups whose choices have a page in rlexp/algos


def settings(file: Path) -> dict[str, str]:
    """Dotted key -> value as the yaml writes it (3e-4, 500_000), without `defaults` and Hydra's keys."""
    root = yaml.compose(file.read_text(encoding="utf-8"))
    leaves = _leaves(root) if isinstance(root, yaml.MappingNode) else ()
    return {key: value for key, value in leaves if key.partition(".")[0] not in ("defaults", "hydra")}


def _leaves(node: yaml.MappingNode, prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in node.value:
        if isinstance(value, yaml.MappingNode) and value.value:
            yield from _leaves(value, f"{prefix}{key.value}.")
        elif key.value != "_partial_":
            yield prefix + key.value, _written(value)


def _written(node: yaml.Node) -> str:
    if isinstance(node, yaml.SequenceNode):
        return f"[{', '.join(map(_written, node.value))}]"
    return "{}" if isinstance(node, yaml.MappingNode) else node.value


def summary(file: Path) -> str:
    """The comment at the head of a yaml, without the command that chooses it."""
    lines = [re.sub(r"^ +(\w+) +", r"· \1: ", line) for line in header(file)]  # an indented list of names
    return re.sub(r": python -m rlexp\.train \S+", ".", " ".join(lines))


def escaped(text: str) -> str:
    """Text for a cell of a Markdown table; code in backticks stays as it is."""
    parts = text.replace("|", "\\|").split("`")
    parts[::2] = [re.sub(r"([<*])", r"\\\1", part) for part in parts[::2]]
    return "`".join(parts)


def _code(text: str) -> str:
    return f"`{text}`".replace("|", "\\|")


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    head = list(head)
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def _keys(prefix: str, values: dict[str, str], explained: dict[str, str]) -> list[str]:
    """A row for each key; a class is explained by the comment of the node that holds it."""
    rows = []
    for key, value in values.items():
        meaning = explained.get(key, explained.get(key.removesuffix("._target_"), ""))
        rows.append((_code(prefix + key), _code(value), escaped(meaning)))
    return _table(("key", "default", "meaning"), rows)


def _sets(group: str, bases: list[Path], values: dict[str, str]) -> str:
    starts = [f"{_code(base.stem)}, then" for base in bases[-1:]]
    words = [_code(f"{key}={value}") for key, value in values.items() if group not in HYDRA or key != "_target_"]
    return " ".join([*starts, ", ".join(words)]).removesuffix(", then ")


def _group(group: str) -> Iterator[str]:
    """The choices of a group, with what they change, then the keys that they add."""
    places = [CONF_DIR]
    chains = [list(chain(group, file.stem, places)) for file in (CONF_DIR / group).glob("*.yaml")]
    rows, added = [], []
    for *bases, file in sorted(chains, key=lambda files: (len(files), files[-1].stem)):
        known = {key for base in bases for key in settings(base)}
        values = settings(file)
        new = {key: x for key, x in values.items() if group not in OVERLAYS and key not in ("_target_", *known)}
        sets = {key: value for key, value in values.items() if key not in new}
        page = f"rlexp/algos/{file.stem}.md"
        more = [f"[Page](../{page})."] if group in PAGED and (CONF_DIR.parent / page).exists() else []
        row = [f"[{_code(file.stem)}]({group}/{file.name})", " ".join([escaped(summary(file)), *more])]
        rows.append(row if group in (*HYDRA, "experiment") else [*row, _sets(group, bases, sets)])
        if new:
            keys = _keys(f"{group.replace('/', '.')}.", new, comments(file))
            added += ["", f"`{group}={file.stem}`{' adds' if bases else ''}:", "", *keys]
    head = ["choice", "what it is", "sets"][: len(rows[0])]
    yield from ("", f"## {group}", "", *_table(head, rows), *added)


def page() -> str:
    """Every key and every choice, from the yamls and their comments."""
    file = CONF_DIR / "config.yaml"
    lines = ["# Every key and every choice", ""]
    lines += ["Made from the yamls: `python -m rlexp.config.reference`. [What one has to know of them](README.md).", ""]
    lines += ["## Run", "", f"In [`{file.name}`]({file.name}).", "", *_keys("", settings(file), comments(file))]
    for group in (*GROUPS, LOGGER, *OVERLAYS, *HYDRA):
        lines += _group(group)
    return "\n".join([*lines, ""])


def main() -> None:
    """Write conf/reference.md."""
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
