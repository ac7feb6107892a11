"""Plans the jobs of a sweep: composes and checks all before any starts, and reads from their folders what is left."""

import glob
import itertools
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from rlexp.config.identity import config_hash, flatten, naming
from rlexp.config.messages import explain
from rlexp.config.search_path import check_local, check_optional, group_choices, require_unshadowed
from rlexp.errors import ConfigError
from rlexp.jobs.extend_from import find_extended, is_extending, pin_parent
from rlexp.jobs.init_from import check_same_parent
from rlexp.jobs.job import Job, settings_of
from rlexp.provenance.sources import training_digest
from rlexp.run import queued
from rlexp.run.lock import is_held
from rlexp.run.record import RecordError, RunRecord, read_record
from rlexp.sweep.compose import Composer

DEATHS = 3  # process deaths without a checkpoint in between after which a job counts as failed
UNFINISHED = ("waiting", "killed", "interrupted")


class ImpossibleError(ConfigError):
    """Invalid settings of one job, alone or in combination."""


@dataclass(eq=False, kw_only=True)
class Planned(Job):
    """A job of a sweep."""

    config: DictConfig  # composed, including Hydra's settings and the folder
    fresh: bool = False  # resume=never: starts in a new folder; see `reserve.py`

    @property
    def name(self) -> str:
        """Name of its folder."""
        return self.folder.name

    @property
    def study(self) -> Path:
        """Folder of its study."""
        return Path(str(self.cfg.outputs)) / str(self.cfg.study)

    @property
    def launch_overrides(self) -> list[str]:
        """Overrides that compose to this job in this folder, for launchers that compose the config themselves."""
        subdir = self.config.hydra.sweep.subdir
        extended_from = [f"resume={self.cfg.resume}"] if is_extending(self.cfg) else []
        new_folder = [f'hydra.sweep.subdir="{subdir}"', "resume=auto"] if self.fresh else []
        return [*self.overrides, *extended_from, *new_folder]

    def move_to(self, folder: Path) -> None:
        """Run in another folder of the study."""
        self.folder = folder
        with read_write(self.config.hydra):
            self.config.hydra.sweep.subdir = f"{self.cfg.study}/{folder.name}"

    @property
    def record(self) -> dict[str, Any]:
        """Content of run.json; if it cannot be read, status "damaged" and the error."""
        try:
            return RunRecord(self.folder).data
        except RecordError as error:
            return {"status": "damaged", "error": str(error)}

    def has_checkpoint(self) -> bool:
        """Whether its folder has a checkpoint to resume from."""
        return (self.folder / "checkpoint.pt").is_file()

    def status(self, locked: bool = False) -> str:
        """Status in run.json, or "waiting", "queued", "elsewhere" (run by another process), "killed" or "damaged".

        locked: the caller holds the folder's lock.
        """
        status = self.own_status(locked)
        marked = status not in ("elsewhere", "damaged") and queued.still_queued(self.folder, status)
        return "queued" if marked else status  # in a cluster's queue; see `queue.settle`

    def own_status(self, locked: bool = False) -> str:
        """The status, whatever queue the job is in."""
        if not locked and is_held(self.folder):
            return "elsewhere"
        status = str(self.record.get("status", "waiting"))
        return "killed" if status == "running" else status

    def is_left(self, retry_failed: bool, locked: bool = False) -> bool:
        """Whether it remains to be run."""
        status = self.status(locked)
        return status in UNFINISHED if not self.has_failed(locked) else retry_failed and status != "damaged"

    def has_failed(self, locked: bool = False) -> bool:
        """Whether it failed, is damaged, or its process, killed now, has died DEATHS times without a checkpoint."""
        status = self.status(locked)
        died_often = self.deaths + bool(self.record.get("training", True)) >= DEATHS
        return status in ("failed", "damaged") or (status == "killed" and died_often)

    def is_paused(self) -> bool:
        """Whether it has paused where `stop_at` says."""
        found = re.fullmatch(r"paused at (\d+) steps", str(self.record.get("error", "")))
        reached = found is not None and self.cfg.stop_at is not None and int(found[1]) >= self.cfg.stop_at
        return reached and self.own_status() == "interrupted"

    @property
    def deaths(self) -> int:
        """Deaths of its process since its last checkpoint, before the last launch."""
        return int(self.record.get("deaths", 0))


def plan(composer: Composer, overrides: Sequence[Sequence[str]]) -> list[Planned]:
    """Compose and check all jobs; those with equal configs become one.

    Raises ConfigError for the first invalid setting, with its job.
    """
    from rlexp import build

    check_optional(composer.loader, itertools.chain.from_iterable(overrides))
    found: dict[tuple[Path, str], Planned] = {}
    for number, words in enumerate(overrides):
        try:
            config = composer(words)
        except (HydraException, OmegaConfBaseException, ValueError) as error:  # Hydra raises ValueError for algo=3
            raise ConfigError(f"{explain(error, list(words))} (in the job {' '.join(words)})") from error
        with read_write(config.hydra), open_dict(config.hydra):
            config.hydra.job.num, config.hydra.job.id = number, str(number)
        require_unshadowed(config.hydra)
        check_local(config, config.hydra, composer)
        planned = _planned(config)
        try:
            build.check(planned.cfg)
        except ConfigError as error:
            raise ImpossibleError(f"{error} (in the job {' '.join(words)})") from None
        if planned.status() != "damaged":  # that job alone fails, later
            record = RunRecord(planned.folder)
            planned.check_same(record)
            check_same_parent(planned.cfg, planned.folder, record.data)
            if is_extending(planned.cfg) and not planned.has_checkpoint() and planned.status() != "done":
                find_extended(planned.cfg, planned.settings)
        found.setdefault((planned.folder.parent, config_hash(planned.settings)), planned)
    jobs = list(found.values())
    changed = _by_changed_files([planned for planned in jobs if planned.cfg.stale != "keep"])
    if changed:
        raise ConfigError(
            f"{'; '.join(changed)} (of {len(jobs)}): stale=keep keeps them (and resumes with the new code), "
            f"stale=rerun reruns them in new folders"
        )
    return jobs


def _by_changed_files(jobs: Sequence[Planned]) -> list[str]:
    """Describe jobs whose objective, network or environment was edited since they ran; one line per set of files."""
    begun = [planned for planned in jobs if planned.status() not in ("waiting", "damaged")]
    counts = Counter(", ".join(planned.changed_files(RunRecord(planned.folder))) for planned in begun)
    return [f"{files} changed since {n} of these jobs ran" for files, n in counts.items() if files]


def _planned(config: DictConfig) -> Planned:
    if config.debug:
        raise ConfigError("debug=true: debugs one run at a terminal; leave out -m, and choose one job")
    before = HydraConfig.instance().cfg
    HydraConfig.instance().set_config(config)  # the folder's name depends on Hydra's choices
    try:
        root, subfolder = str(config.hydra.sweep.dir), str(config.hydra.sweep.subdir)
        if root != str(config.outputs) or not subfolder.startswith(f"{config.study}/"):
            raise ConfigError(f"hydra.sweep.dir={root}: rlexp names the folders; set outputs= and study= instead")
        cfg = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
        OmegaConf.update(cfg, "study", str(config.study))
        fresh = cfg.resume == "never"
        if fresh:  # if its process dies, this sweep resumes it in its new folder
            config.resume = cfg.resume = "auto"
        elif cfg.resume == "extend":  # fix the run to extend: others may finish before this one starts
            config.resume = cfg.resume = pin_parent(cfg, settings_of(cfg))
    finally:
        HydraConfig.instance().cfg = before
    with read_write(config.hydra):
        config.hydra.sweep.subdir = subfolder  # resolved once, so that every launcher uses this folder
    chosen = group_choices(config.hydra)
    folder = Path(config.hydra.sweep.dir) / subfolder
    typed = list(config.hydra.overrides.task)
    return Planned(cfg, folder, typed, chosen, in_sweep=True, config=config, fresh=fresh)


# Printed before the start --------------------------------------------------------------------------------------------


def summary(jobs: Sequence[Planned], left: Sequence[Planned]) -> str:
    """How many jobs there are, and what will happen to them."""
    retry = "retry_failed=true reruns them"
    descriptions = {"failed": f"failed before ({retry})", "killed": f"died {DEATHS} times ({retry})"}
    descriptions |= {"elsewhere": "run by another process", "damaged": "damaged (run.json cannot be read)"}
    counts = Counter(_action(p) if p in left else descriptions.get(p.status(), p.status()) for p in jobs)
    return f"{len(jobs)} jobs: " + ", ".join(f"{n} {what}" for what, n in counts.items())


def _action(planned: Planned) -> str:
    saved = planned.has_checkpoint()
    if planned.status() == "killed":  # see `run.run_all`
        return f"killed, to {'resume' if saved else 'restart'} last"
    if planned.status() == "failed":
        return "to rerun"
    if is_extending(planned.cfg) and not saved:
        return "to extend"
    return "to resume" if saved else "to run"


def changes(jobs: Sequence[Planned]) -> list[str]:
    """Changes since earlier launches: in the code that runs used, and in the config that the same overrides compose."""
    lines = []
    records = [read_record(planned.folder) or {} for planned in jobs if planned.status() != "damaged"]
    older = [record for record in records if record.get("code") not in (None, training_digest())]
    if older:
        commits = {str(record.get("commit"))[:10] for record in older}
        lines.append(
            f"rlexp's training code has changed since {len(older)} of these jobs ran (commit "
            f"{', '.join(sorted(commits))}): they are kept, and unfinished ones resume with the new code; resume=never "
            f"reruns all"
        )
    lines += [f"{line}: they are kept" for line in _by_changed_files(jobs)]
    for planned in jobs:
        if planned.status() == "waiting":
            stem = planned.name.rpartition("-")[0]
            for other in sorted(planned.folder.parent.glob(f"{glob.escape(stem)}-????????")):
                lines += _differences(planned, other)
    return lines


def _differences(planned: Planned, other: Path) -> list[str]:
    try:
        before = flatten((read_record(other) or {})["config"])
        overrides: Any = OmegaConf.to_container(OmegaConf.load(other / ".hydra" / "overrides.yaml"))
        if naming(overrides) != naming(planned.overrides):
            return []  # another job whose name is the same when truncated
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []
    now = flatten(planned.settings)
    keys = sorted(k for k in before.keys() | now.keys() if before.get(k) != now.get(k))
    diff = ", ".join(f"{k} {before.get(k, '–')} → {now.get(k, '–')}" for k in keys[:4]) + (", ..." if keys[4:] else "")
    return [f"the config of {planned.name.rpartition('-')[0]} has changed since {other} ({diff}): it gets a new folder"]
