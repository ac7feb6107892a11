"""Finds the run that init_from names, and how it enters a run's identity.

Reads only run.json of earlier runs; `inherit.py` loads their checkpoints.
"""

import functools
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from rlexp.config.checks import init_parts
from rlexp.config.identity import config_hash, key_of
from rlexp.config.schema import seeds_of
from rlexp.errors import ConfigError
from rlexp.files import file_digest
from rlexp.run.names import locate, missing_folder
from rlexp.run.record import RecordError, diverged_in, read_record

LAUNCH_ONLY = ("stop_at", "debug", "profile")  # settings of one launch: left out of the command that finishes the run


@dataclass(frozen=True)
class Parent:
    """An earlier run, by its folder and run.json."""

    folder: Path
    record: dict[str, Any]
    seed: int | None = None  # start all agents from this one; None: each from the one with its seed

    @property
    def config(self) -> dict[str, Any]:
        """The config in its run.json."""
        return self.record.get("config", {})

    @property
    def config_hash(self) -> str:
        """Hash of its config."""
        return config_hash(self.config)

    @property
    def checkpoint_path(self) -> Path:
        """Path of its checkpoint."""
        return self.folder / "checkpoint.pt"

    @property
    def seeds(self) -> list[int]:
        """Seeds, one per agent."""
        return list(self.record.get("seeds") or ())

    @property
    def total_steps(self) -> Any:
        """total_steps of its config."""
        return self.config.get("total_steps")

    def require_done(self, subject: str, instead: str) -> None:
        """Refuse (ConfigError) a run that is not done. subject: the start of the message; instead: of finishing it."""
        status = "running or killed" if self.record["status"] == "running" else self.record["status"]
        if status != "done":
            command = _command_of(self.record)
            raise ConfigError(
                f"{subject} is {status}, not done; finish it first with its command{command}, or {instead}"
            )

    @property
    def steps(self) -> list[int]:
        """Final environment steps of the chosen agent, or of all; of one that diverged, when it did."""
        made = self.record.get("result", {}).get("steps")
        at = diverged_in(self.record)
        if isinstance(made, list) and len(made) == len(self.seeds):
            made = [at.get(seed, {}).get("step", n) for seed, n in zip(self.seeds, made, strict=True)]
        if not (isinstance(made, list) and len(made) == len(self.seeds) and all(type(n) is int for n in made)):
            raise ConfigError(f"{self.folder}/run.json: lacks the steps of each seed; train the run from scratch")
        return made if self.seed is None else [made[self.seeds.index(self.seed)]]

    def summary(self) -> dict[str, Any]:
        """Entry for the run.json of a run that starts from it or extends it."""
        return {
            "folder": str(self.folder.resolve()),
            "config_hash": self.config_hash,
            "total_steps": self.total_steps,
            "seed": self.seed,
            "seeds": self.seeds,
            "steps": self.steps,
            "checkpoint": file_digest(self.checkpoint_path),
        }


def find_initial(cfg: DictConfig) -> Parent:
    """The finished run that init_from names; ConfigError if there is none, it is not done, or it lacks seeds."""
    setting = f"init_from={cfg.init_from}"
    path, seed = _parse(str(cfg.init_from))
    folder = locate(path)
    if folder is None:
        raise ConfigError(f"{setting}: {missing_folder(path).partition(': ')[2]}{_study_hint(path)}")
    try:
        record = read_record(folder)
    except RecordError as error:
        why = str(error).rpartition("; ")[0]  # without its remedy, which is for the run in that folder
        raise ConfigError(f"{setting}: {why}; fix it, or name another run") from None
    if record is None:
        raise ConfigError(f"{setting}: there is no run in {folder} (no run.json){_study_hint(folder)}")
    parent = Parent(folder, record)
    parent.require_done(f"{setting}: that run", "name one that is done")
    held = parent.seeds
    if seed is None and len(held) == 1:
        seed = held[0]
    missing = [k for k in (seeds_of(cfg) if seed is None else [seed]) if k not in held]
    if missing:
        example = f"{setting}:{held[0] if held else 0}"
        instead = "" if seed is not None else f": name one for all, as in {example}, or train seeds that it has"
        raise ConfigError(f"{setting}: that run has no seed {missing[0]}; it has {_listed(held)}{instead}")
    diverged = diverged_in(record)
    if gone := [k for k in (seeds_of(cfg) if seed is None else [seed]) if k in diverged]:
        alive = [k for k in held if k not in diverged]
        raise ConfigError(
            f"{setting}: seed {gone[0]} of that run diverged at step {diverged[gone[0]].get('step')}, so it has no "
            f"parameters to start from; name another for all: {', '.join(f'{path}:{k}' for k in alive)}"
        )
    return Parent(folder, record, seed)


def check_same_parent(cfg: DictConfig, folder: Path, record: dict[str, Any]) -> None:
    """Refuse (ConfigError) to continue a run if the checkpoint of its init_from has changed since it started."""
    digest = record.get("parent", {}).get("checkpoint")
    if digest is None or cfg.get("init_from") is None or cfg.stale == "keep":
        return
    parent = locate(_parse(str(cfg.init_from))[0])
    path = parent and parent / "checkpoint.pt"
    if path and path.is_file() and file_digest(path) != digest:
        raise ConfigError(
            f"init_from={cfg.init_from}: its checkpoint has changed since the run in {folder} started from it: "
            f"stale=keep keeps that run, resume=never trains it from scratch"
        )


def _parse(typed: str) -> tuple[Path, int | None]:
    match = re.fullmatch(r"(.+):(\d+)", typed)
    if match is None or Path(typed).is_dir():
        return Path(typed), None
    return Path(match[1]), int(match[2])


def _study_hint(path: Path) -> str:
    runs = sorted(file.parent for file in path.glob("*/run.json"))
    return f"; it is a study; one of its runs is {runs[0]}" if runs else ""


def identity_of_initial(cfg: DictConfig, settings: dict[str, Any]) -> str:
    """Config hash, seed, steps and init_with of the parent run: 2eec0503:0@99840+normalizer."""
    try:
        parent = find_initial(cfg)
    except ConfigError:
        known = _recorded_identity(cfg, settings)  # a started run no longer needs its parent
        if known is None:
            raise
        return known
    seed = "" if parent.seed is None else f":{parent.seed}"
    least, most = min(parent.steps), max(parent.steps)
    words = "".join(f"+{word}" for word in init_parts(cfg))
    return f"{parent.config_hash}{seed}@{least}{f'..{most}' if most > least else ''}{words}"


def _recorded_identity(cfg: DictConfig, settings: dict[str, Any]) -> str | None:
    """The identity of the parent as recorded by a run that has started from it, where it is gone or replaced."""
    path, seed = _parse(str(cfg.init_from))
    found = []
    for _, record in records(study_of(cfg)):
        config, parent = record.get("config", {}), record.get("parent", {})
        entry = str(config.get("init_from"))
        folder, named = Path(str(parent.get("folder"))), path.resolve()
        same = folder == named or (folder.parent == path.parent.resolve() and folder.name.endswith(f"-{path.name}"))
        same = same and seed in (None, parent.get("seed")) and entry.split("+")[1:] == init_parts(cfg)
        rest = {key: value for key, value in config.items() if key not in ("init_from", "extended_at", "total_steps")}
        if same and rest == {key: value for key, value in settings.items() if key != "total_steps"}:
            found.append((str(record.get("started")), entry))
    return max(found)[1] if found else None


def study_of(cfg: DictConfig) -> Path:
    """Folder of the study that a run belongs to."""
    return Path(str(cfg.outputs)) / str(cfg.study)


def records(study: Path) -> list[tuple[Path, dict[str, Any]]]:
    """run.json of each run in a study, skipping unreadable ones. Cached: do not modify."""
    found = []
    for path in sorted(study.glob("*/run.json")):
        try:
            state = path.stat()
            record = _read(path.parent.absolute(), (state.st_mtime_ns, state.st_ino, state.st_size))
        except (OSError, RecordError):  # another run's problem
            continue
        if record is not None:
            found.append((path.parent, record))
    return found


@functools.lru_cache(maxsize=4096)  # every job of a sweep reads all runs of its study
def _read(folder: Path, state: tuple[int, ...]) -> dict[str, Any] | None:
    return read_record(folder)


def _command_of(record: dict[str, Any]) -> str:
    """The command that last launched a run, in brackets, without settings that pause or restart it."""
    typed = list(map(str, record.get("command") or []))
    words = [word for word in typed[1:] if key_of(word) not in LAUNCH_ONLY and not word.startswith("resume=never")]
    return f" ({shlex.join(['python', '-m', 'rlexp.train', *words])})" if typed else ""


def _listed(seeds: Sequence[int]) -> str:
    if len(seeds) > 2 and list(seeds) == list(range(seeds[0], seeds[-1] + 1)):
        return f"seeds {seeds[0]} to {seeds[-1]}"
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}" if seeds else "none"
