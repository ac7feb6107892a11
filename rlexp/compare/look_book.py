"""The looks at studies, and what was compared and asked at them, kept in the looks.json of each."""

import json
import os
import time
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rlexp.compare.looks import Looks, Seeds
from rlexp.errors import ConfigError, StorageError
from rlexp.files import write_atomically
from rlexp.text import one_line

FILE = "looks.json"
MOST = 1_000_000  # comparisons
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
        json.dumps(content, ensure_ascii=False).encode()  # a surrogate could not be written to a page
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
    """Looks at one study by environment, as in its looks.json."""

    def __init__(self, folder: Path) -> None:
        """Read the study's file; a ConfigError if it cannot be read, or is a symbolic link."""
        self.path = folder / FILE
        self.content = _read(self.path)
        try:
            self.looks = {
                str(env): Looks.read({"planned": entry["planned"], "taken": entry["taken"]} | entry)
                for env, entry in self.content.get("envs", {}).items()
            }
            # environments and arms' ids over which a verdict was given, and differences were shown
            self.overall, self.over = (
                [[*map(str, each)] for each in self.content.get(name, ())] for name in ("overall", "over")
            )
            self.secondary = min(int(self.content.get("secondary", 0)), MOST)  # comparisons by other measures, at most
        except DAMAGE as error:
            raise _unreadable(self.path, error) from None
        self.changed = False  # since it was read
        every = self.looks.values()
        self.shown = any(looks.compared for looks in every)  # whether differences had been shown then
        self.judged = self.shown and any(looks.taken for looks in every)  # whether a verdict had been given

    def of(self, env: str) -> Looks:
        """Looks at an environment."""
        return self.looks.setdefault(env, Looks())

    def _put(self, env: str, **new: Any) -> None:
        self.changed |= (now := replace(self.of(env), **new)) != self.looks[env]
        self.looks[env] = now

    def show_arms(self, compared: Arms, secondary: int) -> None:
        """Note that these arms are compared, whether or not with a verdict, and how often by other measures."""
        for env, arms in compared.items():
            looks = self.of(env)
            new = {arm: name for arm, name in arms.items() if arm not in looks.compared | looks.late}
            where = "late" if self.judged else "compared"
            self._put(env, **{where: getattr(looks, where) | new})
        self.changed |= secondary > self.secondary
        self.secondary = max(self.secondary, secondary)

    def show(self, env: str, *pair: Seeds) -> None:
        """Note that a difference of these is shown."""
        looks = self.of(env)
        known = {x.id: sorted({*looks.known.get(x.id, ()), *x.ended}) for x in pair}
        awaited = {x.id: max(x.own, looks.awaited.get(x.id, 0)) for x in pair if x.coming}
        first = {} if looks.planned else {x.id: [len(x.ended), x.own] for x in pair} | looks.shown
        self._put(
            env,
            seen=bool(looks.planned),
            known=looks.known | known,
            awaited=looks.awaited | awaited,
            shown=looks.shown | first,
        )

    def take(self, env: str, *pair: Seeds) -> None:
        """Note that a verdict is given on these, at the most seeds of either."""
        looks, at = self.of(env), max(x.own for x in pair)
        seeds = {x.id: x.named for x in pair} | looks.seeds.get(at, {})
        self._put(env, taken=[*dict.fromkeys([*looks.taken, at])], seeds=looks.seeds | {at: seeds})

    def show_over(self, arms: list[str]) -> None:
        """Note that a difference over environments is shown on these."""
        if arms not in self.over:
            self.over.append(arms)
            self.changed = True

    def take_over(self, arms: list[str]) -> None:
        """Note that a verdict over environments is given on these."""
        if arms not in self.overall:
            self.overall.append(arms)
            self.changed = True

    def declare(self, env: str, planned: list[int], pilot: int) -> None:
        """Note that looks are planned, by a pilot of so many seeds."""
        self._put(env, planned=planned, pilot=pilot)

    def save(self, plan: bool = False, **more: Any) -> None:
        """Write the file; more: the question, such as the primary measure, which stays as at the plan or first answer.

        plan: it is one, and its question replaces a former one, on the environments that are planned. What was recorded
        by environment stays otherwise, and is added for environments that are new.

        Raises:
            ConfigError: another command has written it since it was read: what that showed would be forgotten.
            StorageError: it cannot be written.
        """
        if json.dumps(_read(self.path)) != json.dumps(self.content):
            raise ConfigError(f"{self.path}: another command has written it meanwhile; run this one again")
        content = _joined(self.content, more) if plan else _joined(more, self.content)
        used = {env: looks for env, looks in self.looks.items() if looks != Looks()}
        content["envs"] = {
            env: asdict(looks) | {"seeds": {str(look): arms for look, arms in looks.seeds.items()}}
            for env, looks in used.items()
        }
        content |= {"overall": self.overall, "over": self.over, "secondary": self.secondary}
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        write_atomically(self.path, (json.dumps({**content, "updated": now}, indent=1) + os.linesep).encode())
        self.content = content


class LookBooks:
    """The looks at all studies whose runs are compared: each keeps its own, and a verdict is one by all of them."""

    def __init__(self, *folders: Path) -> None:
        """Read the studies' files; a ConfigError if one cannot be read, or is a symbolic link."""
        self.books = [LookBook(folder) for folder in folders]
        self.judged = any(book.judged for book in self.books)
        self.shown = any(book.shown for book in self.books)

    def of(self, env: str) -> list[Looks]:
        """Looks at an environment by study."""
        return [book.of(env) for book in self.books]

    def own(self, book: LookBook, arms: Iterable[Seeds]) -> list[Seeds]:
        """What a study has of the arms, without those of which it has none; all of the only study."""
        here = [x.within(book.path.parent) if len(self.books) > 1 else x for x in arms]
        return [x for x in here if x.seeds]

    def planned(self, env: str) -> list[int]:
        """Declared looks; a ConfigError if studies declare different ones."""
        planned = {tuple(book.of(env).planned): book.path for book in self.books if book.of(env).planned}
        if len(planned) > 1:
            told = " and ".join(f"at {[*looks]} ({path})" for looks, path in planned.items())
            raise ConfigError(f"{env}: looks are declared {told} seeds by the studies; compare one at a time")
        return [seeds for looks in planned for seeds in looks]

    @property
    def records(self) -> list[dict[str, Any]]:
        """What each file holds, the question of the plan or first answer included."""
        return [book.content for book in self.books]

    @property
    def record(self) -> dict[str, Any]:
        """What they hold together; of two answers that of the first study."""
        asked: dict[str, Any] = {}
        for book in self.books:
            asked = _joined(book.content, asked)
        return asked

    @property
    def overall(self) -> list[list[str]]:
        """Environments and arms' ids over which verdicts were given."""
        return [each for book in self.books for each in book.overall]

    @property
    def over(self) -> list[list[str]]:
        """Environments and arms' ids over which differences were shown."""
        return [each for book in self.books for each in book.over]

    @property
    def secondary(self) -> int:
        """Comparisons by other measures, at most."""
        return max((book.secondary for book in self.books), default=0)

    def everything(self, now: Arms) -> list[Arms]:
        """Arms that are compared now, and what was before: what was left out since has been looked at, too."""
        return [now, *({env: x.compared | x.late for env, x in book.looks.items()} for book in self.books)]

    def first(self, now: Arms) -> list[Arms]:
        """Arms up to the first verdict: those of now, or of studies that had one, by their names now and then."""
        if not self.judged:
            return self.everything(now)
        before = [
            {env: {i: name for i, name in x.compared.items() if not self.late(env, i)} for env, x in book.looks.items()}
            for book in self.books
            if book.judged
        ]
        return [
            *before,
            {env: {i: name for i, name in arms.items() if not self.late(env, i)} for env, arms in now.items()},
        ]

    def late(self, env: str, arm: str) -> bool:
        """Whether an arm, by its id, was not among those compared when the first verdict was given."""
        judged = [book.of(env) for book in self.books if book.judged]
        came_later = any(arm in looks.late for looks in judged)  # than a verdict of one study, in which others are new
        return bool(judged) and (came_later or not any(arm in looks.compared for looks in judged))

    def share(self, env: str, arm: Seeds, base: Seeds) -> tuple[float, str]:
        """As `Looks.share`, by all studies: the least share, and the first reason."""
        found = [looks.share(arm, base) for looks in self.of(env)]
        return min(share for share, _ in found), next((why for _, why in found if why), "")

    def save(self, plan: bool = False, **more: Any) -> dict[Path, str]:
        """Write the files to which anything is new, see `LookBook.save`; returns those that cannot be, and why."""
        failed = {}
        for book in self.books:
            try:
                asked = book.shown and _joined(more, book.content) != book.content  # more than before
                if book.changed or plan or asked:
                    book.save(plan, **more)
            except StorageError as error:
                failed[book.path] = getattr(error.__cause__, "strerror", None) or str(error)
        return failed
