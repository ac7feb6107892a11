"""Compare the runs of a study: which arm is better, by how much, and how certain that is.

    python -m rlexp.compare outputs/first                      every run below that folder
    python -m rlexp.compare outputs/a outputs/b baseline=ppo   runs of several studies

Settings: baseline=ARM (default: ppo, else the first) · allow=KEY,KEY or allow=all (settings that may differ besides the
tested one) · threshold=400 (for retention and steps to threshold; default: each environment's) · beside=FILE.csv
(published scores: env, score, deviation, seeds, source) · out=FOLDER (default: compare/ in the first path) ·
figures=false. Needs the extra `compare`.
"""

import shlex
import tempfile
from collections.abc import Collection
from pathlib import Path

from rlexp.compare.page import page
from rlexp.errors import ConfigError, command
from rlexp.text import sanitize_markdown

WRITTEN = ("compare.csv", "scores.csv", "curves.csv", "compare.md", "compare.html")  # besides the figures
OPTIONS = ("baseline", "allow", "threshold", "beside", "out", "figures")


def parse(words: list[str]) -> tuple[list[str], dict[str, str]]:
    """Split the command line into paths and settings by name.

    Raises:
        ConfigError: no path, or an unknown setting.
    """
    paths = [word for word in words if "=" not in word or Path(word).exists()]
    pairs = [word.partition("=") for word in words if word not in paths]
    options = {name: value for name, _, value in pairs}
    for name in options:
        if name not in OPTIONS:
            raise ConfigError(f"{name}={options[name]}: no such setting or folder; settings are {', '.join(OPTIONS)}")
    try:
        float(options.get("threshold", 0))
    except ValueError:
        raise ConfigError(f"threshold={options['threshold']}: must be a number, a mean return") from None
    if options.get("figures", "true") not in ("true", "false"):
        raise ConfigError(f"figures={options['figures']}: must be true or false")
    if not paths:
        raise ConfigError("no runs given: python -m rlexp.compare outputs/<study>")
    return paths, options


def output_folder(paths: list[str], options: dict[str, str], figure_files: list[str]) -> Path:
    """The folder to write to; none of the files to be written may be a symbolic link.

    Raises:
        ConfigError: a file is a symbolic link, as an untrusted study may contain.
    """
    folder = Path(options.get("out") or Path(paths[0]) / "compare")
    targets = [folder / name for name in (*WRITTEN, *figure_files)]
    for path in targets if "out" in options else (folder, *targets):  # a folder that the user names may be a link
        if path.is_symlink():
            raise ConfigError(f"{path}: is a symbolic link; remove it, or write elsewhere with out=FOLDER")
    return folder


def move(made: Path, folder: Path, figure_names: Collection[str]) -> None:
    """Move the new files into the folder, each atomically and the page last; delete figures no longer drawn."""
    from rlexp.files import write_atomically

    new = sorted((path.name for path in made.iterdir()), key=lambda name: (name in WRITTEN, name == "compare.html"))
    for name in new:
        write_atomically(folder / name, (made / name).read_bytes())
    for old in (*folder.glob("*.svg"), *folder.glob("*.png")):
        if old.stem in figure_names and old.name not in new:
            old.unlink()


def run(words: list[str]) -> None:
    """Read the runs, judge them, print the report and write it."""
    paths, options = parse(words)
    try:
        from rlexp.compare import figures, report, tables, verdict
        from rlexp.compare.published import read_published
    except ImportError as error:
        raise ConfigError(f"compare needs {error.name}, which is not installed: pip install 'rlexp[compare]'") from None
    from rlexp.compare.arms import compare_runs
    from rlexp.compare.audit import missing_jobs
    from rlexp.study.runs import find_runs

    folder = output_folder(paths, options, [f"{name}.{kind}" for name in figures.NAMES for kind in ("svg", "png")])
    allow = [key for key in options.get("allow", "").split(",") if key]
    published = read_published(options["beside"]) if "beside" in options else {}
    threshold = float(options["threshold"]) if "threshold" in options else None
    runs = find_runs(paths)
    comparison = compare_runs(runs, allow, threshold, missing_jobs(paths, runs))
    baseline = verdict.pick_baseline(comparison, options.get("baseline"))
    results, overall = verdict.judge(comparison, baseline)
    print(report.plain(comparison, baseline, results, overall, published))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"out={folder}: cannot create this folder ({error.strerror}); choose another") from None
    command = shlex.join(["python", "-m", "rlexp.compare", *words])
    text = f"`{command}`\n\n{report.markdown(comparison, baseline, results, overall, published)}"
    drawn: list[str] = []
    try:
        with tempfile.TemporaryDirectory() as temporary:  # complete before it is moved: a signal leaves the old page
            made = Path(temporary)
            tables.write_csv(made / "compare.csv", tables.results_table(results))
            tables.write_csv(made / "scores.csv", tables.scores_table(comparison))
            tables.write_csv(made / "curves.csv", tables.curves_table(comparison), digits=4)
            if options.get("figures", "true") == "true":
                drawn = figures.draw(comparison, results, baseline, made)
            pictures = "\n\n".join(f"![{name}]({name}.svg)" for name in drawn)
            markdown = f"# Comparison\n\n{sanitize_markdown(text)}\n\n{pictures}\n".replace("\n\n\n", "\n\n")
            (made / "compare.md").write_text(markdown, encoding="utf-8")
            drawings = [(made / f"{name}.svg").read_text(encoding="utf-8") for name in drawn]
            (made / "compare.html").write_text(page(text, drawings), encoding="utf-8")
            move(made, folder, figures.NAMES)
    except OSError as error:
        why = getattr(error.__cause__, "strerror", None) or error.strerror
        raise ConfigError(f"out={folder}: cannot write to it ({why}); free some space, or choose another") from error
    print(f"\nwrote {folder}/compare.html (self-contained), compare.md, tables" + (" and figures" if drawn else ""))


def main(arguments: list[str] | None = None) -> None:
    """Entry point."""
    command("rlexp.compare", __doc__, run, arguments)


if __name__ == "__main__":
    main()
