import io
import json
import os
import platform
import sys
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import pytest
from process import child

from rlexp.run.lock import FolderLock
from rlexp.study.__main__ import main
from rlexp.study.status import (
    JobStatus,
    duration,
    last_rows,
    read_job_status,
    read_study,
    short_names,
    study_seconds_left,
    summary,
    table,
)

HEADER = "seed,step,wall_time,episodic_return,episodes\r\n"


def make(folder, status="done", rows="", seeds=(0,), total_steps=1000, **more):
    """A run's folder by hand; rows: what follows the header of metrics.csv."""
    folder.mkdir(parents=True, exist_ok=True)
    record = {"status": status, "seeds": list(seeds), "config": {"total_steps": total_steps}, "host": platform.node()}
    (folder / "run.json").write_text(json.dumps(record | more))
    if rows:
        (folder / "metrics.csv").write_text(HEADER + rows, newline="")
    return folder


def plan(study, *names):
    study.mkdir(parents=True, exist_ok=True)
    content = {"jobs": {name: {"overrides": [f"algo={name}"]} for name in names}, "launches": ["first"]}
    (study / "sweep.json").write_text(json.dumps(content))


def planned_jobs(study):
    return list(json.loads((study / "sweep.json").read_text())["jobs"])


@pytest.fixture
def cli(tmp_path, monkeypatch, capsys):
    """The command line in-process, in an empty folder: cli(*words, answer=None) -> exit code, what it printed.

    An answer is typed on a terminal, or a function that gives it is called; without one standard input is no terminal.
    """
    monkeypatch.chdir(tmp_path)

    class Terminal(io.StringIO):
        def __init__(self, answer):
            super().__init__()
            self.readline = answer if callable(answer) else io.StringIO(answer).readline

        def isatty(self):
            return True

    def call(*words, answer=None):
        monkeypatch.setattr(sys, "stdin", io.StringIO() if answer is None else Terminal(answer))
        code = 0
        try:
            main(list(words))
        except SystemExit as stop:
            code = stop.code
        printed = capsys.readouterr()
        return SimpleNamespace(code=code, out=printed.out, err=printed.err)

    return call


# Reading --------------------------------------------------------------------------------------------------------------


def test_who_holds_the_lock_runs_and_who_lost_it_was_killed(tmp_path):
    make(tmp_path, "running", rows="0,250,10.0,7.5,3\r\n")
    with FolderLock(tmp_path):
        running = read_job_status(tmp_path)
    killed = read_job_status(tmp_path)
    # a quarter took 10 s, so three quarters take 30 s
    assert (running.status, running.progress, running.seconds_left, running.score) == ("running", 0.25, 30, 7.5)
    assert (killed.status, killed.progress, killed.seconds_left, killed.score) == ("killed", 0.25, None, 7.5)


@pytest.mark.parametrize("status", ["done", "failed", "interrupted", "pruned"])
def test_other_statuses_are_those_of_run_json(tmp_path, status):
    make(tmp_path, status, rows="0,250,10.0,7.5,3\r\n", error="ValueError: no\n  good", result={"training_return": [4]})
    with FolderLock(tmp_path):
        job = read_job_status(tmp_path)
    assert (job.status, job.error, job.seconds_left) == (status, "ValueError: no good", None)
    assert (job.progress, job.score) == ((1.0, 4.0) if status == "done" else (0.25, 7.5))


def test_the_slowest_seed_gives_the_progress_and_all_the_score(tmp_path):
    rows = "3,300,9.0,1.0,2\r\n4,200,9.0,5.0,2\r\n3,600,20.0,2.0,4\r\n4,500,20.0,6.0,4\r\n"
    job = read_job_status(make(tmp_path, "interrupted", rows, seeds=(3, 4)))
    assert (job.steps, job.progress, job.seconds, job.score) == (500, 0.5, 20.0, 4.0)


def test_a_seed_without_a_row_or_a_finished_episode_counts_as_nothing_yet(tmp_path):
    job = read_job_status(make(tmp_path, "interrupted", "0,500,9.0,8.0,2\r\n1,400,9.0,,0\r\n", seeds=(0, 1)))
    assert (job.progress, job.score) == (0.4, 8.0)
    job = read_job_status(make(tmp_path, "interrupted", "0,500,9.0,8.0,2\r\n", seeds=(0, 1)))
    assert (job.progress, job.score) == (0.0, 8.0)
    job = read_job_status(make(tmp_path / "new", "interrupted"))
    assert (job.progress, job.score, job.seconds) == (0.0, None, 0.0)
    # one of the two seeds of a finished run never saw an episode end
    job = read_job_status(make(tmp_path / "end", "done", seeds=(0, 1), result={"training_return": [3.0, None]}))
    assert (job.progress, job.score) == (1.0, 3.0)


@pytest.mark.parametrize("half", ["0,900,30.0,9", "0,900", "0,900,30.0,9.0,4", "0,90\r\n0,x,1,1,1\r\n"])
def test_a_half_written_row_is_not_read(tmp_path, half):
    job = read_job_status(make(tmp_path, "interrupted", "0,400,10.0,2.0,1\r\n0,500,20.0,3.0,2\r\n" + half))
    assert (job.steps, job.seconds, job.score) == (500, 20.0, 3.0)


def test_only_the_end_of_a_large_file_is_read(tmp_path):
    path = tmp_path / "metrics.csv"
    with open(path, "w", newline="") as file:
        file.write(HEADER)
        file.truncate(200_000_000)  # a hole
        file.seek(0, os.SEEK_END)
        file.write("\r\n0,500,20.0,3.0,2\r\n1,600,20.0,4.0,2\r\n")
    tracemalloc.start()
    assert last_rows(path, {0, 1}) == {0: (500, 20.0, 3.0), 1: (600, 20.0, 4.0)}
    assert last_rows(path, {0, 1, 2}).keys() == {0, 1}
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50_000_000


def test_more_seeds_than_the_first_look_at_the_end_takes_in(tmp_path):
    rows = "".join(f"{seed},{step},1.0,2.0,3\r\n" for step in (5, 6) for seed in range(5000))
    assert len(rows) // 2 > 1 << 16
    found = last_rows(make(tmp_path, rows=rows) / "metrics.csv", set(range(5000)))
    assert len(found) == 5000
    assert {row[0] for row in found.values()} == {6}


@pytest.mark.parametrize("content", ["", '{"status": "do', "[1]", "{}", '{"status": "done", "seeds": 3}'])
def test_a_damaged_record_is_one_jobs_trouble(tmp_path, content):
    make(tmp_path / "good")
    make(tmp_path / "bad")
    (tmp_path / "bad/run.json").write_text(content)
    bad, good = read_study(tmp_path)
    assert (bad.status, good.status) == ("damaged", "done")
    assert bad.error.startswith("run.json: ")
    assert "\n" not in bad.error


def test_planned_jobs_wait_and_all_are_in_natural_order(tmp_path):
    make(tmp_path / "s/lr=10")
    make(tmp_path / "s/deep/lr=2", "failed")
    plan(tmp_path / "s", "lr=9", "lr=10", "deep/lr=2", "deep/lr=11")
    (tmp_path / "s/lr=9").mkdir()  # made, but nothing is in it yet
    jobs = [(str(job.folder.relative_to(tmp_path / "s")), job.status) for job in read_study(tmp_path / "s")]
    expected = [("deep/lr=2", "failed"), ("deep/lr=11", "waiting"), ("lr=9", "waiting"), ("lr=10", "done")]
    assert jobs == expected
    assert [job.status for job in read_study(tmp_path)] == [status for _, status in expected]


def test_what_a_link_leads_to_is_no_job_of_the_study(tmp_path):
    make(tmp_path / "elsewhere", "failed")
    make(tmp_path / "s/own")
    (tmp_path / "s/link").symlink_to(tmp_path / "elsewhere")
    assert [job.folder.name for job in read_study(tmp_path / "s")] == ["own"]


# Showing --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0, "0 s"), (59.6, "1 m"), (200, "3 m 20 s"), (7500, "2 h 5 m"), (86400, "1 d"), (98000, "1 d 3 h")],
)
def test_durations(seconds, told):
    assert duration(seconds) == told


def at(status, progress=0.0, seconds=0.0):
    return JobStatus(Path("s/job"), status, progress=progress, seconds=seconds)


def test_the_time_left_of_a_study():
    # a job takes 200 s by the done one and 400 s by the running one, 300 s on average; the latter has 300 s left
    jobs = [at("done", 1.0, 200), at("running", 0.25, 100)]
    assert study_seconds_left(jobs) == 300
    assert study_seconds_left([*jobs, at("waiting"), at("waiting")]) == 300 + 2 * 300
    # a second one side by side, just begun, counts as a whole job: (300 + 300 + 2·300) / 2
    assert study_seconds_left([*jobs, at("running"), at("waiting"), at("waiting")]) == 600
    # never less than the slowest job needs
    assert study_seconds_left([at("running", 0.5, 1000), at("running", 0.5, 10)]) == 1000
    assert study_seconds_left([at("done", 1.0, 200), at("waiting"), at("killed", 0.5, 9)]) is None
    assert study_seconds_left([at("running")]) is None
    jobs = [at("waiting"), at("running", 0.5, 345), at("failed"), at("done", 1, 345), at("failed")]
    assert summary(jobs) == "1 done, 1 running, 1 waiting, 2 failed; about 14 m left"  # 345 + 517.5 s


def test_the_table_has_aligned_columns_and_short_errors(tmp_path):
    make(tmp_path / "a", "running", rows="0,250,10.0,7.5,3\r\n")
    make(tmp_path / "longer", "failed", error="ValueError: " + "x" * 300)
    make(tmp_path / "quick", "done", result={"training_return": [1, 2]})
    with FolderLock(tmp_path / "a"):
        standings = read_study(tmp_path)
    lines = table(standings, tmp_path).split("\n")
    assert lines[:2] == [
        "job     status   progress  left  return  error",
        "a       running       25%  30 s     7.5",
    ]
    assert lines[2].startswith("longer  failed         0%     –       –  ValueError: xxx")
    assert len(lines[2]) == lines[0].index("error") + 100  # whole below
    assert lines[3:] == [
        "quick   done         100%     –     1.5",
        "",
        "1 done, 1 running, 1 failed; about 30 s left",
        f"failed: {tmp_path / 'longer'}",
        "  ValueError: " + "x" * 300,
    ]
    assert table(standings[::-1], tmp_path).split("\n") == lines


def test_status_tells_of_several_studies_and_on_request_the_tracebacks(cli):
    make(
        Path("out/a/one"),
        "failed",
        error="KeyError: 'x'",
        traceback="Traceback (most recent):\n  line\nKeyError: 'x'\n",
    )
    make(Path("out/b/two"), "failed")
    plan(Path("out/b"), "three")
    result = cli("status", "out/a", "out/b")
    assert (result.code, result.err) == (0, "")
    assert "out/a:\njob " in result.out
    assert "1 waiting, 1 failed" in result.out
    assert "Traceback" not in result.out
    result = cli("status", "out/a", "out/b", "traceback=true")
    assert "out/a/one:\nTraceback (most recent):\n  line\nKeyError: 'x'\n" in result.out
    assert "out/b/two:\nno traceback" in result.out
    assert cli("status", "out/a/one").out.split("\n")[1].startswith("one ")
    assert "rlexp.study clean outputs/first" in cli("--help").out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["stats", "s"], "did you mean status?"),
        (["status"], "name a study"),
        (["status", "t"], "t: there is no such folder\n"),
        (["status", "first"], "first: there is no such folder; did you mean outputs/first?"),
        (["status", "empty"], "no run.json"),
        (["status", "s", "what=failed"], "what=failed: no such setting"),
        (["status", "s", "traceback=yes"], "must be true or false"),
        (["status", "torn"], "torn/sweep.json: cannot be read"),
        (["status", "astray"], "../s is outside its folder"),
        (["clean", "s", "what=fialed"], "did you mean failed?"),
        (["clean", "s", "what=failed,running"], "what=running: cannot be removed"),
        (["clean", "s"], "yes=true"),
    ],
)
def test_errors_are_told_in_one_line(cli, words, told):
    make(Path("s/job"), "failed")
    Path("empty").mkdir()
    Path("outputs/first").mkdir(parents=True)
    plan(Path("astray"), "../s")
    plan(Path("torn"))
    Path("torn/sweep.json").write_text('{"jobs": ')
    result = cli(*words)
    assert result.code == 1
    assert result.err.startswith("rlexp.study: ")
    assert result.err.count("\n") == 1
    assert told in result.err
    assert Path("s/job/run.json").is_file()


# Removing -------------------------------------------------------------------------------------------------------------


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


# Names ----------------------------------------------------------------------------------------------------------------


def test_what_all_names_say_alike_is_said_once():
    names = ["algo=ppo,optimizer.lr=_1e-3,0_,seed=0-01234567", "algo=ppo,optimizer.lr=_1e-3,0_,seed=1-89abcdef"]
    assert short_names(names) == ("algo=ppo, optimizer.lr=_1e-3,0_", ["seed=0-01234567", "seed=1-89abcdef"])
    assert short_names(names[:1]) == ("", names[:1])
    assert short_names(["a=1-01234567", "default-89abcdef"]) == ("", ["a=1-01234567", "default-89abcdef"])
