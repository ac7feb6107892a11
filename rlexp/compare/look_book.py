"""The looks at a study, and what was compared and asked at them, kept in its looks.json."""

import json
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rlexp.compare.looks import Looks, Seeds
from rlexp.errors import ConfigError, StorageError
from rlexp.files import write_atomically
from rlexp.text import one_line

FILE = "looks.json"
Arms = dict[str, dict[str, str]]  # environment -> id of an arm -> its name; without the baseline

DAMAGE = (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)


def _read(path: Path) -> dict[str, Any]:
    """Content of a looks.json; empty: there is none."""
    if path.is_symlink():
        raise ConfigError(f"{path}: is a symbolic link; remove it")
    if not path.is_file():
        return {}
    try:
        content = dict(json.loads(path.read_text(encoding="utf-8")))
        content.pop("updated", None)
        return content | {"envs": {**content["envs"]}}
    except DAMAGE as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> ConfigError:
    return ConfigError(f"{path}: cannot be read ({one_line(repr(error), 100)}); restore or remove it")


def _joined(content: dict[str, Any], former: dict[str, Any]) -> dict[str, Any]:
    """What is recorded, to which only what is new is added: keys, and keys of dictionaries."""
    both = [key for key in content if isinstance(content[key], dict) and isinstance(former.get(key), dict)]
    return {**content, **former} | {key: {**content[key], **former[key]} for key in both}


class LookBook:
    """Looks of a study by environment, as in looks.json; of several studies that are compared, those of all."""

    def __init__(self, *folders: Path) -> None:
        """Read the studies' files.

        Raises:
            ConfigError: one cannot be read, or is a symbolic link; or studies declare different looks.
        """
        self.paths = [folder / FILE for folder in sorted(folders)]
        self.looks: dict[str, Looks] = {}
        self.content: dict[str, Any] = {}
        self.overall: list[list[str]] = []  # environments and arms' ids that a verdict over environments was given on
        self.secondary = 0  # comparisons by other measures, at most
        contents = [_read(path) for path in self.paths]
        self.changed = any(content != contents[0] for content in contents)  # since they were read, or apart
        for path, content in zip(self.paths, contents, strict=True):
            self._add(path, content)
        self.judged = any(looks.taken for looks in self.looks.values())  # whether a verdict had been given then
        self.shown = any(looks.compared for looks in self.looks.values())  # whether differences had been shown

    def _add(self, path: Path, content: dict[str, Any]) -> None:
        try:
            found = {
                str(env): Looks.read({"planned": entry["planned"], "taken": entry["taken"]} | entry)
                for env, entry in content.get("envs", {}).items()
            }
            self.overall += [[*map(str, each)] for each in content.get("overall", ())]
            self.secondary = max(self.secondary, int(content.get("secondary", 0)))
        except DAMAGE as error:
            raise _unreadable(path, error) from None
        for env, looks in found.items():
            try:
                self.of(env).join(looks)
            except ConfigError as error:
                raise ConfigError(f"{path}: {env}: {error} by the studies; compare one at a time") from None
        self.content = _joined(content, self.content)

    @property
    def path(self) -> Path:
        """The first study's file, to be named."""
        return self.paths[0]

    def of(self, env: str) -> Looks:
        """Looks at an environment."""
        return self.looks.setdefault(env, Looks())

    def late(self, env: str, arm: str) -> bool:
        """Whether an arm, by its id, was not among those compared when the study's first verdict was given."""
        return self.judged and self.shown and arm not in self.of(env).compared

    @property
    def compared(self) -> Arms:
        """Arms that were compared up to the first verdict."""
        return {env: looks.compared for env, looks in self.looks.items()}

    def everything(self, now: Arms) -> Arms:
        """Arms that are compared now or were before: what was left out since has been looked at, too."""
        before = {env: looks.compared | looks.late for env, looks in self.looks.items()}
        return {env: now.get(env, {}) | before.get(env, {}) for env in dict.fromkeys([*before, *now])}

    def show(self, compared: Arms, secondary: int) -> None:
        """Note that differences of these arms are shown, whether or not with a verdict."""
        for env, arms in compared.items():
            looks = self.of(env)
            new = {arm: name for arm, name in arms.items() if arm not in looks.compared | looks.late}
            (looks.late if self.judged else looks.compared).update(new)
            self.changed |= bool(new) or (bool(looks.planned) and not looks.seen)
            looks.seen |= bool(looks.planned)
        self.changed |= secondary > self.secondary
        self.secondary = max(self.secondary, secondary)

    def show_early(self, env: str, seeds: int) -> None:
        """Note that differences of so many seeds are shown, though neither planned nor enough for a verdict."""
        looks = self.of(env)
        if not looks.planned and not looks.taken and seeds not in looks.shown:
            looks.shown.append(seeds)
            self.changed = True

    def wait(self, env: str, arm: str, seeds: int) -> None:
        """Note that differences are shown while seeds of an arm are still to come, of so many."""
        looks = self.of(env)
        if looks.awaited.get(arm, 0) < seeds:
            looks.awaited[arm] = seeds
            self.changed = True

    def take(self, env: str, seeds: int, *scored: Seeds) -> None:
        """Note that a verdict is given on arms with these scored seeds, so many at most."""
        looks = self.of(env)
        known = looks.seeds.setdefault(seeds, {})
        self.changed |= seeds not in looks.taken or not {x.id for x in scored} <= known.keys()
        looks.taken += [seeds] if seeds not in looks.taken else []
        looks.seeds[seeds] = {x.id: x.named for x in scored} | known

    def take_overall(self, arms: list[str]) -> None:
        """Note that a verdict over environments is given on these."""
        if arms not in self.overall:
            self.overall.append(arms)
            self.changed = True

    def save(self, plan: bool = False, **more: Any) -> None:
        """Write the files; more: the question, such as the primary measure, which stays as at the plan or first answer.

        plan: it is one, and its question replaces a former one. What was recorded by environment stays otherwise, and
        is added for environments that are new.

        Raises:
            StorageError: one cannot be written.
        """
        content = {**self.content, **more} if plan else _joined(more, self.content)
        used = {env: looks for env, looks in self.looks.items() if looks != Looks()}
        content["envs"] = {
            env: asdict(looks) | {"seeds": {str(look): arms for look, arms in looks.seeds.items()}}
            for env, looks in used.items()
        }
        content |= {"overall": self.overall, "secondary": self.secondary}
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        text = (json.dumps({**content, "updated": now}, indent=1) + os.linesep).encode()
        failed: list[StorageError] = []
        for path in self.paths:
            try:
                write_atomically(path, text)
            except StorageError as error:
                failed.append(error)
        self.content = content
        if failed:
            raise failed[0]
