"""Jobs that were left in a queue: what is shown of them, what `clean` and `compare` make of them, whom one trusts."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from runs import make, plan, write_run

from rlexp.compare.audit import finished
from rlexp.run import queued
from rlexp.run.lock import FolderLock
from rlexp.study import slurm
from rlexp.study.runs import find_runs
from rlexp.study.status import read_job_status, read_study
from rlexp.study.table import table


@pytest.fixture
def squeue(tmp_path, monkeypatch):
    """Slurm's answer, of the cluster a: squeue(lines, error="", code=0); what it was called with is in `called`."""
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")

    def answer(lines, error="", code=0):
        (tmp_path / "bin").mkdir(exist_ok=True)
        call = 'echo "$@" $SQUEUE_STATES $SLURM_CLUSTERS >> '
        script = f"#!/bin/sh\n{call}{tmp_path}/called\nprintf '{lines}'\nprintf '{error}' >&2\nexit {code}\n"
        (tmp_path / "bin/squeue").write_text(script)
        (tmp_path / "bin/scontrol").write_text("#!/bin/sh\necho 'ClusterName             = a'\n")
        for name in ("squeue", "scontrol"):
            (tmp_path / "bin" / name).chmod(0o755)
        return tmp_path / "called"

    return answer


def mark(folder, id="7_0", queue="slurm", record=None, **more):
    queued.write(folder, replace(queued.entry(queue, id, record, controller="a"), **more))
    return folder


def of_slurm(*ids, **more):
    return [replace(queued.entry("slurm", id, None, controller="a"), **more) for id in ids]


def told(marks):
    return {mark.id: state for mark, state in slurm.states_of(marks).items()}


def of(study):
    return {job.folder.name: job.status for job in read_study(study)}


def test_a_queued_job_is_what_its_queue_says_or_else_its_folder(tmp_path, squeue):
    study = tmp_path / "s"
    for k, name in enumerate(("pending", "starting", "cancelled", "killed")):
        mark(study / name, f"7_{k}")
    make(study / "killed", "running")
    mark(study / "on ray", "rlexp-00000000_0", "ray")
    plan(study, *(path.name for path in study.iterdir()))
    called = squeue("7_0 PENDING\\n7_1 RUNNING\\n7_2 CANCELLED\\n9_0 RUNNING\\n")
    expected = {"pending": "queued", "starting": "queued", "cancelled": "waiting", "killed": "killed"}
    assert of(study) == expected | {"on ray": "queued"}
    assert called.read_text() == "--noheader --array --format=%i %T --jobs=7\n"
    shown = table(read_study(study), study)
    for told in (": pending\n", ": running\n", ": no longer in the queue\n", "Ray job rlexp-00000000_0, submitted"):
        assert told in shown
    assert "3 queued, 1 waiting, 1 killed" in shown
    squeue("", "slurm_load_jobs error: Invalid job id specified\\n", 1)
    assert of(study) == {**expected, "pending": "waiting", "starting": "waiting", "on ray": "queued"}
    for trouble in ("slurm_load_jobs error: Unable to contact slurm controller\\n", "Socket timed out\\n"):
        squeue("", trouble, 1)
        assert set(of(study).values()) == {"queued"}


def test_without_squeue_what_was_queued_is_queued(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    mark(tmp_path / "s/job")
    plan(tmp_path / "s", "job")
    (job,) = read_study(tmp_path / "s")
    assert job.status == "queued"
    assert job.error.startswith("Slurm job 7_0, submitted 20")


def test_a_job_that_runs_or_has_ended_since_is_not_queued(tmp_path):
    make(tmp_path, "running")
    mark(tmp_path, record=queued.digest(tmp_path))
    with FolderLock(tmp_path):
        assert read_job_status(tmp_path).status == "running"
    assert read_job_status(tmp_path).status == "queued"
    for status in ("done", "failed", "pruned"):
        make(tmp_path, status)
        assert read_job_status(tmp_path).status == status
        mark(tmp_path, record=queued.digest(tmp_path))  # submitted again
        assert read_job_status(tmp_path).status == "queued"
    make(tmp_path, "interrupted")  # preempted: back in the queue
    assert read_job_status(tmp_path).status == "queued"


@pytest.mark.parametrize(
    "content",
    ["", "[1]", "{}", '{"queue": "slurm"}', {"queue": "sh"}, {"id": "1; touch owned"}, {"id": 3}, {"since": "x" * 999}],
)
def test_a_strangers_mark_is_only_read(tmp_path, squeue, content):
    called = squeue("")
    mark(tmp_path / "s/job")
    plan(tmp_path / "s", "job")
    path = tmp_path / "s/job" / queued.NAME
    path.write_text(content if isinstance(content, str) else json.dumps(json.loads(path.read_text()) | content))
    (job,) = read_study(tmp_path / "s")
    assert (job.status, job.error) == ("queued", "queued.json cannot be read")
    assert not called.exists()


def test_of_ids_only_numbers_reach_squeue(squeue):
    called = squeue("")
    strange = ("--help", "1,2", "3_x", "rlexp-0_1", "$(id)", "٣", "0", str(2**31), str(2**32 + 5), "")
    assert told(of_slurm(*strange)) == {}
    assert told(of_slurm("5", clusters="--help")) == told(of_slurm("5", clusters="a b")) == {}
    assert not called.exists()
    assert told(of_slurm("12", "5_3", "5_4", "-1")) == {"12": slurm.GONE, "5_3": slurm.GONE, "5_4": slurm.GONE}
    assert called.read_text().endswith("--jobs=12,5\n")


def test_squeue_is_asked_as_if_its_user_had_set_nothing(squeue, monkeypatch):
    monkeypatch.setenv("SQUEUE_STATES", "RUNNING")
    monkeypatch.setenv("SLURM_CLUSTERS", "elsewhere")
    called = squeue("7 PENDING\\n\\377\\376 x\\n")
    assert told(of_slurm("7")) == {"7": "PENDING"}
    assert told(of_slurm("7", clusters="a,b")) == {"7": "PENDING"}
    plain = "--noheader --array --format=%i %T"
    of_clusters = f"{plain} --clusters=a --jobs=7\n{plain} --clusters=b --jobs=7\n"
    assert called.read_text() == f"{plain} --jobs=7\n{of_clusters}"


def test_one_job_that_slurm_has_forgotten_says_nothing_of_others(squeue):
    called = squeue("")
    script = 'case "$*" in *jobs=7) echo 7 PENDING;; *) echo Invalid job id specified >&2; exit 1;; esac\n'
    (called.parent / "bin/squeue").write_text(f"#!/bin/sh\n{script}")
    assert told(of_slurm("7", "8")) == {"7": "PENDING", "8": slurm.GONE}


def test_of_clusters_one_of_which_does_not_answer_absence_says_nothing(squeue):
    squeue("7 PENDING\\n", "squeue: error: slurm_persist_conn_open_without_init: failed\\n")
    assert told(of_slurm("7", "8", clusters="a,b")) == {"7": "PENDING"}


@pytest.mark.parametrize(
    ("b", "expected"),
    [
        ("echo 12 RUNNING", {"12": "RUNNING"}),
        ("echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1", {}),
        ("echo 'error: Invalid job id specified' >&2; echo 'error: Unable to contact' >&2; exit 1", {}),
        ("echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1", {"12": slurm.GONE}),
        ("true", {"12": slurm.GONE}),
        ("echo 12 RUNNING; echo 'error: Invalid job id specified' >&2; exit 1", {}),
    ],
)
def test_what_one_of_several_clusters_does_not_know_may_be_on_another(squeue, b, expected):
    called = squeue("")
    script = f'case "$*" in *clusters=b*) {b};; *) echo "error: Invalid job id specified" >&2; exit 1;; esac\n'
    (called.parent / "bin/squeue").write_text(f"#!/bin/sh\n{script}")
    assert told(of_slurm("12", clusters="a,b")) == expected


def test_of_several_clusters_those_that_answer_are_heard(squeue):
    called = squeue("")
    script = 'case "$*" in *clusters=a*) echo 13 RUNNING;; *) echo "error: Unable to contact" >&2; exit 1;; esac\n'
    (called.parent / "bin/squeue").write_text(f"#!/bin/sh\n{script}")
    assert told(of_slurm("12", "13", clusters="a,b")) == {"13": "RUNNING"}


def test_of_another_users_job_or_another_cluster_slurm_cannot_tell(tmp_path, squeue):
    called = squeue("7 PENDING\\n")
    assert told(of_slurm("7", "8", user="someone")) == {"7": "PENDING"}
    assert told(of_slurm("7", "8", user=None)) == {"7": "PENDING"}
    assert told(of_slurm("7", "8", controller=None)) == {"7": "PENDING"}  # it is not known which cluster took them
    assert told(of_slurm("7", "8", controller="b")) == {}
    assert told(of_slurm("7", "8", controller="a")) == {"7": "PENDING", "8": slurm.GONE}
    (tmp_path / "bin/scontrol").unlink()
    assert told(of_slurm("7", "8", controller="a")) == {}
    assert called.read_text().count("\n") == 4
    squeue("7 PENDING\n")
    study = tmp_path / "s"
    plan(study, mark(study / "theirs", "8", user="someone").name, mark(study / "mine", "8").name)
    assert of(study) == {"theirs": "queued", "mine": "waiting"}
    line = "\nthe queue could not be asked for 1 of the queued jobs: they may have left it"
    assert line in table(read_study(study), study)


@pytest.mark.parametrize("kind", ["pipe", "link", "folder", "long"])
def test_a_mark_that_is_no_small_file_is_not_read(tmp_path, kind):
    path = mark(tmp_path / "job") / queued.NAME
    good = path.read_text()
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "link":
        (tmp_path / "other").write_text(good)
        path.symlink_to(tmp_path / "other")
    elif kind == "folder":
        path.mkdir()
    else:
        path.write_text(good + " " * 5000)
    assert str(queued.read(tmp_path / "job")) == "queued.json cannot be read"


def test_clean_forgets_a_queued_job_only_if_told_to(cli, squeue):
    squeue("7_0 PENDING\\n")
    study = Path("s")
    mark(study / "fresh")
    mark(make(study / "again", "interrupted"))
    mark(study / "gone", "8")
    plan(study, "fresh", "again", "gone")
    kinds = "what=failed,killed,interrupted,pruned,checkpoints"
    assert cli("clean", "s", kinds, "yes=true").out.startswith("nothing to remove")
    result = cli("clean", "s", "what=waiting", "yes=true")
    assert "removed 1 of 1" in result.out
    assert not (study / "gone").exists()
    assert of(study) == {"fresh": "queued", "again": "queued"}
    result = cli("clean", "s", "what=queued", answer="y\n")
    assert "s/fresh/queued.json  (Slurm job 7_0, submitted" in result.out
    assert "remove these 2 queue marks? [y/N]" in result.out
    assert of(study) == {"fresh": "waiting", "again": "interrupted"}
    assert (study / "again/run.json").exists()


def test_clean_leaves_a_waiting_job_that_is_submitted_while_it_asks(cli, squeue):
    squeue("7_0 PENDING\\n")
    plan(Path("s"), "job")

    def answer():
        mark(Path("s/job"))
        return "y\n"

    assert "kept: s/job: it has been submitted in the meantime" in cli("clean", "s", "what=waiting", answer=answer).out


def test_compare_waits_for_a_queued_run(tmp_path):
    folder = write_run(tmp_path / "s/job", status="interrupted")
    mark(folder)
    remarks = []
    done, others = finished(find_runs([tmp_path / "s"]), remarks)
    assert (done, [status for _, status in others]) == ([], ["queued"])
    assert remarks == [f"{folder}: left out, its status is queued"]
