"""The Optuna sweeper: runs trials on tuning seeds by ask and tell, then trains the best on evaluation seeds."""

import csv
import json
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from rlexp.compare.fairness import beyond_one_term
from rlexp.config.identity import key_of
from rlexp.config.schema import TUNING_SEED
from rlexp.errors import ConfigError
from rlexp.extras import needing
from rlexp.files import write_atomically
from rlexp.run.lock import FolderLock
from rlexp.run.trust import require_no_links
from rlexp.study.runs import SUPERSEDED, TRIALS, find_runs, superseded_in
from rlexp.sweep.compose import Composer
from rlexp.sweep.grids import Grids, union
from rlexp.sweep.launchers.base import JobLauncher
from rlexp.sweep.run import SweepError, run_all
from rlexp.sweep.tune.settings import SEARCH, TuningSettings
from rlexp.text import sanitize_csv_cell


class Optuna(Grids):
    """Tunes each job of the grids separately, one after the other, and trains the best of each on evaluation seeds."""

    def __init__(self, params: Any = None, grids: Any = None, arms: Any = None, **settings: Any) -> None:
        super().__init__(params, grids, arms)
        self.settings = TuningSettings(**settings)

    def sweep(self, arguments: list[str]) -> None:
        """Tune, then train the best; raises SweepError if no trial of a tuning completes or training the best fails."""
        with needing("tune", "hydra/sweeper=optuna"):
            from rlexp.sweep.tune.trials import TrialJobs
            from rlexp.sweep.tune.tuning import Tuning

        if isinstance(self.launcher, JobLauncher) and not self.launcher.wait:
            if "hydra.launcher.wait" in map(key_of, self.config.hydra.overrides.hydra):
                why = "a tuning waits for its trials, by which it chooses the next"
                raise ConfigError(f"hydra.launcher.wait=false: {why}")
            self.launcher.wait = True  # some yaml lets sweeps leave
        words = [*(f"{key}={value}" for key, value in self.params.items()), *arguments]
        listed = [word for grid in self.grids for word in grid]
        for word in [*words, *listed]:
            if key_of(word) in ("seed", "num_seeds", "stop_at"):
                raise ConfigError(
                    f"{word}: tuning seeds start at {TUNING_SEED}, evaluation seeds at 0; set their numbers by "
                    f"hydra.sweeper.num_seeds and hydra.sweeper.evaluation_seeds"
                )
            if key_of(word) == "study" and ("," in word or word in listed):
                raise ConfigError(f"{word}: a tuning has one study; give one name")
        words = [word for word in words if key_of(word) != "study"]
        study, retry = str(self.config.study), bool(self.config.retry_failed)
        composer = Composer(self.hydra_context.config_loader, self.config)
        folder = Path(str(self.config.outputs)) / study
        require_no_links(folder / name for name in ("optuna.db", TRIALS))
        tunings = []
        for arm, name in self._arms(composer.parser, {key_of(word) for word in words}).items():
            jobs = TrialJobs([*arm, *words], study, composer, self.settings)
            tunings.append(Tuning(jobs, name, folder, self.launcher, self.settings))
        folder.mkdir(parents=True, exist_ok=True)
        with FolderLock(folder, ".tuning"):  # one process at a time asks and tells
            for tuning in tunings:
                tuning.open_study()
            try:
                for tuning in tunings:
                    tuning.run(retry)
            finally:
                earlier = _rows_of_others(folder / TRIALS, {tuning.name for tuning in tunings})
                write_rows(folder / TRIALS, [*earlier, *(row for tuning in tunings for row in tuning.rows())])
                print(*(tuning.verdict() for tuning in tunings), sep="\n", flush=True)
            best = {job.folder: job for t in tunings if self.settings.evaluation_seeds for job in t.best()}
            evaluated = {name for tuning in tunings for name in tuning.evaluated()}
            # of tunings that are not in these grids
            others = [name for name in superseded_in(folder) if name not in evaluated]
            left_out = [*others, *(name for tuning in tunings for name in tuning.superseded())]
            write_atomically(folder / SUPERSEDED, (json.dumps(left_out) + "\n").encode())
        if best:
            run_all(self.launcher, list(best.values()), retry)
            if all(job.status() == "done" for job in best.values()):  # else another process runs some
                print(f"to compare: {_compare_command(folder, list(best))}", flush=True)
        without = [tuning.name for tuning in tunings if not tuning.winners()]
        if without:
            raise SweepError(f"{'; '.join(without)}: no trial completed; see {folder}/trials")

    def _arms(self, parser: OverridesParser, given: Collection[str]) -> dict[tuple[str, ...], str]:
        """The tunings: overrides of each job of the grids, with the intervals of its grid -> its name.

        given: keys set for all, which override the grids.
        """
        arms: dict[tuple[str, ...], str] = {}
        for grid in self.grids:
            parsed = parser.parse_overrides([word for word in grid if key_of(word) not in given])
            searched = [str(o.input_line) for o in parsed if _is_searched(o)]
            listed = [str(o.input_line) for o in parsed if str(o.input_line) not in searched]
            arms |= {(*job, *searched): ",".join(job) or "tuning" for job in union([listed], parser)}
        twice = [name for name, count in Counter(arms.values()).items() if count > 1]
        if twice:
            raise ConfigError(f"hydra.sweeper.grids: {twice[0]} occurs twice; give each tuning a distinct setting")
        return arms


def _is_searched(override: Override) -> bool:
    """Whether a word of a grid is searched, rather than a list of which each value is tuned apart."""
    tags = getattr(override.value(), "tags", ())
    return override.is_sweep_override() and (SEARCH in tags or not override.is_discrete_sweep())


def _compare_command(folder: Path, best: list[Path]) -> str:
    """The command that compares the best runs, which may differ in the settings that were searched."""
    runs = find_runs(best)
    of_each = [[run for run in runs if run.env == env] for env in {run.env for run in runs}]
    searched = {key for of_env in of_each for key in beyond_one_term(of_env)}
    return f"python -m rlexp.compare {folder}" + (f" allow={','.join(sorted(searched))}" if searched else "")


def _rows_of_others(path: Path, names: Collection[str]) -> list[dict[str, Any]]:
    """Rows of tunings of the study that are not among these, which another command made."""
    if not path.is_file():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return [dict(row) for row in csv.DictReader(file) if row.get("tuning") not in {*map(sanitize_csv_cell, names)}]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write a csv with a column for each key of any row."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows({key: sanitize_csv_cell(value) for key, value in row.items()} for row in rows)
