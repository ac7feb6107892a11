"""Change hyperparameters of a run while it goes: those of its live.yaml.

python -m rlexp.tune_live run=outputs/...                       what may change, and what has
python -m rlexp.tune_live run=outputs/... optimizer.lr=1e-4     in force from the next update on

The run is one that was started with live=true. A list is a schedule over the whole run: algo.clip_coef=[0.2,0].
"""

import contextlib
import functools
import re
from pathlib import Path
from typing import Any

from rlexp.algos.schedules import Schedule
from rlexp.commands import command
from rlexp.errors import ConfigError
from rlexp.files import write_atomically
from rlexp.run.live import LiveFiles, read_values
from rlexp.run.names import folder_named, missing_folder
from rlexp.run.record import RunRecord
from rlexp.text import nearest, one_line
from rlexp.training.live import EPOCHS


def run_command(words: list[str]) -> None:
    """Show the hyperparameters of a run, or set some."""
    pairs = dict(word.partition("=")[::2] for word in words)
    folder = Path(pairs.pop("run", ""))
    if folder == Path():
        raise ConfigError("run=: name a run, as in run=outputs/<study>/<run>")
    folder = folder_named(folder)
    if not folder.is_dir():
        raise ConfigError(f"run={folder}: {missing_folder(folder).partition(': ')[2]}")
    record, path = RunRecord(folder), folder / "live.yaml"
    ranges = record.data.get("live", {}).get("ranges", {})
    if not path.is_file() or not ranges:
        raise ConfigError(f"run={folder}: has no live.yaml; only runs started with live=true can be changed")
    try:
        text = path.read_text(encoding="utf-8")
        values = read_values(text)
    except ValueError as error:
        raise ConfigError(f"{path}: cannot be read ({error}); mend it") from None
    for key, given in pairs.items():
        value = _checked(key, given, ranges)
        line = re.compile(rf"^{re.escape(key)}\s*:[^#\n]*?(\s*#.*)?$", re.MULTILINE)
        text, found = line.subn(rf"{key}: {value}\1", text)
        text = text if found else f"{text.rstrip()}\n{key}: {value}\n"
        if _value_in(text, key) != value:
            raise ConfigError(f"{path}: has no line like {key}: {value}; edit it there")
    if not pairs:
        _show(folder, values, ranges)
        return
    if record.status in ("done", "failed"):
        raise ConfigError(f"run={folder}: is {record.status}, and does not go on")
    write_atomically(path, text.encode())
    going = record.status == "running"
    when = "from its next update on, if it is still going" if going else f"when the run goes on; it is {record.status}"
    for key in pairs:
        print(f"{key} is {read_values(text)[key]}, was {values.get(key)}: {when}")


def _value_in(text: str, key: str) -> Any:
    """A value in the text of a live.yaml; None if it has none, or cannot be read."""
    with contextlib.suppress(ValueError):
        return read_values(text).get(key)
    return None


def _checked(key: str, given: str, ranges: dict[str, Any]) -> Any:
    if key not in ranges:
        raise ConfigError(f"{key}={given}: cannot be changed while the run goes; {nearest(key, list(ranges))}")
    try:
        value = read_values(f"{key}: {given}")[key]
    except ValueError as error:
        raise ConfigError(f"{key}={given}: cannot be read ({error})") from None
    try:
        schedule, (low, high) = Schedule(value, key), ranges[key]
    except OverflowError:
        raise ConfigError(f"{key}: that number is too large") from None
    if min(schedule.knots) < low or max(schedule.knots) > high:
        raise ConfigError(f"{key}={given}: its range is {low:g} to {high:g}")
    if key == EPOCHS and not (len(schedule.knots) == 1 and schedule.knots[0].is_integer()):
        raise ConfigError(f"{key}={given}: must be a whole number")
    return value


def _show(folder: Path, values: dict[str, Any], ranges: dict[str, Any]) -> None:
    width = max(map(len, ranges))
    for key, (low, high) in ranges.items():
        print(f"{key:<{width}}  {values.get(key)!s:<12}  {low:g} to {high:g}")
    for change in LiveFiles(folder).changes():
        print(one_line(f"update {change.update + 1}: {change.key} {change.before} -> {change.value}"))


main = functools.partial(command, "rlexp.tune_live", __doc__, run_command)

if __name__ == "__main__":
    main()
