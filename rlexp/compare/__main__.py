"""Compare the runs of a study: which arm is better, by how much, and how certain that is.

    python -m rlexp.compare outputs/first                      every run below that folder
    python -m rlexp.compare outputs/a outputs/b baseline=ppo   runs of several studies
    python -m rlexp.compare outputs/first plan=true            before that: how many seeds the margin needs

Settings: primary=MEASURE (gives the verdict; default: declared, else evaluation) · margin=5% or margin=25 (smallest
difference that matters; default: declared) · plan=true (propose and declare numbers of seeds; most=40: at most) ·
baseline=ARM (default: ppo, else the first) · allow=KEY,KEY or allow=all (settings that may differ besides the tested
one) · threshold=400 (for retention and steps to threshold; default: each environment's) · beside=FILE.csv (published
scores: env, score, deviation, seeds, source) · out=FOLDER (default: compare/ in the first path) · figures=false ·
width=3.4 (of figures, inches; pdf too) · fonts=paths (in svg; default: text) · logger=wandb,mlflow (send answer and
page there; settings as in training: logger.wandb.project=x). Needs the extra `compare`.

Measures: evaluation · evaluation_sampled · final · area · retention. Answers: better, worse, equivalent (within the
margin), inconclusive, interim (no verdict, or not yet: the sentence says why). More seeds: the study's own command with
seed=10 num_seeds=10 added. All of it is explained in rlexp/compare/README.md.
"""

import contextlib
import functools
import math
import shlex
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlexp.commands import Options, boolean, command, names, parse, positive
from rlexp.compare.logged import loggers_named, send
from rlexp.compare.page import page
from rlexp.config.declaration import PRIMARY, margin_flaw
from rlexp.errors import ConfigError
from rlexp.extras import needing
from rlexp.files import write_atomically
from rlexp.run.names import folder_named
from rlexp.text import nearest, sanitize_markdown

if TYPE_CHECKING:
    from rlexp.compare.arms import Comparison
    from rlexp.compare.results import Judgement

WRITTEN = ("compare.csv", "scores.csv", "curves.csv", "last_rows.csv", "compare.md", "compare.html")  # and figures
EVALUATIONS = "evaluations.csv"  # if there were any during training


def mean_return(text: str) -> float:
    """A threshold."""
    with contextlib.suppress(ValueError):
        if math.isfinite(value := float(text)):
            return value
    raise ValueError("must be a number, a mean return")


def inches(text: str) -> float:
    """A figure's width."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 2 <= value <= 30:
        raise ValueError("must be a width in inches, 2 to 30")
    return value


def lettering(text: str) -> str:
    """How figures hold their text."""
    if text not in ("text", "paths"):
        raise ValueError("must be text (selectable, in the reader's font) or paths (looks the same everywhere)")
    return text


def measure(text: str) -> str:
    """A measure that may be the primary one."""
    if text not in PRIMARY:
        raise ValueError(f"no such measure; {nearest(text, PRIMARY)}")
    return text


def smallest_effect(text: str) -> float | str:
    """A margin: a number, or a share in percent."""
    value: float | str = text
    with contextlib.suppress(ValueError):
        value = float(text)
    if flaw := margin_flaw(value):
        raise ValueError(flaw)
    return value


TEXT: Options = dict.fromkeys(("baseline", "beside", "out"), str)
OPTIONS: Options = {
    **TEXT,
    "primary": measure,
    "margin": smallest_effect,
    "plan": boolean,
    "most": positive,
    "allow": names,
    "threshold": mean_return,
    "figures": boolean,
    "width": inches,
    "fonts": lettering,
    "logger": names,
}
SEARCHED = "hydra.searchpath="  # where yamls of loggers may be
USAGE = "python -m rlexp.compare outputs/<study>"


def move(made: Path, folder: Path, optional: Collection[str]) -> None:
    """Move the new files into the folder, each atomically and the page last; delete what is optional and not new."""
    new = sorted((path.name for path in made.iterdir()), key=lambda name: (name in WRITTEN, name == "compare.html"))
    for name in new:
        write_atomically(folder / name, (made / name).read_bytes())
    for old in {*optional} - {*new}:
        (folder / old).unlink(missing_ok=True)


def run(words: list[str]) -> None:
    """Read the runs, judge them, print the answer and write the report; or plan the study."""
    of_loggers = [word for word in words if "=" in word and word.startswith(("logger=", "logger.", SEARCHED))]
    more = [word for word in of_loggers if not word.startswith("logger=")]
    paths, options = parse([word for word in words if word not in more], OPTIONS, USAGE)
    _require_used(options)
    with needing("compare", ""):
        from rlexp.compare import figures, report, verdict
        from rlexp.compare.published import read_published
    from rlexp.compare.arms import compare_runs
    from rlexp.compare.audit import missing_jobs, waiting_jobs
    from rlexp.compare.look_book import LookBooks
    from rlexp.compare.measures import without_retention
    from rlexp.compare.question import against_records, question_of, to_record
    from rlexp.study.runs import find_runs

    named = [folder_named(path) for path in paths]
    studies = [path.resolve().parent.name if (path / "run.json").is_file() else path.resolve().name for path in named]
    paths = [str(path) for path in named]
    folder = Path(options.get("out") or named[0] / "compare")
    _require_no_links(folder, (*WRITTEN, EVALUATIONS, *figures.FILES), named="out" in options)
    typed = shlex.join(["python", "-m", "rlexp.compare", *words])
    loggers = loggers_named(of_loggers, folder, {"command": typed}, list(dict.fromkeys(studies)))
    published = read_published(options["beside"]) if "beside" in options else []
    runs = find_runs(paths)
    missing = missing_jobs(paths, runs)
    runs += waiting_jobs(paths, runs)
    comparison = compare_runs(runs, options.get("allow", ()), options.get("threshold"), missing)
    comparison.remarks += without_retention(comparison)
    books = LookBooks(*comparison.studies)
    baseline = verdict.pick_baseline(comparison, options.get("baseline"), books.record)
    question = question_of(comparison, options.get("primary"), options.get("margin"), books.record)
    content = to_record(comparison, question, baseline)
    if options.get("plan"):
        from rlexp.compare.proposal import propose
        from rlexp.compare.scoring import number_of, primary_scores

        scored, compared = primary_scores(comparison, baseline, question)
        tests = number_of(books.everything(compared))
        if books.shown:  # what is chosen now stays said
            content["late"] = [*against_records(question, content, books.records).late]
        told = propose(comparison, scored, tests, question, books, options.get("most", 40))
        if failed := books.save(plan=True, **content):
            told_of = "; ".join(f"{path}: cannot be written ({why})" for path, why in failed.items())
            raise ConfigError(f"{told_of}, and declares the plan")
        print("\n".join(told))
        return
    judgement = verdict.judge(comparison, baseline, against_records(question, content, books.records), books)
    failed = books.save(**content)  # before anything is told: whoever has seen a verdict has looked
    comparison.remarks[:0] = [f"{path}: this look could not be recorded ({why})" for path, why in failed.items()]
    print(report.plain(comparison, judgement))
    tables = report.sections(comparison, judgement, published)
    text = f"`{typed}`\n\n{report.markdown(comparison, judgement, books, tables)}"
    drawn = _write(folder, comparison, judgement, text, options)
    print(f"\nwrote {folder}/compare.html (self-contained), compare.md, tables" + (" and figures" if drawn else ""))
    written = [folder / name for name in (*WRITTEN, EVALUATIONS, *(f"{name}.svg" for name in drawn))]
    send(loggers, report.plain(comparison, judgement), [path for path in written if path.exists()])


def _require_used(options: dict[str, Any]) -> None:
    """Refuse settings that would do nothing."""
    if options.get("plan"):
        useless = dict.fromkeys(("beside", "out", "figures", "width", "fonts", "logger"), "plan=true writes no page")
    else:
        useless = {"most": "is a setting of plan=true"}
        if not options.get("figures", True):
            useless |= dict.fromkeys(("width", "fonts"), "figures=false draws none")
    for name in [name for name in useless if name in options]:
        raise ConfigError(f"{name}=: {useless[name]}; leave it out")


def _require_no_links(folder: Path, files: Collection[str], named: bool) -> None:
    """Refuse to write through links, as an untrusted study may contain; a folder that the user names may be one."""
    for path in ([] if named else [folder]) + [folder / name for name in files]:
        if path.is_symlink():
            raise ConfigError(f"{path}: is a symbolic link; remove it, or write elsewhere with out=FOLDER")


def _write(
    folder: Path, comparison: "Comparison", judgement: "Judgement", text: str, options: dict[str, Any]
) -> list[str]:
    """Write tables, figures and the report into the folder; returns the names of the figures.

    Raises:
        ConfigError: the folder cannot be made or written to.
    """
    from rlexp.compare import figures, tables

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"out={folder}: cannot create this folder ({error.strerror}); choose another") from None
    drawn: list[str] = []
    try:
        with tempfile.TemporaryDirectory() as temporary:  # complete before it is moved: a signal leaves the old page
            made = Path(temporary)
            tables.write_csv(made / "compare.csv", tables.results_table(judgement))
            tables.write_csv(made / "scores.csv", tables.scores_table(comparison, judgement))
            tables.write_csv(made / "curves.csv", tables.curves_table(comparison), digits=4)
            if evaluations := tables.evaluations_table(comparison):
                tables.write_csv(made / EVALUATIONS, evaluations)
            tables.write_csv(made / "last_rows.csv", tables.last_rows_table(comparison))
            if options.get("figures", True):
                drawn = figures.draw(comparison, judgement, made, options.get("width"), options.get("fonts", "text"))
            pictures = "\n\n".join(f"![{name}]({name}.svg)" for name in drawn)
            markdown = f"# Comparison\n\n{sanitize_markdown(text)}\n\n{pictures}\n".replace("\n\n\n", "\n\n")
            (made / "compare.md").write_text(markdown, encoding="utf-8")
            drawings = [(made / f"{name}.svg").read_text(encoding="utf-8") for name in drawn]
            (made / "compare.html").write_text(page(text, drawings), encoding="utf-8")
            move(made, folder, (*figures.FILES, EVALUATIONS))
    except OSError as error:
        raise ConfigError(
            f"out={folder}: cannot write to it ({_cause(error)}); free some space, or choose another"
        ) from error
    return drawn


def _cause(error: OSError) -> str | None:
    return getattr(error.__cause__, "strerror", None) or error.strerror


main = functools.partial(command, "rlexp.compare", __doc__, run)

if __name__ == "__main__":
    main()
