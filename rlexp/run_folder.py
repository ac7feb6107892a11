"""A run's folder: its name, and run.json, which says what the run is and how it stands."""

import contextlib
import datetime
import hashlib
import json
import os
import platform
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from rlexp import provenance
from rlexp.config import NOT_IDENTITY
from rlexp.errors import ConfigError, StorageError
from rlexp.replaced import without_inherited
from rlexp.terminal import harmless

Status = Literal["running", "interrupted", "failed", "pruned", "done"]

NAME_WIDTH = 200  # bytes of a folder's name before the hash; file systems take 255


def write_atomically(path: Path, data: bytes) -> None:
    """Replace a file in one step: whoever reads it, also after a crash, sees the old content or the new."""
    with storing(path):
        _write_atomically(path, data)


@contextlib.contextmanager
def storing(path: Path) -> Iterator[None]:
    """While entered, a file that cannot be written is told as what a user can mend.

    Raises:
        StorageError: naming the file and why.
    """
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        why = error.strerror or str(error)
        raise StorageError(
            f"{path}: cannot be written ({why}); make room or say by outputs=<folder> where runs may write. What was "
            f"saved before is kept, and the same command goes on"
        ) from error


def through_no_link(path: str, flags: int) -> int:
    """An opener for `open` that follows no link, as a stranger's may lead anywhere."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def _write_atomically(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "wb", opener=through_no_link) as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


MEASURED = ("metrics.csv", "evaluation.json")  # what comparisons are made from


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def config_hash(settings: dict[str, Any]) -> str:
    """Eight hex digits that name a config; see `config.identity`."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]


# Names ---------------------------------------------------------------------------------------------------------------


def _hydra(root: DictConfig) -> Any:
    return root.hydra if "hydra" in root else HydraConfig.get()


def study_name(root: DictConfig) -> str:
    """<algo>_<env>, by the choices made in those groups; by the environment's id, where that alone was said."""
    chosen = _hydra(root)
    env = root.env.id if names_an_environment(list(chosen.overrides.task)) else chosen.runtime.choices.env
    return re.sub(r"[^\w.+-]", "_", f"{chosen.runtime.choices.algo}_{str(env).rpartition(':')[2]}")


def no_folder(path: Path) -> str:
    """What to tell of a study or run that is not there, with the place where it may be meant to lie."""
    meant = "outputs" / path
    return f"{path}: there is no such folder" + (f"; did you mean {meant}?" if meant.is_dir() else "")


def key_of(override: str) -> str:
    """What an override sets."""
    return override.lstrip("+~").partition("=")[0]


def names_an_environment(overrides: Sequence[str]) -> bool:
    """Whether they say an id and choose no group `env`, so that what is known of the default one is not meant."""
    return "env.id" in (keys := [key_of(override) for override in overrides]) and "env" not in keys


def naming(overrides: Sequence[str]) -> list[str]:
    """Those of the overrides that can change results, in the order in which they name a job, with or without a +."""
    return [
        override
        for override in sorted(override.lstrip("+") for override in overrides)
        if not (key := key_of(override)).startswith("hydra") and key.partition("@")[0] not in NOT_IDENTITY
    ]


def job_name(overrides: Sequence[str], settings: dict[str, Any]) -> str:
    """What was overridden and can change results, then a hash of the whole config."""
    parent = str(settings.get("init_from", "")).partition("@")[0]  # instead of a path, however it is typed
    words = [f"init_from={parent}" if parent and key_of(o) == "init_from" else o for o in naming(overrides)]
    words = [word for word in words if parent or key_of(word) != "init_with"]  # without a parent of no effect
    kept = [re.sub(r"[^\w.=+~,-]", "_", word) for word in words]
    cut = ",".join(kept).encode()[:NAME_WIDTH].decode(errors="ignore")
    return "-".join([cut or "default", config_hash(settings)])


def _latest(parent: Path, name: str) -> tuple[Path, int]:
    """The folder of that config with the highest suffix, and the suffix (1: none; 0: there is no folder yet).

    However the overrides were typed, 3e3 or 3000, the hash is the config's: a folder that ends in it is the run's.
    """
    stem, _, digest = name.rpartition("-")
    found: dict[int, Path] = {}
    for path in sorted(parent.glob(f"*-{digest}*"), key=lambda path: not path.name.startswith(f"{stem}-")):
        match = re.fullmatch(rf"[^.].*-{digest}(?:_(\d+))?", path.name)
        if match and path.is_dir():
            found.setdefault(int(match[1] or 1), path)
    number = max(found, default=0)
    return found.get(number, parent / name), number


def subfolder(root: DictConfig, settings_of: Callable[[DictConfig], dict[str, Any]]) -> str:
    """<study>/<job> below outputs: the run's own folder, or one that is not there yet with resume=never."""
    if not re.fullmatch(r"[\w=+,-][\w.=+,-]*(/[\w=+,-][\w.=+,-]*)*", root.study):
        raise ConfigError(f"study={root.study}: must be a folder name of letters, digits and . _ = + , -")
    hydra = _hydra(root)
    settings = settings_of(without_inherited(root, hydra))
    name = job_name(list(hydra.overrides.task), settings)
    path, number = _latest(Path(root.outputs) / root.study, name)
    stale = root.stale == "rerun" and number and is_stale(path, settings)
    if number and (stale or root.resume == "never"):  # an empty one, too: a sweep may be about to begin there
        path = path.with_name(f"{re.sub(r'_[0-9]+$', '', path.name)}_{number + 1}")
    return f"{root.study}/{path.name}"


def is_stale(folder: Path, settings: dict[str, Any]) -> bool:
    """Whether a run was made, or begun, by other code of what its config names."""
    try:
        return bool(provenance.changed_files(read_record(folder) or {}, settings))
    except RecordError:
        return False


def register_resolvers(settings_of: Callable[[DictConfig], dict[str, Any]]) -> None:
    """Make ${rlexp.study:}, ${rlexp.subfolder:} and ${rlexp.folder:} known to OmegaConf.

    settings_of: what makes the run of a config what it is.
    """

    def study(*, _root_: DictConfig) -> str:
        return study_name(_root_)

    def below(*, _root_: DictConfig) -> str:
        return subfolder(_root_, settings_of)

    def whole(*, _root_: DictConfig) -> str:
        return f"{_root_.outputs}/{subfolder(_root_, settings_of)}"

    for name, resolver in (("study", study), ("subfolder", below), ("folder", whole)):
        OmegaConf.register_new_resolver(f"rlexp.{name}", resolver, replace=True)


# run.json ------------------------------------------------------------------------------------------------------------


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _of(settings: dict[str, Any], seeds: list[int], folder: Path) -> dict[str, Any]:
    """What a launch says of itself."""
    return {
        "config_hash": config_hash(settings),
        "config": settings,
        "seeds": seeds,
        "host": platform.node(),
        "pid": os.getpid(),
        "command": sys.argv,
        **provenance.code_state(),
        **provenance.of_config(settings, folder),
    }


class RecordError(ConfigError):
    """A run.json that cannot be read: nobody knows what its run is, and how it stands."""


SHAPES: dict[str, type | tuple[type, ...]] = {  # of what is read of a run.json, where it is there
    "status": str,
    "config": dict,
    "config_hash": str,
    "seeds": list,
    "files": dict,
    "result": dict,
    "parent": dict,
    "extends": dict,
    "choices": dict,
    "versions": dict,
    "sources": dict,
    "made_by": list,
    "error": str,
    "traceback": str,
    "host": (str, type(None)),
    "machine": str,
    "started": str,
    "command": list,
    "launches": int,
    "deaths": int,
    "agents_together": int,
    "how": dict,
    "time": dict,
    "paused_at": (int, float),
    "started_unix": (int, float),
    "training": bool,
    "code": (str, type(None)),
    "commit": (str, type(None)),
}


def read_record(folder: Path) -> dict[str, Any] | None:
    """run.json of a folder, which may be a stranger's, with harmless texts; None if there is none.

    Raises:
        RecordError: it cannot be read, or is no run.json.
    """
    path = folder / "run.json"
    way_out = "mend or remove it, or use resume=never"
    try:
        record = _harmless(json.loads(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        line = harmless(" ".join(str(error).split()))
        raise RecordError(f"{path}: cannot be read ({line}); {way_out}") from None
    if not isinstance(record, dict):
        raise RecordError(f"{path}: cannot be read (it is no object but {str(record)[:20]}); {way_out}")
    for name, shape in SHAPES.items():
        if name in record and not isinstance(record[name], shape):
            raise RecordError(f"{path}: cannot be read ({name} is {str(record[name])[:20]}); {way_out}")
    if not isinstance(record.get("status"), str):
        raise RecordError(f"{path}: cannot be read (it holds no status); {way_out}")
    if not all(isinstance(own, str) for own in record.get("versions", {}).values()):
        raise RecordError(f"{path}: cannot be read (versions are {str(record['versions'])[:20]}); {way_out}")
    if not all(type(seed) is int for seed in record.get("seeds", ())):
        raise RecordError(f"{path}: cannot be read (seeds are {str(record['seeds'])[:20]}); {way_out}")
    return record


def _harmless(value: Any) -> Any:
    """The same nested data with nothing in its texts that a terminal would obey."""
    if isinstance(value, str):
        return harmless(value)
    if isinstance(value, dict):
        return {harmless(key): _harmless(own) for key, own in value.items()}
    return [_harmless(own) for own in value] if isinstance(value, list) else value


class RunRecord:
    """run.json of one folder, rewritten atomically at every change."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "run.json"
        self.data: dict[str, Any] = read_record(folder) or {}

    @property
    def status(self) -> Status | None:
        """How the run stands; None before it first started."""
        return self.data.get("status")

    def start(self, settings: dict[str, Any], seeds: list[int], together: int) -> None:
        """Note that the run starts, or goes on.

        Args:
            settings: the resolved config less what cannot change results.
            seeds: one an agent.
            together: agents trained side by side, those of other runs included.
        """
        # nobody else writes here: the process that did has died; before it trained, that was not this run's doing
        if self.status == "running" and self.data.get("training", True):
            self.data["deaths"] = self.data.get("deaths", 0) + 1
        self.data.setdefault("started", _now())
        self.data["launches"] = self.data.get("launches", 0) + 1
        if changed := provenance.changed_files(self.data, settings):
            self.data.setdefault("made_by", []).append({name: self.data["sources"].get(name) for name in changed})
        self.update(
            **_of(settings, seeds, self.path.parent),
            status="running",
            training=False,
            agents_together=together,
            launched=_now(),
        )

    def survived(self) -> None:
        """A checkpoint was written: whatever killed earlier launches before they came so far is overcome."""
        if self.data.pop("deaths", 0):
            self.update()

    def fail(self, error: BaseException, settings: dict[str, Any], seeds: list[int]) -> None:
        """Note what ended the run, in one line and as a traceback, which goes to train.log as well."""
        line = " ".join(f"{type(error).__name__}: {error}".split())
        told = "".join(traceback.format_exception(error))
        self.update(**_of(settings, seeds, self.path.parent), status="failed", error=line, traceback=told)
        path = self.path.with_name("train.log")
        with contextlib.suppress(OSError), open(path, "a", encoding="utf-8", opener=through_no_link) as file:
            file.write(told)  # unless it is a link, or the disk is full: run.json has it

    def finish(self, result: dict[str, Any]) -> None:
        """The run's last act: its result, digests of what it measured, status done."""
        self.update(status="done", result=result, files=self.digests())

    def digests(self) -> dict[str, str]:
        """Of the files that comparisons are made from, by which an edit shows."""
        files = [self.path.with_name(name) for name in MEASURED]
        return {file.name: file_digest(file) for file in files if file.is_file()}

    def update(self, **changes: Any) -> None:
        """Change some entries and write the file; an error lasts until the status changes."""
        if "status" in changes:
            for name in ("error", "traceback"):
                self.data.pop(name, None)
        self.data.update(changes, updated=_now())
        write_atomically(self.path, (json.dumps(self.data, indent=2) + "\n").encode())
