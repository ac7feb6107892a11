"""Compare the runs of a study: which arm is better, by how much, and how certain that is.

    python -m rlexp.compare outputs/first                      every run below that folder
    python -m rlexp.compare outputs/a outputs/b baseline=ppo   runs of several studies

Settings: baseline=ARM (default: ppo, else the first) · allow=KEY,KEY or allow=all (settings that may differ besides the
tested one) · threshold=400 (for retention and steps to threshold; default: each environment's) · beside=FILE.csv
(published scores: env, score, deviation, seeds, source) · out=FOLDER (default: compare/ in the first path) ·
figures=false. Needs the extra `compare`.
"""

import functools
import shlex
import tempfile
from collections.abc import Collection
from pathlib import Path

from rlexp.commands import Options, boolean, command, names, parse
from rlexp.compare.page import page
from rlexp.errors import ConfigError
from rlexp.files import write_atomically
from rlexp.text import sanitize_markdown

WRITTEN = ("compare.csv", "scores.csv", "curves.csv", "compare.md", "compare.html")  # besides the figures


def mean_return(text: str) -> float:
    """A threshold."""
    try:
        return float(text)
    except ValueError:
        raise ValueError("must be a number, a mean return") from None


TEXT: Options = dict.fromkeys(("baseline", "beside", "out"), str)
OPTIONS: Options = {**TEXT, "allow": names, "threshold": mean_return, "figures": boolean}
USAGE = "python -m rlexp.compare outputs/<study>"


def move(made: Path, folder: Path, figures: Collection[str]) -> None:
    """Move the new files into the folder, each atomically and the page last; delete figures no longer drawn."""
    new = sorted((path.name for path in made.iterdir()), key=lambda name: (name in WRITTEN, name == "compare.html"))
    for name in new:
        write_atomically(folder / name, (made / name).read_bytes())
    for old in {*figures} - {*new}:
        (folder / old).unlink(missing_ok=True)


def run(words: list[str]) -> None:
    """Read the runs, judge them, print the report and write it."""
    paths, options = parse(words, OPTIONS, USAGE)
    try:
        from rlexp.compare import figures, report, tables, verdict
        from rlexp.compare.published import read_published
    except ImportError as error:
        raise ConfigError(f"compare needs {error.name}, which is not installed: pip install 'rlexp[compare]'") from None
    from rlexp.compare.arms import compare_runs
    from rlexp.compare.audit import missing_jobs, waiting_jobs
    from rlexp.study.runs import find_runs

    folder = Path(options.get("out") or Path(paths[0]) / "compare")
    figure_files = [f"{name}.{kind}" for name in figures.NAMES for kind in ("svg", "png")]
    own = [] if "out" in options else [folder]  # one that the user names may be a link
    for path in own + [folder / name for name in (*WRITTEN, *figure_files)]:
        if path.is_symlink():  # as an untrusted study may contain
            raise ConfigError(f"{path}: is a symbolic link; remove it, or write elsewhere with out=FOLDER")
    published = read_published(options["beside"]) if "beside" in options else {}
    runs = find_runs(paths)
    missing = missing_jobs(paths, runs)
    runs += waiting_jobs(paths, runs)
    comparison = compare_runs(runs, options.get("allow", ()), options.get("threshold"), missing)
    baseline = verdict.pick_baseline(comparison, options.get("baseline"))
    results, overall = verdict.judge(comparison, baseline)
    sections = report.sections(comparison, baseline, results, published)
    verdicts = report.verdicts(results, overall, baseline)
    print(report.plain(comparison, sections, verdicts))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"out={folder}: cannot create this folder ({error.strerror}); choose another") from None
    typed = shlex.join(["python", "-m", "rlexp.compare", *words])
    text = f"`{typed}`\n\n{report.markdown(comparison, sections, verdicts)}"
    drawn: list[str] = []
    try:
        with tempfile.TemporaryDirectory() as temporary:  # complete before it is moved: a signal leaves the old page
            made = Path(temporary)
            tables.write_csv(made / "compare.csv", tables.results_table(results))
            tables.write_csv(made / "scores.csv", tables.scores_table(comparison))
            tables.write_csv(made / "curves.csv", tables.curves_table(comparison), digits=4)
            if options.get("figures", True):
                drawn = figures.draw(comparison, results, baseline, made)
            pictures = "\n\n".join(f"![{name}]({name}.svg)" for name in drawn)
            markdown = f"# Comparison\n\n{sanitize_markdown(text)}\n\n{pictures}\n".replace("\n\n\n", "\n\n")
            (made / "compare.md").write_text(markdown, encoding="utf-8")
            drawings = [(made / f"{name}.svg").read_text(encoding="utf-8") for name in drawn]
            (made / "compare.html").write_text(page(text, drawings), encoding="utf-8")
            move(made, folder, figure_files)
    except OSError as error:
        why = getattr(error.__cause__, "strerror", None) or error.strerror
        raise ConfigError(f"out={folder}: cannot write to it ({why}); free some space, or choose another") from error
    print(f"\nwrote {folder}/compare.html (self-contained), compare.md, tables" + (" and figures" if drawn else ""))


main = functools.partial(command, "rlexp.compare", __doc__, run)

if __name__ == "__main__":
    main()
