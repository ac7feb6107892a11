"""The manual is true: links lead somewhere, commands parse, files and names exist, the tables are the yamls'.

A command with `...`, `<`, `$`, `key=value` or `their_pkg` in it is a pattern: of it only module or script is checked.
CHANGELOG.md and outputs/reports/ are history: of them only links, and of reports commands, are checked.
"""

import csv
import importlib
import os
import pkgutil
import re
import shlex
from pathlib import Path

import pytest
from helpers import jobs
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from rlexp import build, evaluate
from rlexp.commands import parse
from rlexp.compare import __main__ as compare
from rlexp.config import reference
from rlexp.config.help import help_text
from rlexp.config.messages import compose_config, with_plus
from rlexp.config.replaced import drop_replaced
from rlexp.config.schema import CONF_DIR
from rlexp.study import __main__ as study

ROOT = CONF_DIR.parent
MANUAL = [ROOT / "README.md", *sorted((ROOT / "outputs").glob("*.md"))]
MANUAL += [page for folder in ("conf", "rlexp", "scripts", "tests") for page in sorted((ROOT / folder).rglob("*.md"))]
REPORTS = sorted((ROOT / "outputs" / "reports").rglob("*.md"))
PAGES = [*MANUAL, *REPORTS, ROOT / "CHANGELOG.md"]
ROOMS = ["conf", "outputs", "scripts", "rlexp"]
ROOMS += [f"rlexp/{path.parent.name}" for path in sorted((ROOT / "rlexp").glob("*/__init__.py"))]
PATTERN = re.compile(r"\.\.\.|…|[<$]|key=value|their_pkg")
COMMAND = re.compile(
    r"(?:^|[\s;])(?:python -m (?P<module>rlexp[\w.]*)|(?P<script>scripts/\w+)\b(?!\.))(?P<words>[^;|&]*)"
)


def text_of(page):
    return page.read_text(encoding="utf-8") if page.exists() else ""


FENCED = r"^```[^\n]*\n(?P<fenced>(?s:.*?))^```"
INDENTED = r"(?:\A|\n)\n(?P<indented>(?: {4}[^\n]*\n|\n(?= {4}))+)"
BLOCK = re.compile(f"{FENCED}|{INDENTED}", re.MULTILINE)


def blocks(text):
    """Blocks of code: what is fenced, and runs of lines indented by four."""
    for match in BLOCK.finditer(text):
        yield match["fenced"] or re.sub(r"^ {4}", "", match["indented"] or "", flags=re.MULTILINE)


def prose(text):
    """A page without its blocks of code."""
    return BLOCK.sub("\n\n", text)


def spans(text):
    """Code in backticks, which may go over the end of a line."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose(text))]


def files_in(text):
    """Files that a page's blocks spell out, each under its path as a comment."""
    for block in blocks(text):
        parts = re.split(r"^# ([\w/]+\.(?:py|yaml))$|^(?=python -m|\$ |# \S+\.py)", block, flags=re.MULTILINE)
        for path, content in zip(parts[1::2], parts[2::2], strict=True):
            if path:
                yield path, content


def commands_in(text):
    """(module or script, words) of every command in blocks and backticks."""
    lines = [line for block in blocks(text) for line in block.replace("\\\n", " ").splitlines()]
    for line in [*lines, *spans(text)]:
        for match in COMMAND.finditer(re.sub(r"(^|\s)# .*", "", line)):
            yield match["module"] or match["script"], match["words"].strip()


COMMANDS = sorted({command for page in (*MANUAL, *REPORTS) for command in commands_in(text_of(page))})


def slug(heading):
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def anchors(page):
    return {slug(heading) for heading in re.findall(r"^#+ (.+)$", prose(text_of(page)), re.MULTILINE)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`]*`", "", prose(text_of(page)))):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if re.match(r"\w+:", link):
            continue
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_the_front_page_is_read_in_two_minutes():
    assert len(text_of(ROOT / "README.md").splitlines()) <= 130


@pytest.mark.parametrize("room", ROOMS)
def test_a_page_at_each_door_says_what_the_room_is_for(room):
    page = ROOT / room / "README.md"
    assert page.exists()
    title, *rest = [line for line in text_of(page).splitlines() if line.strip()]
    assert title.startswith("# ")
    assert len(title.split()) > 3 or rest[0][0] not in "#|-*!", "its first line says what the room is for"


def test_the_tables_of_settings_are_what_the_yamls_say():
    assert text_of(reference.PAGE) == reference.page(), "python -m rlexp.config.reference writes it"


def compose(words):
    while True:
        try:
            return compose_config(words, return_hydra_config=True)
        except HydraException as error:
            if (better := with_plus(error, words, compose_config)) is None:
                raise
            words = better


def values(override):
    """First and last value of an override that sweeps, or ends of what is searched."""
    if not override.is_sweep_override():
        return [override.input_line] * 2
    swept = [*override.sweep_string_iterator()] if override.is_discrete_sweep() else [override.value().start] * 2
    return [f"{override.get_key_element()}={value}" for value in (swept[0], swept[-1])]


def check_train(words):
    if {"-h", "--help"} & set(words):
        assert help_text(words)
        return
    elsewhere = ("-m", "init_from=", "resume=extend")  # the last two name earlier runs, which are not here
    overrides = OverridesParser.create().parse_overrides([word for word in words if not word.startswith(elsewhere)])
    for job in {tuple(first_or_last) for first_or_last in zip(*map(values, overrides), strict=True)}:
        cfg = compose(list(job))
        tuned = [
            word.partition("=")[2] for word in job if word.startswith("tuned=")
        ]  # a group that Hydra may leave out
        assert all((CONF_DIR / "tuned" / f"{name}.yaml").exists() for name in tuned)
        build.check(drop_replaced(cfg, cfg.hydra))


def check_compare(words):
    parse(words, compare.OPTIONS, compare.USAGE)


def check_study(words):
    name, *others = words
    parse(others or ["."], study.OPTIONS[name], "a folder")


def check_evaluate(words):
    parse(words, evaluate.OPTIONS)


CHECKS = {
    "rlexp.train": check_train,
    "scripts/train": check_train,
    "rlexp.compare": check_compare,
    "scripts/compare": check_compare,
    "rlexp.study": check_study,
    "rlexp.evaluate": check_evaluate,
}


@pytest.fixture
def their_files(tmp_path, monkeypatch):
    """A working directory with the files that the manual spells out."""
    for page in MANUAL:
        for path, content in files_in(text_of(page)):
            file = tmp_path / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("name", "words"), COMMANDS, ids=[" ".join(command) for command in COMMANDS])
def test_commands_parse(name, words, their_files, monkeypatch):
    monkeypatch.setattr("rlexp.envs.ids.is_missing", lambda extra: False)  # whatever is installed here
    monkeypatch.setenv("WANDB_MODE", "offline")  # nobody is logged in
    if name.startswith("scripts/"):
        assert os.access(ROOT / name, os.X_OK)
    else:
        module = importlib.import_module(name)
        assert "__main__" in Path(module.__file__).read_text() or pkgutil.resolve_name(f"{name}.__main__")
    given = shlex.split(words)
    if name in CHECKS and given and not PATTERN.search(words):
        CHECKS[name](given)


@pytest.mark.parametrize("page", MANUAL, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_files_and_names_exist(page):
    text = text_of(page)
    theirs = {path for other in MANUAL for path, _ in files_in(text_of(other))}
    for span in spans(text):
        if re.fullmatch(r"(?:rlexp|scripts|tests)/[\w/.]+", span):
            assert (ROOT / span).exists() or span in theirs, span
        if re.fullmatch(r"rlexp(?:\.\w+)+", span):
            pkgutil.resolve_name(span)
    for module, names in re.findall(r"^from (rlexp[\w.]*) import ([\w, ]+)$", "\n".join(blocks(text)), re.MULTILINE):
        for name in names.split(", "):
            assert hasattr(importlib.import_module(module), name.strip()), f"{module}.{name}"


def test_the_objective_of_the_front_page_trains(their_files, cli):
    assert dict(files_in(text_of(ROOT / "README.md"))).keys() == {"their_pkg/calm.py", "conf/algo/calm.yaml"}
    tiny = ["total_steps=256", "algo.rollout_steps=16", "compile=false", "progress=none", "evaluation.episodes=0"]
    result = cli("algo=calm", "env=cartpole", "tuned=none", *tiny)
    assert result.code == 0, result.err
    with open(jobs(their_files)[0] / "metrics.csv", newline="") as file:
        assert all(float(row["calm"]) >= 0 for row in csv.DictReader(file))
