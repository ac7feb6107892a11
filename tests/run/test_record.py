"""run.json: what it says of a run's end."""

import json

import pytest
import torch

from rlexp.errors import DivergedError, EnvironmentFault, ObjectiveError
from rlexp.provenance import code_state
from rlexp.run.record import RecordError, RunRecord, diverged_in, read_record


def caused(error, cause):
    error.__cause__ = cause
    return error


ENDS = {
    "diverged": [DivergedError("update 3: loss of seed 0 is nan")],
    "memory": [
        MemoryError("cannot allocate 1 TiB"),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried ..."),
        caused(EnvironmentFault("env.id=X: maze.py:3: MemoryError"), MemoryError()),
    ],
    "environment": [EnvironmentFault("env.id=X: maze.py:3: ValueError: no")],
    "error": [ValueError("no"), ObjectiveError("the loss has no gradient"), RuntimeError("memory of better days")],
}


@pytest.mark.parametrize(("kind", "error"), [(kind, error) for kind, errors in ENDS.items() for error in errors])
def test_the_kind_of_error_is_kept_until_the_status_changes(tmp_path, kind, error):
    record = RunRecord(tmp_path)
    record.fail(error, {"seed": 0}, [0])
    assert json.loads((tmp_path / "run.json").read_text())["ended"] == kind
    record.update(training=True)
    assert RunRecord(tmp_path).data["ended"] == kind
    record.update(status="running")
    assert "ended" not in RunRecord(tmp_path).data


def test_a_failure_leaves_what_is_said_of_the_code_that_the_run_was_started_with(tmp_path, monkeypatch):
    sources = {"their_pkg/calm.py": "of before"}
    monkeypatch.setattr(code_state, "config_state", lambda *_: {"sources": dict(sources)})
    record = RunRecord(tmp_path)
    record.start({"seed": 0}, [0], 1)
    sources["their_pkg/calm.py"] = "edited"  # its process was killed, and the sweep, or a later launch, tells
    RunRecord(tmp_path).fail(MemoryError(), {"seed": 0}, [0])
    assert RunRecord(tmp_path).data["sources"] == {"their_pkg/calm.py": "of before"}
    assert RunRecord(tmp_path).status == "failed"


def test_seeds_that_diverged_are_read_back_or_refused(tmp_path):
    entry = {"step": 370, "update": 3, "metric": "loss", "value": "nan"}
    (tmp_path / "run.json").write_text(json.dumps({"status": "done", "diverged": {"3": entry}}))
    assert diverged_in(read_record(tmp_path)) == {3: entry}
    assert diverged_in({"status": "done"}) == {}
    for damaged in (["3"], {"three": entry}, {"3": "nan"}):
        (tmp_path / "run.json").write_text(json.dumps({"status": "done", "diverged": damaged}))
        with pytest.raises(RecordError, match="diverged is"):
            read_record(tmp_path)
