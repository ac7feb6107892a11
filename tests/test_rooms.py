"""Imports run one way: a room imports those before it in this list, and nothing after."""

import ast
import re
from pathlib import Path

import rlexp

PACKAGE = Path(rlexp.__file__).parent
BASE = "commands data errors extras files seeding signals spaces text torchrun user_code watch"  # any room may import
ROOMS = [
    "base",
    "plain",
    "networks",
    "algos",
    "checks",
    "config",
    "loggers",
    "envs",
    "compiling",
    "training",
    "parts",
    "build",
    "provenance",
    "run",
    "jobs",
    "debug",
    "execute",
    "saved",
    "evaluate",
    "export",
    "play",
    "tune_live",
    "study",
    "compare",
    "sweep",
    "train",
]


def place(module: str) -> int:
    room = module.split(".")[1]
    return ROOMS.index("base" if room in BASE.split() else room)


def imports(file: Path) -> list[str]:
    """Modules of rlexp that a file imports anywhere, also within functions and for type checkers alone."""
    froms = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.ImportFrom)]
    named = [f"{node.module}.{alias.name}" for node in froms for alias in node.names]
    return [name for name in named if name.startswith("rlexp.")]


def test_rooms_import_one_way():
    for file in sorted(PACKAGE.rglob("*.py")):
        module = ".".join(["rlexp", *file.relative_to(PACKAGE).with_suffix("").parts])
        if file != PACKAGE / "__init__.py":  # which imports load_policy when it is asked for
            assert [name for name in imports(file) if place(name) > place(module)] == [], module


def test_the_map_names_what_each_room_imports():
    found: dict[str, set[str]] = {room: set() for room in ROOMS[1:]}
    for file in PACKAGE.rglob("*.py"):
        room = file.relative_to(PACKAGE).with_suffix("").parts[0]
        if room in found:
            found[room] |= {name.split(".")[1] for name in imports(file)} - {room, *BASE.split()}
    table = (PACKAGE / "README.md").read_text().partition("## Which room imports which")[2].split("```")[1]
    lines = [line.split() for line in re.sub(r"[→,]|\(.*\)", "", table).strip().splitlines()]
    assert {room: set(imported) for room, *imported in lines[:-1]} == found
    assert lines[-1][: len(BASE.split())] == BASE.split()


def test_no_two_modules_import_each_other():
    modules = {".".join(["rlexp", *f.relative_to(PACKAGE).with_suffix("").parts]): f for f in PACKAGE.rglob("*.py")}
    left = {
        m: {n for name in imports(f) for n in (name, name.rpartition(".")[0]) if n in modules} - {m}
        for m, f in modules.items()
    }
    while leaves := {m for m, own in left.items() if not own & left.keys()}:
        left = {m: own for m, own in left.items() if m not in leaves}
    assert not left
