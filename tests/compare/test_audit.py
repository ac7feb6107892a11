"""What a comparison cannot use or lacks: curves that are not whole, jobs that were planned and are not there."""

import json
import shutil

import pytest
from runs import write_run

from rlexp.compare import __main__ as compare
from rlexp.compare.arms import compare_runs
from rlexp.compare.audit import missing_jobs
from rlexp.files import file_digest
from rlexp.study.runs import StudyError, find_runs


def rewrite(folder, change, **result):
    """Change the lines of metrics.csv, as if the run had written them so."""
    path = folder / "metrics.csv"
    header, *rows = path.read_text().splitlines()
    path.write_text("\n".join([header, *change(rows)]) + "\n")
    record = json.loads((folder / "run.json").read_text())
    record["files"]["metrics.csv"] = file_digest(path)
    (folder / "run.json").write_text(json.dumps(record | {"result": result}))


WHOLE = {"steps": [4000] * 5, "rows": [4] * 5}
OLDER = {"steps": [4000] * 5}  # before rows were recorded
FLAWS = {
    "cut": (lambda rows: rows[:-1], WHOLE, "has 3 rows of seed 4 instead of 4"),
    "cut, older": (lambda rows: rows[:-1], OLDER, "ends at step 3000 of seed 4 instead of 4000"),
    "a row gone": (lambda rows: rows[:1] + rows[2:], WHOLE, "has 3 rows of seed 0 instead of 4"),
    "a seed gone": (lambda rows: rows[4:], OLDER, "has no row of seed 0"),
    "doubled": (lambda rows: [row for row in rows for _ in range(2)], WHOLE, "has steps of seed 0 twice"),
    "doubled, older": (lambda rows: [row for row in rows for _ in range(2)], OLDER, "has steps of seed 0 twice"),
    "by turns": (lambda rows: rows + rows, {}, "has steps of seed 0 twice"),
}


@pytest.mark.parametrize("case", FLAWS)
def test_a_run_whose_curve_is_not_whole_is_left_out_by_name(tmp_path, case):
    change, result, flaw = FLAWS[case]
    write_run(tmp_path / "ppo")
    write_run(tmp_path / "apo", "apo")
    other = write_run(tmp_path / "apo_2", "apo", seeds=range(5), level=500.0)
    rewrite(other, change, **result)
    comparison = compare_runs(find_runs([tmp_path]))
    (said,) = [remark for remark in comparison.remarks if "apo_2" in remark]
    assert said.startswith(f"{other}: left out, as metrics.csv {flaw}")
    assert said.endswith("rerun it with resume=never")
    assert {sample.run.folder.name for sample in comparison.tasks[0].arms["apo"]} == {"apo"}
    shutil.rmtree(tmp_path / "apo_2")
    rewrite(tmp_path / "ppo", lambda rows: rows, **WHOLE)  # one that is whole says nothing
    assert not compare_runs(find_runs([tmp_path])).remarks


def test_a_curve_that_is_gone_leaves_out_its_own_run_alone(tmp_path):
    write_run(tmp_path / "ppo")
    (write_run(tmp_path / "apo", "apo") / "metrics.csv").unlink()
    comparison = compare_runs(find_runs([tmp_path]))
    assert comparison.arm_names == ["ppo"]
    assert any("apo: left out, " in remark and "cannot be read" in remark for remark in comparison.remarks)
    (tmp_path / "ppo" / "metrics.csv").unlink()
    with pytest.raises(StudyError, match="no run has finished with complete curves"):
        compare_runs(find_runs([tmp_path]))


def test_updates_of_nothing_but_resets_are_no_doubled_rows(tmp_path):
    folder = write_run(tmp_path / "ppo", seeds=[0])

    def stand_still(rows):
        return [rows[0], rows[0].replace(",1.0,", ",1.5,"), *rows[1:]]

    rewrite(folder, stand_still, steps=[4000], rows=[5])
    assert not compare_runs(find_runs([tmp_path])).remarks


def plan(study, jobs):
    study.mkdir(exist_ok=True)
    content = {"jobs": {name: {"overrides": words} for name, words in jobs.items()}, "launches": []}
    (study / "sweep.json").write_text(json.dumps(content))


def test_jobs_that_were_planned_and_are_missing_are_named(tmp_path, capsys):
    study = tmp_path / "s"
    jobs = {f"algo=ppo,seed={k}-{k}": ["algo=ppo", f"seed={k}"] for k in range(3)}
    jobs |= {f"algo=apo,seed={k}-{k}": ["algo=apo", f"seed={k}", "num_seeds=1"] for k in range(7)}
    jobs |= {"seed=1000-t": ["algo=apo", "seed=1000000"], "algo=apo,x=1-f": ["algo=apo", "x=1"]}
    plan(study, jobs)
    write_run(study / "algo=ppo,seed=0-0", seeds=[0])
    gone = write_run(study / "algo=ppo,seed=1-1", seeds=[1])
    (gone / "run.json").unlink()
    write_run(study / "algo=apo,x=1-f", "apo", status="failed")
    (study / "algo=apo,seed=6-6").mkdir()  # reserved
    compare.main([str(study), "figures=false"])
    said = capsys.readouterr().out.splitlines()
    waiting = ", ".join(["algo=ppo,seed=2-2", *(f"algo=apo,seed={k}-{k}" for k in range(4))])
    assert f"note: {study}: 8 of 11 planned jobs have not started: {waiting} and 3 more" in said
    assert f"note: {study}: 1 of 11 planned jobs are left out, as their run.json is gone: algo=ppo,seed=1-1" in said
    assert f"note: {study}: 2 of 3 arms have no finished job: algo=apo (7); algo=apo x=1 (1)" in said
    assert "8 of 11 planned jobs" in (study / "compare" / "compare.md").read_text()
    # the same from above; a run's own folder plans nothing
    assert missing_jobs([tmp_path, study], find_runs([study])) == missing_jobs([tmp_path], find_runs([study]))
    assert not missing_jobs([study / "algo=ppo,seed=0-0"], find_runs([study]))


def test_nothing_is_missing_of_a_study_that_is_done_or_superseded(tmp_path):
    plan(tmp_path, {"a": ["algo=ppo"], "b": ["algo=ppo", "x=1"]})
    write_run(tmp_path / "a")
    (tmp_path / "superseded.json").write_text('["b"]')
    assert missing_jobs([tmp_path], find_runs([tmp_path])) == []


@pytest.mark.parametrize("content", ["{", '{"jobs": ["../x"]}', "[]"])
def test_a_damaged_plan_is_told_and_blocks_nothing(tmp_path, content):
    write_run(tmp_path / "a")
    (tmp_path / "sweep.json").write_text(content)
    (said,) = missing_jobs([tmp_path], find_runs([tmp_path]))
    assert said.startswith("cannot tell which jobs are missing: ")


def test_a_plan_of_an_odd_shape_names_its_jobs_all_the_same(tmp_path):
    write_run(tmp_path / "a")
    (tmp_path / "sweep.json").write_text('{"jobs": {"a": 5, "b": {"overrides": "algo=ppo"}, "c": null}}')
    said = missing_jobs([tmp_path], find_runs([tmp_path]))
    assert said[0].endswith("2 of 3 planned jobs have not started: b, c")
