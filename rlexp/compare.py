"""Who is better, by how much, how sure: a verdict on the runs of a study.

    python -m rlexp.compare outputs/first                      every run below that folder
    python -m rlexp.compare outputs/a outputs/b baseline=ppo   runs of several studies

Settings: baseline=ARM (ppo, else the first) · allow=KEY,KEY or allow=all (settings that may differ besides the tested
one) · out=FOLDER (by default compare/ in the first path) · figures=false. Needs the extra `compare`.
"""

import csv
import sys
from pathlib import Path
from typing import Any

from rlexp.errors import ConfigError, UserError

SETTINGS = ("baseline", "allow", "out", "figures")


def parse(words: list[str]) -> tuple[list[str], dict[str, str]]:
    """Paths, and settings by name.

    Raises:
        ConfigError: no path, or an unknown setting.
    """
    paths = [word for word in words if "=" not in word or Path(word).exists()]
    pairs = [word.partition("=") for word in words if word not in paths]
    options = {name: value for name, _, value in pairs}
    for name in options:
        if name not in SETTINGS:
            raise ConfigError(f"{name}={options[name]}: no such setting or folder; settings are {', '.join(SETTINGS)}")
    if options.get("figures", "true") not in ("true", "false"):
        raise ConfigError(f"figures={options['figures']}: must be true or false")
    if not paths:
        raise ConfigError("say which runs: python -m rlexp.compare outputs/<study>")
    return paths, options


def run(words: list[str]) -> None:
    """Read, judge, print, write."""
    paths, options = parse(words)
    try:
        from rlexp import report, verdict
    except ImportError as error:
        raise ConfigError(f"compare needs {error.name}, which is not installed: pip install 'rlexp[compare]'") from None
    from rlexp.arms import compare_runs
    from rlexp.study import find_runs

    allow = [key for key in options.get("allow", "").split(",") if key]
    comparison = compare_runs(find_runs(paths), allow)
    baseline = verdict.pick_baseline(comparison, options.get("baseline"))
    results, overall = verdict.judge(comparison, baseline)
    folder = Path(options.get("out") or Path(paths[0]) / "compare")
    folder.mkdir(parents=True, exist_ok=True)
    _write_csv(folder / "compare.csv", verdict.table(results))
    text = report.markdown(comparison, baseline, results, overall)
    print(report.plain(comparison, baseline, results, overall))
    figures: list[str] = []
    if options.get("figures", "true") == "true":
        from rlexp.figures import draw

        figures = draw(comparison, results, folder)
    command = " ".join(["python -m rlexp.compare", *words])
    report.write(folder, f"`{command}`\n\n{text}", figures)
    print(f"\nwritten: {folder}/compare.html, compare.md, compare.csv" + (" and figures" if figures else ""))


def _write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        for row in rows:
            writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})


def main(arguments: list[str] | None = None) -> None:
    """Entry point."""
    words = sys.argv[1:] if arguments is None else arguments
    if not words or {"-h", "--help"} & set(words):
        print(__doc__)
        return
    try:
        run(words)
    except UserError as error:
        print(f"rlexp.compare: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
