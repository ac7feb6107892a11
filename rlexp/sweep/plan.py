"""The jobs of a sweep: composed and checked before any starts; what is left of them is read from their folders."""

import copy
import glob
import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import get_overrides_dirname
from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from rlexp.config.identity import config_hash, flatten
from rlexp.config.messages import explain, with_plus
from rlexp.config.overrides import naming
from rlexp.config.replaced import drop_replaced
from rlexp.config.search_path import group_choices, require_unshadowed
from rlexp.config.tuned import check_tuned
from rlexp.errors import ConfigError
from rlexp.jobs.extend_from import find_extended, is_extending, pin_parent
from rlexp.jobs.init_from import check_same_parent
from rlexp.jobs.job import Job, settings_of
from rlexp.provenance.sources import training_digest
from rlexp.run.lock import is_held
from rlexp.run.record import RecordError, RunRecord, read_record

log = logging.getLogger(__name__)

DEATHS = 3  # of its process without a checkpoint in between, after which a job counts as failed


class ImpossibleError(ConfigError):
    """Settings of one job that cannot be, by themselves or together."""


@dataclass
class Planned:
    """One job of a sweep."""

    job: Job
    config: DictConfig  # composed, with Hydra's settings, the folder among them
    anew: bool = False  # resume=never: in a new folder; see `reserve.py`

    @property
    def name(self) -> str:
        """Of its folder."""
        return self.job.folder.name

    @property
    def words(self) -> list[str]:
        """Overrides that make this job in this folder, whoever composes them."""
        subdir = self.config.hydra.sweep.subdir
        settled = [f"resume={self.job.cfg.resume}"] if is_extending(self.job.cfg) else []
        anew = [f'hydra.sweep.subdir="{subdir}"', "resume=auto"] if self.anew else []
        return [*self.job.overrides, *settled, *anew]

    def settle(self, folder: Path) -> None:
        """Have it run in another folder of its study."""
        self.job.folder = folder
        with read_write(self.config.hydra):
            self.config.hydra.sweep.subdir = f"{self.job.cfg.study}/{folder.name}"

    @property
    def record(self) -> dict[str, Any]:
        """What its run.json says; of one that cannot be read, why."""
        try:
            return RunRecord(self.job.folder).data
        except RecordError as error:
            return {"status": "damaged", "error": str(error)}

    def has_checkpoint(self) -> bool:
        """Whether there is something of its own to go on with."""
        return (self.job.folder / "checkpoint.pt").is_file()

    def has_begun(self) -> bool:
        """Whether anything of it is in its folder."""
        return any(self.job.folder.glob("*"))

    def standing(self, mine: bool = False) -> str:
        """How it stands: as run.json says, or "waiting", "elsewhere" (another process runs it), "killed", "damaged".

        mine: its folder's lock is held by the one who asks.
        """
        if not mine and is_held(self.job.folder):
            return "elsewhere"
        status = self.record.get("status")
        return "killed" if status == "running" else status or "waiting"

    def is_left(self, retry_failed: bool, mine: bool = False) -> bool:
        """Whether there is something to do."""
        standing = self.standing(mine)
        if standing == "failed" or (standing == "killed" and self.has_died_often()):
            return retry_failed
        return standing in ("waiting", "interrupted", "killed")

    def has_failed(self) -> bool:
        """Whether it failed, nobody can tell, or its process has died again and again without getting anywhere."""
        return self.standing() in ("failed", "damaged") or (self.standing() == "killed" and self.has_died_often())

    def has_died_often(self) -> bool:
        """Whether its process, killed now, has died as often as is tried."""
        return self.deaths_before() + bool(self.record.get("training", True)) >= DEATHS

    def deaths_before(self) -> int:
        """How often its process had died since its last checkpoint when it was begun last."""
        return int(self.record.get("deaths", 0))


class Composer:
    """Composes the configs of jobs as Hydra does, once for all jobs that choose the same groups.

    Args:
        loader: Hydra's.
        config: of the sweep.
    """

    def __init__(self, loader: ConfigLoader, config: DictConfig) -> None:
        self.loader, self.config = loader, config
        self.parser = OverridesParser.create(config_loader=loader)
        self.composed: dict[tuple[str, ...], DictConfig] = {}
        self.is_group: dict[str, bool] = {}  # by key: to look through all config files takes a while

    def __call__(self, overrides: Sequence[str]) -> DictConfig:
        """The config of one job."""
        parsed = self.parser.parse_overrides(list(overrides))
        plain = [override for override in parsed if self._is_plain(override)]
        others = tuple(str(o.input_line) for o in parsed if o not in plain)
        if others not in self.composed:
            self.composed[others] = self.loader.load_sweep_config(self.config, list(others))
        config = copy.deepcopy(self.composed[others])
        try:
            for override in plain:
                OmegaConf.update(config, override.key_or_group, override.value(), merge=True)
        except OmegaConfBaseException:  # Hydra's own way has the better message
            try:
                return self.loader.load_sweep_config(self.config, list(overrides))
            except HydraException as error:
                better = with_plus(error, list(overrides), self)
                if better is None:
                    raise
                return self(better)
        naming = config.hydra.job.config.override_dirname
        with read_write(config.hydra):
            config.hydra.overrides.task = list(overrides)
            config.hydra.job.override_dirname = get_overrides_dirname(
                overrides=parsed, exclude_keys=naming.exclude_keys, item_sep=naming.item_sep, kv_sep=naming.kv_sep
            )
        return drop_replaced(config, config.hydra)

    def _is_plain(self, override: Override) -> bool:
        """Whether it sets the value of a key, and chooses nothing."""
        if override.type != OverrideType.CHANGE or override.package is not None or override.is_hydra_override():
            return False
        return not self.chooses(override.key_or_group)

    def chooses(self, key: str) -> bool:
        """Whether it is a config group."""
        if key not in self.is_group:
            self.is_group[key] = bool(self.loader.get_group_options(key))
        return self.is_group[key]


def plan(composer: Composer, overrides: Sequence[Sequence[str]]) -> list[Planned]:
    """Compose and check all jobs; two that differ only in how they are written are one.

    Raises:
        ConfigError: the first setting that cannot be, with the job that has it.
    """
    from rlexp import build

    check_tuned(composer.loader, itertools.chain.from_iterable(overrides))
    found: dict[tuple[Path, str], Planned] = {}
    for number, words in enumerate(overrides):
        try:
            config = composer(words)
        except (HydraException, OmegaConfBaseException, ValueError) as error:  # the last is Hydra's word for algo=3
            raise ConfigError(f"{explain(error, list(words))} (in the job {' '.join(words)})") from error
        with read_write(config.hydra), open_dict(config.hydra):
            config.hydra.job.num, config.hydra.job.id = number, str(number)
        require_unshadowed(config.hydra)
        planned = _planned(config)
        try:
            build.check(planned.job.cfg)
        except ConfigError as error:
            raise ImpossibleError(f"{error} (in the job {' '.join(words)})") from None
        if planned.standing() != "damaged":  # which is that job's own affair
            record = RunRecord(planned.job.folder)
            planned.job.check_same(record)
            check_same_parent(planned.job.cfg, planned.job.folder, record.data)
            if is_extending(planned.job.cfg) and not planned.has_checkpoint() and planned.standing() != "done":
                find_extended(planned.job.cfg, planned.job.settings)
        found.setdefault((planned.job.folder.parent, config_hash(planned.job.settings)), planned)
    jobs = list(found.values())
    _check_code(jobs)
    return jobs


def _check_code(jobs: Sequence[Planned]) -> None:
    """Refuse jobs that were run by other code, unless `stale` says what is to become of them."""
    changed = _by_changed_files([planned for planned in jobs if planned.job.cfg.stale != "keep"])
    if changed:
        raise ConfigError(
            f"{'; '.join(changed)} (of {len(jobs)}): stale=keep takes them as they are (and goes on with the new "
            f"code), stale=rerun makes them anew in folders of their own"
        )


def _by_changed_files(jobs: Sequence[Planned]) -> list[str]:
    """What is told of jobs whose objective, network or environment has been edited since they were run."""
    counts: dict[str, int] = {}
    for planned in jobs:
        if planned.standing() not in ("waiting", "damaged"):
            files = ", ".join(planned.job.changed_files(RunRecord(planned.job.folder)))
            counts[files] = counts.get(files, 0) + bool(files)
    return [f"{files} changed since {n} of these jobs were run" for files, n in counts.items() if n]


def _planned(config: DictConfig) -> Planned:
    if config.debug:
        raise ConfigError("debug=true: is of one run, at a terminal; leave out -m, and choose one job")
    before = HydraConfig.instance().cfg
    HydraConfig.instance().set_config(config)  # the folder's name depends on the choices made
    try:
        root, subfolder = str(config.hydra.sweep.dir), str(config.hydra.sweep.subdir)
        if root != str(config.outputs) or not subfolder.startswith(f"{config.study}/"):
            raise ConfigError(f"hydra.sweep.dir={root}: folders are named by rlexp; say where by outputs= and study=")
        cfg = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
        OmegaConf.update(cfg, "study", str(config.study))
        anew = cfg.resume == "never"
        if anew:  # whoever takes it up again within this sweep goes on in it
            config.resume = cfg.resume = "auto"
        elif cfg.resume == "extend":  # others may be finished before this one begins
            config.resume = cfg.resume = pin_parent(cfg, settings_of(cfg))
    finally:
        HydraConfig.instance().cfg = before
    with read_write(config.hydra):
        config.hydra.sweep.subdir = subfolder  # whoever runs it takes this one, also with resume=never
    chosen = group_choices(config.hydra)
    folder = Path(config.hydra.sweep.dir) / subfolder
    return Planned(Job(cfg, folder, list(config.hydra.overrides.task), chosen, in_sweep=True), config, anew)


# What is told before the start ---------------------------------------------------------------------------------------


def outlook(jobs: Sequence[Planned], left: Sequence[Planned]) -> str:
    """How many jobs there are, and what becomes of them."""
    counts: dict[str, int] = {}
    again = "retry_failed=true runs them again"
    words = {"failed": f"failed before ({again})", "killed": f"died {DEATHS} times ({again})"}
    words |= {"elsewhere": "run by another process", "damaged": "damaged (run.json cannot be read)"}
    for planned in jobs:
        what = _to_do(planned) if planned in left else words.get(planned.standing(), planned.standing())
        counts[what] = counts.get(what, 0) + 1
    return f"{len(jobs)} jobs: " + ", ".join(f"{n} {what}" for what, n in counts.items())


def _to_do(planned: Planned) -> str:
    saved = planned.has_checkpoint()
    if planned.standing() == "killed":  # see `dispatch.in_order`
        return f"killed, {'to go on with' if saved else 'to start again'} last"
    if planned.standing() == "failed":
        return "to run again"
    if is_extending(planned.job.cfg) and not saved:
        return "to extend"
    return "to go on with" if saved else "to run"


def changes(jobs: Sequence[Planned]) -> list[str]:
    """What has changed since earlier launches: the code behind runs, the config behind the same overrides."""
    lines = []
    records = [read_record(planned.job.folder) or {} for planned in jobs if planned.standing() != "damaged"]
    older = [record for record in records if record.get("code") not in (None, training_digest())]
    if older:
        commits = {str(record.get("commit"))[:10] for record in older}
        lines.append(
            f"rlexp's own code has changed since {len(older)} of these jobs were run (commit "
            f"{', '.join(sorted(commits))}): they are kept, and those unfinished go on with the new code; resume=never "
            f"runs all anew"
        )
    lines += [f"{line}: they are kept" for line in _by_changed_files(jobs)]
    for planned in jobs:
        if planned.standing() == "waiting":
            stem = planned.name.rpartition("-")[0]
            for other in sorted(planned.job.folder.parent.glob(f"{glob.escape(stem)}-????????")):
                lines += _differences(planned, other)
    return lines


def _differences(planned: Planned, other: Path) -> list[str]:
    try:
        before = flatten((read_record(other) or {})["config"])
        words: Any = OmegaConf.to_container(OmegaConf.load(other / ".hydra" / "overrides.yaml"))
        if naming(words) != naming(planned.job.overrides):
            return []  # names are cut: it is another job
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []
    now = flatten(planned.job.settings)
    keys = sorted(k for k in before.keys() | now.keys() if before.get(k) != now.get(k))
    told = ", ".join(f"{k} {before.get(k, '–')} → {now.get(k, '–')}" for k in keys[:4]) + (", ..." if keys[4:] else "")
    return [
        f"the config behind {planned.name.rpartition('-')[0]} has changed since {other} ({told}): a folder of its own"
    ]
