"""How jobs stand, by what their folders hold."""

import os
import tracemalloc

import pytest
from runs import HEADER, make, plan

from rlexp.run.lock import FolderLock
from rlexp.study.status import last_rows, read_job_status, read_study
from rlexp.study.table import table


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
    assert (job.progress, job.seconds, job.score) == (0.5, 20.0, 4.0)


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


def test_seeds_that_diverged_count_neither_for_the_progress_nor_for_the_score_and_are_told(tmp_path):
    diverged = {"4": {"step": 200, "update": 2, "metric": "loss", "value": "nan"}}
    rows = "3,300,9.0,1.0,2\r\n4,100,9.0,5.0,2\r\n3,600,20.0,2.0,4\r\n"
    job = read_job_status(make(tmp_path / "a", "interrupted", rows, seeds=(3, 4), diverged=diverged))
    assert (job.progress, job.score, job.error) == (0.6, 2.0, None)
    result = {"training_return": [3.0, None]}
    job = read_job_status(make(tmp_path / "b", "done", rows, seeds=(3, 4), diverged=diverged, result=result))
    assert (job.status, job.progress, job.score, job.error) == ("done", 1.0, 3.0, "1 of 2 seeds diverged")
    job = read_job_status(make(tmp_path / "c", "failed", rows, seeds=(3, 4), diverged=diverged, error="KeyError: x"))
    assert job.error == "KeyError: x"
    both = diverged | {"3": diverged["4"]}
    job = read_job_status(make(tmp_path / "d", "failed", rows, seeds=(3, 4), diverged=both, error="DivergedError: x"))
    assert (job.progress, job.score, job.error) == (0.0, None, "DivergedError: x")
    assert "1 of 2 seeds diverged" in table(read_study(tmp_path), tmp_path)


@pytest.mark.parametrize("half", ["0,900,30.0,9", "0,900", "0,900,30.0,9.0,4", "0,90\r\n0,x,1,1,1\r\n"])
def test_a_half_written_row_is_not_read(tmp_path, half):
    job = read_job_status(make(tmp_path, "interrupted", "0,400,10.0,2.0,1\r\n0,500,20.0,3.0,2\r\n" + half))
    assert (job.progress, job.seconds, job.score) == (0.5, 20.0, 3.0)


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
