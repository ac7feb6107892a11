"""`rlexp.study clean`: what it lists, asks and removes, and what it leaves."""

import json
import os
from pathlib import Path

import pytest
from process import child
from runs import make, plan

from rlexp.run.lock import FolderLock
from rlexp.study.status import read_study


def planned_jobs(study):
    return list(json.loads((study / "sweep.json").read_text())["jobs"])


@pytest.fixture
def study(cli):
    """One job of every status; the running one's lock is held."""
    study = Path("s")
    for status in ("done", "failed", "interrupted", "pruned"):
        make(study / status, status)
        (study / status / "seed_0").mkdir()
        (study / status / "checkpoint.pt").write_bytes(b"0" * 2_000_000)
    make(study / "killed", "running", rows="0,250,10.0,7.5,3\r\n")
    make(study / "damaged")
    (study / "damaged/run.json").write_text("{")
    plan(study, "done", "failed", "waiting", "later")
    (study / "compare").mkdir()
    (study / "compare/notes.md").write_text("mine")
    with FolderLock(make(study / "running", "running")):
        yield study


def contents(study):
    return {str(path.relative_to(study)) for path in study.rglob("*") if path.name != ".lock"}


def test_clean_lists_asks_and_takes_no_for_an_answer(cli, study):
    before = contents(study)
    for answer in ("n\n", "\n", "", "yess\n"):
        result = cli("clean", "s", answer=answer)
        assert result.code == 0
        assert "failed            2.0 MB  s/failed\n" in result.out
        assert "killed            0.0 MB  s/killed\n" in result.out
        assert "remove these 2 folders? [y/N]" in result.out
        assert result.out.endswith("nothing removed\n")
    assert contents(study) == before


def test_clean_removes_after_a_yes_what_failed_and_nothing_else(cli, study):
    before = contents(study)
    result = cli("clean", "s", "what=failed", answer="y\n")
    assert "remove this 1 folder? [y/N]" in result.out
    assert result.out.endswith("removed 1 of 1\n")
    gone = {"failed", "failed/run.json", "failed/seed_0", "failed/checkpoint.pt"}
    assert contents(study) == before - gone
    assert not Path("s/failed").exists()
    assert planned_jobs(study) == ["done", "failed", "waiting", "later"]  # so it waits again
    assert {job.folder.name: job.status for job in read_study(study)}["failed"] == "waiting"


def test_clean_of_every_kind_leaves_what_runs_what_is_done_and_what_is_no_run(cli, study):
    result = cli("clean", "s", "what=failed,killed,interrupted,pruned,waiting,checkpoints", "yes=true")
    assert (result.code, result.err) == (0, "")
    assert result.out.endswith("removed 7 of 7\n")
    expected = {"compare", "compare/notes.md", "damaged", "damaged/run.json", "done", "done/run.json", "done/seed_0"}
    assert contents(study) == {*expected, "running", "running/run.json", "sweep.json"}
    assert json.loads(Path("s/sweep.json").read_text())["launches"] == ["first"]
    assert planned_jobs(study) == ["done", "failed"]
    result = cli("clean", "s", "what=killed,checkpoints")
    assert (result.code, result.out) == (0, "nothing to remove: no killed or checkpoints in s\n")


def test_clean_leaves_a_failed_job_that_has_been_started_anew_and_a_plan_being_written(cli, study):
    process, _ = child("print(lock.acquire(), flush=True); time.sleep(60)", study / "failed")
    try:
        result = cli("clean", "s", "yes=true")
        with FolderLock(study):  # as a sweep does that writes its plan
            planning = cli("clean", "s", "what=waiting", "yes=true")
    finally:
        process.kill()
        process.communicate()
    assert f"kept: s/failed: process {process.pid} on" in result.out
    assert f"kept: s/waiting: process {os.getpid()} on" in planning.out
    assert planned_jobs(study) == ["done", "failed", "waiting", "later"]
    assert "removed 1 of 2\n" in result.out
    assert Path("s/failed/checkpoint.pt").is_file()
    assert not Path("s/killed").exists()


def test_clean_looks_again_before_it_removes(cli, study):
    def answer():  # while the question stands, one is trained after all and one begins
        make(study / "failed", "done")
        make(study / "waiting", "running")
        return "y\n"

    result = cli("clean", "s", "what=failed,waiting", answer=answer)
    assert "remove these 1 folder and 2 planned jobs? [y/N]" in result.out
    assert "kept: s/failed: it has changed in the meantime\n" in result.out
    assert "kept: s/waiting: it has started in the meantime\n" in result.out
    assert Path("s/failed/checkpoint.pt").is_file()
    assert planned_jobs(study) == ["done", "failed", "waiting"]


def test_clean_follows_no_link_out_of_the_study(cli):
    outside = make(Path("outside"), "failed")
    make(Path("s/job"), "failed")
    Path("s/job/link").symlink_to(outside.resolve())
    Path("s/linked").symlink_to(outside.resolve())
    plan(Path("s"), "linked", "job")  # named as a job, too
    result = cli("clean", "s", "yes=true")
    assert result.out.endswith("removed 1 of 1\n")
    assert not Path("s/job").exists()
    assert Path("s/linked").is_symlink()
    assert contents(outside) == {"run.json"}


def test_clean_leaves_a_run_that_holds_another(cli):
    make(Path("s/job"), "failed")
    make(Path("s/job/inner"), "done")
    result = cli("clean", "s", "yes=true")
    assert "kept: s/job: it contains other runs" in result.out
    assert Path("s/job/inner/run.json").is_file()
    assert Path("s/job/run.json").is_file()


def test_clean_says_where_a_killed_run_was_if_on_another_machine(cli):
    make(Path("s/job"), "running", host="node7")
    result = cli("clean", "s", answer="n\n")
    assert "s/job  (ran on node7)\n" in result.out
