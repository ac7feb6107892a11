"""`rlexp.study status`: the table of a study's jobs."""

from pathlib import Path

import pytest
from runs import make, plan

from rlexp.run.lock import FolderLock
from rlexp.study.status import JobStatus, read_study
from rlexp.study.table import duration, short_names, study_seconds_left, summary, table


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
    make(Path("out/c/algo=ppo-0123abcd"), "failed")
    assert "1 failed" in cli("status", "out/c/0123abcd").out
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


def test_what_all_names_say_alike_is_said_once():
    names = ["algo=ppo,optimizer.lr=_1e-3,0_,seed=0-01234567", "algo=ppo,optimizer.lr=_1e-3,0_,seed=1-89abcdef"]
    assert short_names(names) == ("algo=ppo, optimizer.lr=_1e-3,0_", ["seed=0-01234567", "seed=1-89abcdef"])
    assert short_names(names[:1]) == ("", names[:1])
    assert short_names(["a=1-01234567", "default-89abcdef"]) == ("", ["a=1-01234567", "default-89abcdef"])
