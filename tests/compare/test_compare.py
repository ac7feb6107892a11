"""From run folders to a verdict: grouping, refusals, remarks, files; on real runs and on written ones."""

import csv
import errno
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from process import Process
from runs import write_run, write_study
from scipy import stats

from rlexp.compare import __main__ as compare
from rlexp.compare import figures, verdict
from rlexp.compare.arms import compare_runs
from rlexp.compare.look_book import LookBooks
from rlexp.compare.measures import MEASURES, final_return, without_retention
from rlexp.compare.permutation import permutation_p, permutation_test
from rlexp.compare.question import Question
from rlexp.config.identity import config_hash, flatten
from rlexp.errors import ConfigError
from rlexp.files import file_digest
from rlexp.loggers.make import Loggers
from rlexp.study.runs import StudyError, find_runs, read_curves


def rows_of(folder):
    with open(folder / "compare.csv") as file:
        return {(r["env"], r["arm"], r["measure"]): r for r in csv.DictReader(file)}


def test_scores_and_verdicts(tmp_path, capsys):
    for env, level in (("A-v0", 150.0), ("B-v0", 100.0), ("C-v0", 60.0)):
        write_run(tmp_path / f"ppo{env}", env=env)
        write_run(tmp_path / f"apo{env}", "apo", env, level=level)
    compare.main([str(tmp_path), "figures=false"])
    rows = rows_of(tmp_path / "compare")
    frozen = {env: rows[env, "apo", "evaluation"] for env in ("A-v0", "B-v0", "C-v0")}
    assert [frozen[env]["verdict"] for env in frozen] == ["better", "inconclusive", "worse"]
    assert {row["role"] for row in frozen.values()} == {"primary"}
    assert {row["verdict"] for row in rows.values() if row["role"] == "secondary" or row["arm"] == "ppo"} == {""}
    assert float(frozen["A-v0"]["mean"]) == 154  # 150, 152, …, 158
    assert float(frozen["A-v0"]["iqm"]) == 154
    assert float(frozen["A-v0"]["difference"]) == 50
    assert float(frozen["A-v0"]["improvement"]) == 1
    assert float(frozen["A-v0"]["alpha"]) == 0.05 / 4  # three environments, and over all of them
    assert float(frozen["A-v0"]["p"]) == pytest.approx(2 / math.comb(10, 5), rel=1e-5)
    alone = permutation_test([(np.arange(150.0, 160, 2), np.arange(100.0, 110, 2))], 0.05 / 4)
    ends = [float(frozen["A-v0"][f"difference_{end}"]) for end in ("low", "high")]
    assert ends == pytest.approx([alone.low, alone.high], rel=1e-5)
    assert float(rows["A-v0", "apo", "final"]["mean"]) == 152  # 150 … 154
    # seed k's curve is (150 + k)/4 · (2, 3, 4) at steps 2, 3 and 4 thousand, and before as at 2: (2·2 + 2.5 + 3.5)/4/4
    assert float(rows["A-v0", "apo", "area"]["mean"]) == pytest.approx(152 * 0.625)
    assert rows["C-v0", "apo", "retention"]["n"] == "0"  # never reached 90
    said = capsys.readouterr().out
    assert f"apo is better than ppo on A-v0: +50 [{alone.low:.4g}, {alone.high:.4g}], 5 seeds each; secondary: " in said
    assert "apo against ppo on B-v0 is inconclusive: +0 [" in said
    assert "apo is worse than ppo on C-v0: -40 [" in said
    assert "Over 3 environments apo" in said
    assert "No margin was declared, so no arm can be called equivalent" in said
    assert len(said.splitlines()) < 24  # one screen
    # bounds 0 and 200; of 15 scores the lowest and highest three are cut: 60 … 68, 100 … 108, 150 … 158
    middle = [66, 68, 100, 102, 104, 106, 108, 150, 152]
    assert f"| apo | 3 | {np.mean(middle) / 200:.4g} [" in (tmp_path / "compare" / "compare.md").read_text()


def test_refuses_arms_that_differ_in_more_than_the_tested_term(tmp_path, capsys):
    write_run(tmp_path / "ppo")
    write_run(tmp_path / "apo", "apo", lr=3e-4)
    with pytest.raises(SystemExit):
        compare.main([str(tmp_path)])
    said = capsys.readouterr().err
    assert "optimizer.lr: 0.0003 in apo, 0.001 in ppo" in said
    assert "allow=optimizer.lr" in said
    compare.main([str(tmp_path), "allow=optimizer.lr", "figures=false"])
    assert "| optimizer.lr | 0.0003 | 0.001 |" in (tmp_path / "compare" / "compare.md").read_text()


def test_arms_that_each_change_one_setting_are_named_by_it(tmp_path):
    write_run(tmp_path / "ppo")
    write_run(tmp_path / "apo", "apo")
    for changed in ({"anchor_coef": 5}, {"direction": "reverse"}, {"anchor_coef": 5, "direction": "reverse"}):
        write_run(tmp_path / str(len(list(tmp_path.iterdir()))), "apo", **changed)
    tied = compare_runs(find_runs([tmp_path])).arm_names
    assert tied[0] == "apo anchor_coef=1 direction=forward"  # of each setting both values are as frequent
    write_run(tmp_path / "more", "apo", anchor_coef=7)
    write_run(tmp_path / "less", "apo", anchor_coef=1, anchor_half_life=3.0)
    assert compare_runs(find_runs([tmp_path])).arm_names == [
        "apo",
        "apo anchor_coef=5",
        "apo anchor_coef=5 direction=reverse",
        "apo anchor_coef=7",
        "apo anchor_half_life=3",
        "apo direction=reverse",
        "ppo",
    ]


def test_a_setting_that_another_class_lacks_is_usual_if_most_arms_have_it(tmp_path):
    adam, sgd = {"_target_": "torch.optim.Adam", "eps": 1e-5}, {"_target_": "torch.optim.SGD", "momentum": 0.9}
    write_run(tmp_path / "ppo", optimizer=adam)
    write_run(tmp_path / "clip", optimizer=adam, clip_coef=0.1)
    write_run(tmp_path / "sgd", optimizer=sgd)
    assert compare_runs(find_runs([tmp_path]), allow=["all"]).arm_names == [
        "ppo",
        "ppo clip_coef=0.1",
        "ppo optimizer._target_=torch.optim.SGD optimizer.momentum=0.9",
    ]


def test_what_no_name_shows_is_told_with_the_values_that_nothing_says(tmp_path):
    for env in ("A-v0", "B-v0"):
        write_run(tmp_path / f"ppo {env}", env=env)
    write_run(tmp_path / "one", "apo", "A-v0", evaluation={"weights": "best"})
    write_run(tmp_path / "other", "apo", "B-v0", anchor_by="advantage", knots=[1.0, 0.0])
    remarks = compare_runs(find_runs([tmp_path]), allow=["evaluation.weights"]).remarks
    assert "apo: algo.anchor_by is return on A-v0, advantage on B-v0" in remarks
    assert "apo: evaluation.weights is best on A-v0, last on B-v0" in remarks
    assert "apo: algo.knots is — on A-v0, [1,0] on B-v0" in remarks


def test_a_decay_of_averaged_weights_is_no_term_of_its_own(tmp_path):
    write_run(tmp_path / "apo", "apo")
    write_run(tmp_path / "ppo")
    write_run(tmp_path / "mean", evaluation={"weights": "average", "average_decay": 0.99})
    found = compare_runs(find_runs([tmp_path]), allow=["evaluation.weights"])
    assert found.arm_names == ["apo", "ppo evaluation.weights=average", "ppo evaluation.weights=last"]


def test_how_the_best_weights_were_chosen_is_no_term_of_its_own_but_tells_two_choices_apart(tmp_path):
    best = {"weights": "best", "every": 100, "curve_episodes": 10, "deterministic": True}
    write_run(tmp_path / "ppo", evaluation={"deterministic": True})
    write_run(tmp_path / "best", evaluation=best)
    found = compare_runs(find_runs([tmp_path]), allow=["evaluation.weights"])
    assert found.arm_names == ["ppo evaluation.weights=best", "ppo evaluation.weights=last"]
    write_run(tmp_path / "sampled", evaluation=best | {"deterministic": False})
    write_run(tmp_path / "seldom", evaluation=best | {"every": 1000})
    found = compare_runs(find_runs([tmp_path]), allow=["all"])
    assert len(found.arm_names) == 4


def test_of_many_arms_those_that_differ_are_named_and_the_others_counted(tmp_path):
    for algo in ("ppo", "apo", "sil", "opr", "spo"):
        write_run(tmp_path / algo, algo, lr=1e-4 if algo in ("opr", "spo") else 1e-3)
    with pytest.raises(StudyError, match=r"\(optimizer.lr: 0.0001 in opr, spo, 0.001 in the other 3\)"):
        compare_runs(find_runs([tmp_path]))


def test_a_value_that_is_the_default_of_an_added_field_is_told(tmp_path):
    write_run(tmp_path / "a", "apo", anchor_half_life=50)
    write_run(tmp_path / "b", "apo", anchor_by="advantage")
    with pytest.raises(StudyError, match=r"anchor_by: advantage in .*, return in .*half_life: 50 in .*, null in "):
        compare_runs(find_runs([tmp_path]))


def test_an_algorithm_of_which_only_some_arms_differ_is_told_so(tmp_path):
    for algo in ("ppo", "apo", "sil", "spo"):
        write_run(tmp_path / algo, algo)
    write_run(tmp_path / "fast", lr=1e-2)
    with pytest.raises(StudyError, match=r"\(optimizer.lr: 0.01 in 1 of 2 arms of ppo, 0.001 in all others\)"):
        compare_runs(find_runs([tmp_path]))


@pytest.mark.parametrize(
    "values", [(2, 2.0), ("None", None), (True, "True"), (["a,b"], ["a", "b"]), (0.1, 0.1 + 1e-15)]
)
def test_arms_with_values_that_look_alike_have_names_of_their_own(tmp_path, values):
    for number, value in enumerate(values):
        write_run(tmp_path / str(number), level=100.0 * number, start=value)
    (task,) = compare_runs(find_runs([tmp_path])).tasks
    assert len(task.arms) == 2


def test_a_run_that_is_not_finished_is_of_no_arm_whose_value_looks_alike(tmp_path):
    for number, value in enumerate((2, 3)):
        write_run(tmp_path / str(number), start=value)
    write_run(tmp_path / "cut", start=2.0, status="failed")
    (task,) = compare_runs(find_runs([tmp_path])).tasks
    assert list(task.absent) == ["ppo start=2.0"]


@pytest.mark.parametrize(
    ("tuned", "told"),
    [
        (("a", "none"), "ppo was trained with tuned=a and apo with none: train all with tuned=a or tuned=none"),
        (("none", "b"), "apo was trained with tuned=b and ppo with none: train all with tuned=b or tuned=none"),
        (("a", "b"), "Train them with the same values"),
        (("none", ""), "Train them with the same values"),
    ],
)
def test_values_tuned_for_one_arm_alone_are_told_as_the_cause(tmp_path, tuned, told):
    write_run(tmp_path / "ppo", tuned=tuned[0])
    write_run(tmp_path / "apo", "apo", lr=3e-4, tuned=tuned[1])
    with pytest.raises(StudyError, match=rf"\)\. {told}, or allow it: allow=optimizer.lr"):
        compare_runs(find_runs([tmp_path]))


def test_one_algorithm_may_vary_in_one_setting(tmp_path):
    for coef in (0, 1, 5):
        write_run(tmp_path / f"apo{coef}", "apo", anchor_coef=coef)
    assert compare_runs(find_runs([tmp_path])).arm_names == [f"apo anchor_coef={coef}" for coef in (0, 1, 5)]
    write_run(tmp_path / "both", "apo", anchor_coef=7, direction="reverse")
    with pytest.raises(StudyError, match=r"allow=algo.anchor_coef,algo.direction"):
        compare_runs(find_runs([tmp_path]))
    # beside an algorithm that has neither, both are part of what is tested
    write_run(tmp_path / "ppo")
    assert "apo anchor_coef=7 direction=reverse" in compare_runs(find_runs([tmp_path])).arm_names


def test_says_what_is_wrong_with_the_runs(tmp_path):
    write_run(tmp_path / "ppo")
    write_run(tmp_path / "ppo_2", seeds=range(3, 7), level=300.0)
    write_run(tmp_path / "apo", "apo", seeds=range(3))
    write_run(tmp_path / "broken", "apo", status="failed")
    edited = write_run(tmp_path / "edited", "apo", seeds=range(10, 12))
    (edited / "metrics.csv").write_text((edited / "metrics.csv").read_text().replace(",9,", ",8,"))
    comparison = compare_runs(find_runs([tmp_path]))
    said = "\n".join(comparison.remarks)
    assert "broken: left out, its status is failed" in said
    told = f"ppo, seed 3, 4: trained twice; the run that started last counts, not {tmp_path}/ppo"
    assert sum(told in remark for remark in comparison.remarks) == said.count("twice") == 1
    assert "edited: metrics.csv was edited after the run" in said
    assert "apo: lacks seeds 3, 4, 5, 6, which other arms have" in said
    assert [s.curve.returns[-1] for s in comparison.tasks[0].arms["ppo"]][4] == 304  # the later run counts


def test_arms_are_of_one_code_of_what_they_share(tmp_path):
    files = {"a": {"mine.py": "1", "terms.py": "1"}, "b": {"mine.py": "2", "terms.py": "1"}}
    for coef, (name, sources) in enumerate(files.items()):
        folder = write_run(tmp_path / name, "apo", anchor_coef=coef)
        record = json.loads((folder / "run.json").read_text())
        (folder / "run.json").write_text(json.dumps(record | {"sources": sources, "code": name}))
    told = "mine.py is 1 in apo anchor_coef=0, 2 in apo anchor_coef=1"
    with pytest.raises(StudyError, match=rf"different code of the same files \({told}\)\..*allow=code"):
        compare_runs(find_runs([tmp_path]))
    remarks = compare_runs(find_runs([tmp_path]), ["code"]).remarks
    assert f"CartPole-v1: compares arms that ran different code: {told}" in remarks
    assert "rlexp's training code differs between the runs: a, b" in remarks
    record["sources"] = {"other.py": "2", "terms.py": "1"}  # each has a file of its own
    (folder / "run.json").write_text(json.dumps(record))
    compare_runs(find_runs([tmp_path]))


def test_clear_lines_for_what_cannot_be(tmp_path, capsys):
    cases = {
        (str(tmp_path / "nowhere"),): "there is no such folder",
        ("basline=ppo",): "basline=ppo: no such setting",
        ("baseline=ppo",): "name a study: python -m rlexp.compare outputs",
        (
            str(write_run(tmp_path / "a" / "run").parent),
            "baseline=apo",
        ): "baseline=apo: no such arm; the arms are: ppo",
        (str(write_run(tmp_path / "b" / "run", status="running").parent),): "no run has finished",
    }
    for words, expected in cases.items():
        with pytest.raises(SystemExit):
            compare.main(list(words))
        assert expected in capsys.readouterr().err


@pytest.mark.slow
def test_a_real_study_gives_the_same_bytes_every_time(tmp_path):
    settings = "num_seeds=3 env=cartpole tuned=none total_steps=4096 progress=none compile=false evaluation.episodes=2"
    words = [*settings.split(), f"outputs={tmp_path}", "study=first", "torch_threads=1"]
    process = Process(tmp_path, "-m", "algo=ppo,apo", *words)
    assert process.wait() == 0
    study = tmp_path / "first"
    compare.main([str(study)])
    made = {path.name: path.read_bytes() for path in (study / "compare").iterdir()}
    assert {
        "compare.md",
        "compare.csv",
        "compare.html",
        "curves_steps.svg",
        "curves_steps.png",
        "profile.svg",
    } <= set(made)
    shutil.rmtree(study / "compare")
    compare.main([str(study)])
    assert made == {path.name: path.read_bytes() for path in (study / "compare").iterdir()}
    assert made["compare.html"].count(b"<svg") == sum(name.endswith(".svg") for name in made)
    rows = rows_of(study / "compare")
    for algo in ("ppo", "apo"):
        (run,) = [run for run in find_runs([study]) if run.algo == algo]
        read_curves(run)
        results = {"evaluation": run.record["result"]["evaluation_return"]}
        results["final"] = [final_return(curve) for curve in run.curves.values()]
        for measure, scores in results.items():
            found = float(rows["CartPole-v1", algo, measure]["mean"])
            assert found == pytest.approx(np.mean(scores), rel=1e-4)


def page_of(study):
    return {path.name: path.read_bytes() for path in (study / "compare").iterdir()}


@pytest.mark.few(2)
@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_in_one_line_and_leaves_the_old_page(tmp_path, capsys, monkeypatch, number, native):
    write_run(tmp_path / "s" / "ppo")
    compare.main([str(tmp_path / "s")])
    old, draw = page_of(tmp_path / "s"), figures.draw

    def interrupted(*words):
        draw(*words)
        try:
            signal.raise_signal(number)
        except KeyboardInterrupt as error:
            if native:  # what pybind makes of it where a conversion is interrupted
                raise ValueError("Invalid affine transformation matrix") from error
            raise

    write_run(tmp_path / "s" / "apo", "apo")
    capsys.readouterr()
    monkeypatch.setattr(figures, "draw", interrupted)
    with pytest.raises(SystemExit) as end:
        compare.main([str(tmp_path / "s")])
    assert end.value.code == 128 + number
    assert capsys.readouterr().err == f"rlexp.compare: interrupted by {number.name}\n"
    assert page_of(tmp_path / "s") == old
    compare.main([str(tmp_path / "s"), "figures=false"])
    assert set(page_of(tmp_path / "s")) == set(compare.WRITTEN)  # no old picture beside new numbers


@pytest.mark.few(1)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_process_that_is_ended_while_it_writes_leaves_the_old_page_and_the_same_command_makes_it_anew(
    tmp_path, number
):
    write_run(tmp_path / "s" / "ppo")
    compare.main([str(tmp_path / "s"), "figures=false"])
    old = page_of(tmp_path / "s")
    write_run(tmp_path / "s" / "apo", "apo")
    (tmp_path / "made").mkdir()
    words = [sys.executable, "-m", "rlexp.compare", str(tmp_path / "s")]
    environment = {**os.environ, "TMPDIR": str(tmp_path / "made")}
    with subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        deadline = time.time() + 60
        while not list(tmp_path.glob("made/*/*.svg")):
            assert process.poll() is None
            assert time.time() < deadline
            time.sleep(0.01)
        process.send_signal(number)
        said = process.communicate()[1].decode()
    if number == signal.SIGTERM:
        assert (process.returncode, said) == (143, "rlexp.compare: interrupted by SIGTERM\n")
        assert not list(tmp_path.glob("made/*/*"))
    assert page_of(tmp_path / "s") == old
    compare.main([str(tmp_path / "s")])
    assert b"apo" in page_of(tmp_path / "s")["compare.html"]


def test_a_folder_that_cannot_be_written_to_is_told(tmp_path, capsys, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write_run(tmp_path / "s" / "ppo")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SystemExit):
        compare.main([str(tmp_path / "s"), "figures=false"])
    assert capsys.readouterr().err == (
        f"rlexp.compare: out={tmp_path}/s/compare: cannot write to it (No space left on device); free some space, or "
        f"choose another\n"
    )


def test_runs_of_one_batch_have_their_share_of_its_time(tmp_path):
    for algo in ("ppo", "apo"):
        run = write_run(tmp_path / algo, algo)  # 5 agents
        if algo == "ppo":
            record = json.loads((run / "run.json").read_text()) | {"agents_together": 20}
            (run / "run.json").write_text(json.dumps(record))
    runs = find_runs([tmp_path])
    for run in runs:
        read_curves(run)
    shares = {run.algo: (run.share, run.seconds) for run in runs}
    assert shares == {"ppo": (0.25, 1.0), "apo": (1.0, 4.0)}
    over_time = {run.algo: figures.X_AXES["time"][1](run.curves[0]).tolist() for run in runs}
    assert over_time == {"ppo": [0.25, 0.5, 0.75, 1.0], "apo": [1.0, 2.0, 3.0, 4.0]}  # the axis is the table's
    compare.main([str(tmp_path), "figures=false"])
    assert "is charged its share of the batch's time" in (tmp_path / "compare/compare.md").read_text()


def test_every_seed_and_its_curve_are_written(tmp_path):
    write_run(tmp_path / "ppo")
    write_run(tmp_path / "apo", "apo", seeds=range(1, 4), level=10.0)
    compare.main([str(tmp_path), "figures=false", "threshold=60"])
    with open(tmp_path / "compare" / "scores.csv") as file:
        scores = {(row["arm"], int(row["seed"])): row for row in csv.DictReader(file)}
    assert sorted(scores) == [("apo", 1), ("apo", 2), ("apo", 3), *(("ppo", k) for k in range(5))]
    assert float(scores["ppo", 3]["final"]) == float(scores["ppo", 3]["last_100_episodes"]) == 103
    assert float(scores["ppo", 3]["steps_to_threshold"]) == 3000  # 51.5, 77.25 and 103 at 2, 3 and 4 thousand
    assert scores["apo", 3]["steps_to_threshold"] == ""
    with open(tmp_path / "compare" / "curves.csv") as file:
        curves = list(csv.DictReader(file))
    assert len(curves) == 2 * 50
    last = {row["arm"]: row for row in curves if row["step"] == "4000"}
    assert [last["apo"][f"seed_{k}"] for k in range(5)] == ["", "11", "12", "13", ""]
    middle = next(row for row in curves if row["arm"] == "ppo" and row["step"] == "2480")
    assert float(middle["seed_0"]) == pytest.approx(50 + 0.48 * 25, rel=1e-3)  # between the logging steps
    first = next(row for row in curves if row["step"] == "80")
    assert first["seed_0"] == ""  # no episode had ended


EVALUATED = "seed,step,wall_time,episodic_return,episodes,evaluation_return,evaluation_return_sampled"


def test_evaluations_during_training_are_written_where_there_are_any(tmp_path):
    write_run(tmp_path / "ppo")
    run = write_run(tmp_path / "apo", "apo", seeds=range(1, 3))
    compare.main([str(tmp_path), "figures=false"])
    written = tmp_path / "compare" / "evaluations.csv"
    assert not written.exists()
    rows = [EVALUATED, "1,2000,2,50,20,61,51", "1,3000,3,70,30,,", "1,4000,4,80,40,12345.6,"]
    rows += ["2,2010,2,50,20,63,", "2,2900,3,70,30,,", "2,4000,4,80,40,,"]
    (run / "metrics.csv").write_text("\n".join(rows) + "\n")
    compare.main([str(tmp_path), "figures=false"])
    assert written.read_text().splitlines() == [
        "env,arm,actions,step,seed_1,seed_2",
        "CartPole-v1,apo,deterministic,2005,61,63",  # its step is the mean of theirs
        "CartPole-v1,apo,deterministic,4000,12345.6,",
        "CartPole-v1,apo,sampled,2000,51,",
    ]
    (run / "metrics.csv").write_text("\n".join(row.rsplit(",", 2)[0] for row in rows) + "\n")
    compare.main([str(tmp_path), "figures=false"])
    assert not written.exists()  # no old numbers beside new ones


def test_evaluations_of_other_runs_are_other_rows(tmp_path):
    often, seldom = (write_run(tmp_path / name, seeds=seeds) for name, seeds in (("a", [0, 1]), ("b", [1, 2])))
    rows = [EVALUATED] + [f"{seed},{k}000,{k},50,{k},{seed}{k}," for seed in (0, 1) for k in (1, 2, 3, 4)]
    (often / "metrics.csv").write_text("\n".join(rows) + "\n")
    rows = [EVALUATED] + [f"{seed},{k}000,{k},50,{k},{seed}{k}," for seed in (1, 2) for k in (2, 4)]
    (seldom / "metrics.csv").write_text("\n".join(rows) + "\n")
    compare.main([str(tmp_path), "figures=false"])
    cells = (tmp_path / "compare" / "evaluations.csv").read_text().replace("CartPole-v1,ppo,deterministic,", "")
    # seed 1 was trained twice: the later run counts
    assert cells.splitlines()[1:] == ["1000,1,,", "2000,2,,", "3000,3,,", "4000,4,,", "2000,,12,22", "4000,,14,24"]


def test_evaluations_of_each_member_until_it_diverges(tmp_path):
    run = write_run(tmp_path / "apo", "apo", seeds=range(6), population=2)
    record = json.loads((run / "run.json").read_text())
    lost = {seed: {"step": 2500, "update": 3, "metric": "loss", "value": "nan"} for seed in ("1", "4", "5")}
    (run / "run.json").write_text(json.dumps(record | {"diverged": lost}))
    rows = [EVALUATED] + [f"{seed},{k}000,{k},50,{k},{seed}{k}," for seed in (0, 2, 3) for k in (1, 2, 3, 4)]
    rows += [f"{seed},{k}000,{k},50,{k},{seed}{k}," for seed in (1, 4, 5) for k in (1, 2)]
    (run / "metrics.csv").write_text("\n".join(rows) + "\n")
    compare.main([str(tmp_path), "figures=false"])
    cells = (tmp_path / "compare" / "evaluations.csv").read_text().replace("CartPole-v1,apo,deterministic,", "")
    assert cells.splitlines() == [
        "env,arm,actions,step,seed_0,seed_1,seed_2,seed_3,seed_4,seed_5",
        "1000,1,11,21,31,41,51",
        "2000,2,12,22,32,42,52",
        "3000,3,,23,33,,",
        "4000,4,,24,34,,",
    ]


def test_what_each_agent_logged_last_is_written(tmp_path):
    run = write_run(tmp_path / "apo", "apo", seeds=range(5))
    record = json.loads((run / "run.json").read_text())
    lost = {"4": {"step": 2500, "update": 3, "metric": "loss", "value": "nan"}}
    (run / "run.json").write_text(json.dumps(record | {"diverged": lost}))
    rows = ["seed,step,wall_time,episodic_return,episodes,entropy,anchor_age"]
    rows += [
        f"{seed},{k}000,{k},50,{k},0.{seed}{k},{seed}{k}" for k in (1, 2, 3, 4) for seed in range(5 if k < 3 else 4)
    ]
    (run / "metrics.csv").write_text("\n".join(rows) + "\n")
    rows = ["seed,step,wall_time,episodic_return,episodes,entropy"] + [f"{seed},4000,4,50,4," for seed in range(5)]
    (write_run(tmp_path / "ppo") / "metrics.csv").write_text("\n".join(rows) + "\n")
    compare.main([str(tmp_path), "figures=false"])
    found = (tmp_path / "compare" / "last_rows.csv").read_text().splitlines()
    assert found[0] == "env,arm,seed,outcome,step,wall_time,episodic_return,episodes,entropy,anchor_age,run"
    assert [line.split(",", 2)[2] for line in found if ",apo," in line] == [
        *(f"{seed},done,4000,4,50,4,0.{seed}4,{10 * seed + 4},apo" for seed in range(4)),
        "4,diverged,2000,2,50,2,0.42,42,apo",
    ]
    assert "CartPole-v1,ppo,0,done,4000,4,50,4,,,ppo" in found


def test_published_scores_stand_beside(tmp_path, capsys):
    write_run(tmp_path / "runs" / "ppo")
    write_run(tmp_path / "runs" / "other", env="B-v0")
    published = tmp_path / "published.csv"
    published.write_text(
        "\ufeffenv,score,deviation,seeds,source\nCartPole-v1,90,2,3,a table\nCartPole-v1,80,1,2,another\n"
    )
    compare.main([str(tmp_path / "runs"), f"beside={published}", "figures=false"])
    said = (tmp_path / "runs" / "compare" / "compare.md").read_text()
    # 100 … 104 here: deviation √2.5; Welch's error √(2.5/5 + 4/3), 3.5 degrees of freedom
    t = stats.ttest_ind_from_stats(102, math.sqrt(2.5), 5, 90, 2, 3, equal_var=False)
    error = math.sqrt(2.5 / 5 + 4 / 3)
    dof = error**4 / ((2.5 / 5) ** 2 / 4 + (4 / 3) ** 2 / 2)
    low, high = 12 + error * stats.t.ppf([0.025, 0.975], dof)
    line = next(line for line in said.splitlines() if line.startswith("| CartPole-v1 | ppo |"))
    assert "102.0 ± 1.6 (5 seeds)" in line
    assert "90.0 ± 2.0 (3 seeds)" in line
    assert f"+12 [{low:.4g}, {high:.4g}]" in line
    assert f"{t.pvalue:.2g}" in line
    assert "a table" in line
    assert "| 80.0 ± 1.0 (2 seeds) |" in next(line for line in said.splitlines() if line.endswith("| another |"))
    assert "| none |" in next(line for line in said.splitlines() if line.startswith("| B-v0 | ppo |"))
    write_run(tmp_path / "one" / "ppo", seeds=[3])
    compare.main([str(tmp_path / "one"), f"beside={published}", "figures=false"])
    text = (tmp_path / "one" / "compare" / "compare.md").read_text()
    assert "| 103.0 (1 seed) | 90.0 ± 2.0 (3 seeds) | +13 | – | a table |" in text
    published.write_text("env,score\nCartPole-v1,90\n")
    with pytest.raises(SystemExit):
        compare.main([str(tmp_path / "runs"), f"beside={published}"])
    assert "with the columns env, score, deviation, seeds, source" in capsys.readouterr().err


def test_p_values_are_corrected_over_arms_and_environments(tmp_path):
    for env in ("A-v0", "B-v0"):
        write_run(tmp_path / f"ppo{env}", env=env, seeds=range(8))
        for coef, level in ((1, 108.0), (5, 101.0), (10, 140.0)):
            write_run(tmp_path / f"apo{coef}{env}", "apo", env, range(8), level, anchor_coef=coef)
    comparison = compare_runs(find_runs([tmp_path]))
    assert comparison.arm_names == ["apo anchor_coef=1", "apo anchor_coef=5", "apo anchor_coef=10", "ppo"]
    judgement = verdict.judge(comparison, "ppo", Question("evaluation"), LookBooks(tmp_path))
    assert judgement.tests == 3 * 2 + 3  # and over both environments
    plain = [permutation_p([(r.scores, np.arange(100.0, 116, 2))]) for r in judgement.primary]
    assert [r.against.p for r in judgement.primary] == pytest.approx(plain)
    first = judgement.primary[0]
    assert 0.05 / 9 < first.against.p < 0.05  # 8 points: significant alone, not as one of nine
    assert (first.verdict.word, first.against.low < 0) == ("inconclusive", True)
    compare.main([str(tmp_path), "figures=false"])
    text = (tmp_path / "compare" / "compare.md").read_text()
    assert "5 % of false verdicts, shared by 9 comparisons" in text
    row = next(line for line in text.splitlines() if line.startswith("| apo anchor_coef=1 |"))
    assert f"| {min(1, 9 * first.against.p):.2g} |" in row  # shown corrected
    assert float(rows_of(tmp_path / "compare")["A-v0", first.arm, "evaluation"]["p"]) == pytest.approx(
        plain[0], rel=1e-5
    )


def test_arms_at_the_ceiling_are_told_apart_on_the_way(tmp_path, capsys):
    for algo, first in (("ppo", 100), ("apo", 300)):
        folder = write_run(tmp_path / algo, algo)
        lines = ["seed,step,wall_time,episodic_return,episodes"]
        lines += [f"{k},{step},1,{y},9" for k in range(5) for step, y in ((1000, first + k), (2000, 500))]
        (folder / "metrics.csv").write_text("\n".join(lines) + "\n")
        (folder / "evaluation.json").write_text(
            json.dumps({"agents": [{"seed": k, "mean_return": 500} for k in range(5)]})
        )
        record = json.loads((folder / "run.json").read_text())
        record["files"] = {name: file_digest(folder / name) for name in record["files"]}
        (folder / "run.json").write_text(json.dumps(record))
    compare.main([str(tmp_path), "figures=false", "margin=5%"])
    said = " ".join(capsys.readouterr().out.split()).partition("evaluation: mean")[0]
    assert said.startswith(
        "apo against ppo on CartPole-v1 is inconclusive: +0 % [0, 0], 5 seeds each; ceiling: nearly all "
    )
    assert "; but area is higher, +150 [" in said  # 200 for half of it, then 200 falling to 0


def test_many_verdicts_are_told_together(tmp_path, capsys):
    write_run(tmp_path / "ppo", seeds=range(8))
    for coef in range(8):
        level = 100.0 + 60 * (coef > 5) - 60 * (coef == 0)
        write_run(tmp_path / f"apo{coef}", "apo", seeds=range(8), level=level, anchor_coef=coef)
    compare.main([str(tmp_path), "figures=false"])
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("On CartPole-v1")]
    assert [line.split(":")[0] for line in said] == [
        f"On CartPole-v1 {word} ppo" for word in ("better than", "worse than", "inconclusive against")
    ]
    assert "apo anchor_coef=6 +60 [" in said[0]
    assert "apo anchor_coef=7 +60 [" in said[0]
    assert "apo anchor_coef=0 -60 [" in said[1]


@pytest.mark.slow
def test_twenty_arms_of_a_hundred_seeds_on_ten_environments(tmp_path):
    write_study(tmp_path)
    compare.main([str(tmp_path), "figures=false"])  # which may take so long as `scripts/bench --compare` says
    assert len(rows_of(tmp_path / "compare")) == 20 * 10 * len(MEASURES)


def test_settings_that_one_arm_lacks_are_no_way_around_the_refusal(tmp_path):
    write_run(tmp_path / "ppo")
    folder = write_run(tmp_path / "apo", "apo")
    record = json.loads((folder / "run.json").read_text())
    record["config"]["env"]["kwargs"] = {"gravity": 1.0}
    record["config_hash"] = config_hash(record["config"])
    (folder / "run.json").write_text(json.dumps(record))
    with pytest.raises(StudyError, match=r"env.kwargs.gravity: 1.0 in apo, — in ppo"):
        compare_runs(find_runs([tmp_path]))


def test_arms_have_one_name_on_all_environments(tmp_path, capsys):
    for env in ("A-v0", "B-v0"):
        write_run(tmp_path / f"ppo{env}", env=env)
        write_run(tmp_path / f"apo1{env}", "apo", env, anchor_coef=1)
    write_run(tmp_path / "apo5", "apo", "A-v0", anchor_coef=5)
    compare.main([str(tmp_path), "figures=false"])
    said = capsys.readouterr().out
    assert "Over 2 environments apo anchor_coef=1 against ppo is inconclusive" in said
    assert "environments apo anchor_coef=5" not in said
    for folder in ("apo1B-v0", "apo5"):
        shutil.rmtree(tmp_path / folder)
    write_run(tmp_path / "apo7", "apo", "B-v0", anchor_coef=7)
    assert "apo: algo.anchor_coef is 1 on A-v0, 7 on B-v0" in compare_runs(find_runs([tmp_path])).remarks


def tuned_study(study, searched):
    """trials.csv and sweep.json of a study, of whose runs some were searched."""
    rows, jobs = ["tuning,trial,state,area,algo.anchor_coef,algo.top_k"], {}
    for run in sorted(path.parent.name for path in study.glob("*/run.json")):
        jobs[run] = {"overrides": [f"a={run}", "algo.anchor_coef=1"]}
        if run in searched:
            rows.append(f"a={run},0,complete,1.0,0.3,")
    (study / "trials.csv").write_text("\n".join(rows) + "\n")
    (study / "sweep.json").write_text(json.dumps({"jobs": jobs}))


def test_what_a_tuning_chose_is_in_no_name_if_others_tell_arms_apart(tmp_path):
    study, chosen = tmp_path / "s", []
    for env, values in {"A-v0": (1, 3, 0.3), "B-v0": (0.3, 0.3, 1)}.items():
        write_run(study / f"ppo{env}", env=env)
        settings = ({}, {"direction": "reverse"}, {"top_k": 4})
        for number, (coef, more) in enumerate(zip(values, settings, strict=True)):
            write_run(study / f"apo{number}{env}", "apo", env, anchor_coef=coef, **more)
            chosen.append(f"apo{number}{env}")
    assert "apo anchor_coef=3 direction=reverse" in compare_runs(find_runs([study])).arm_names
    tuned_study(study, chosen)
    assert compare_runs(find_runs([study])).arm_names == ["apo", "apo direction=reverse", "apo top_k=4", "ppo"]
    # an arm to come, on another environment; and by hand, in another study and beside the tuned ones
    write_run(study / "ppoC-v0", env="C-v0")
    write_run(study / "late", "apo", "C-v0", anchor_coef=3, direction="reverse", status="killed")
    tuned_study(study, [*chosen, "late"])
    assert "apo direction=reverse" in compare_runs(find_runs([study])).tasks[2].absent
    write_run(tmp_path / "other" / "apo", "apo", "C-v0", anchor_coef=7)
    write_run(tmp_path / "other" / "ppo", env="C-v0", seeds=range(5, 9))
    tasks = compare_runs(find_runs([tmp_path])).tasks
    assert [*tasks[0].arms] == ["apo", "apo direction=reverse", "apo top_k=4", "ppo"]
    assert [*tasks[2].arms] == ["apo anchor_coef=7", "ppo"]
    write_run(study / "another", "apo", "A-v0", anchor_coef=9)  # which the tuned value alone tells from the first
    tuned_study(study, [*chosen, "late", "another"])
    assert "apo anchor_coef=9" in compare_runs(find_runs([study])).arm_names


def test_an_arm_to_come_has_the_name_that_it_has_where_it_is_done(tmp_path):
    for env, status in (("A-v0", "done"), ("B-v0", "done"), ("C-v0", "interrupted")):
        write_run(tmp_path / f"ppo{env}", env=env)
        write_run(tmp_path / f"apo{env}", "apo", env, status=status)
        sizes = {"seeds": range(10), "population": 2, "total_steps": 2000}
        write_run(tmp_path / f"many{env}", "apo", env, status=status, **sizes)
    comparison = compare_runs(find_runs([tmp_path]))
    assert {*comparison.tasks[2].absent} == {*comparison.tasks[0].arms} - {"ppo"}


def test_odd_studies_end_in_a_comparison_or_in_one_line(tmp_path, capsys):
    write_run(tmp_path / "ppo", env="A-v0", seeds=[0])  # a lone seed
    write_run(tmp_path / "apo", "apo", "A-v0", seeds=[0, 1])
    write_run(tmp_path / "apoB", "apo", "B-v0")  # an environment without the baseline
    silent = write_run(tmp_path / "apoC", "apo", "C-v0", seeds=[0, 1])  # and one without a finished episode
    (silent / "metrics.csv").write_text("seed,step,wall_time,episodic_return,episodes\n0,9,1,,0\n1,9,1,,0\n")
    compare.main([str(tmp_path), "figures=false"])
    said = capsys.readouterr().out
    assert re.search(r"apo +5 .* no baseline here", said)
    assert "seed 1 is left out: it finished no training episode" in said
    assert "C-v0, final" not in said
    assert "inconclusive: +1, 2 seeds against 1 of 2; too few seeds: a verdict takes 5 of each arm" in said
    assert (tmp_path / "compare" / "compare.html").is_file()
    for folder in ("ppo", "apo", "apoB"):
        shutil.rmtree(tmp_path / folder)
    with pytest.raises(SystemExit):
        compare.main([str(tmp_path)])
    assert "no seed has finished a training episode" in capsys.readouterr().err


def test_retention_wants_a_threshold_above_no_skill(tmp_path):
    write_run(tmp_path / "ppo")
    comparison = compare_runs(find_runs([tmp_path]), threshold=-5)
    assert any("no retention, as its threshold -5 is not above" in remark for remark in comparison.remarks)
    assert without_retention(comparison) == []
    results = verdict.judge(comparison, "ppo", Question("evaluation"), LookBooks(tmp_path)).results
    assert [len(r.scores) for r in results if r.measure == "retention"] == [0]


def test_rows_too_far_apart_for_retention_are_said(tmp_path):
    write_run(tmp_path / "ppo", level=200)
    few = ["seed,step,wall_time,episodic_return,row_return,episodes"]
    few += [f"{seed},{k}000,{k},200,200,{10 * k}" for seed in range(5) for k in (1, 2, 3, 4)]
    (tmp_path / "ppo" / "metrics.csv").write_text("\n".join(few) + "\n")
    (remark,) = without_retention(compare_runs(find_runs([tmp_path])))
    assert without_retention(compare_runs(find_runs([tmp_path]), threshold=-5)) == []  # nor with more rows
    assert remark.startswith("CartPole-v1: no retention of 5 of 5 agents, as too few of their rows have")
    compare.main([str(tmp_path), "figures=false"])
    assert remark in (tmp_path / "compare" / "compare.md").read_text()
    often = ["seed,step,wall_time,episodic_return,row_return,episodes"]
    often += [f"{seed},{10 * k},{k},200,200,{10 * k}" for seed in range(4) for k in range(1, 401)]
    (tmp_path / "ppo" / "metrics.csv").write_text(
        "\n".join(often + [f"4,{k}000,{k},20,20,{10 * k}" for k in (1, 4)]) + "\n"
    )
    assert without_retention(compare_runs(find_runs([tmp_path]))) == []


def test_evaluations_made_differently_are_said(tmp_path):
    write_run(tmp_path / "ppo")
    other = write_run(tmp_path / "apo", "apo")
    record = json.loads((other / "evaluation.json").read_text())
    (other / "evaluation.json").write_text(json.dumps(record | {"settings": {"episodes": 1}}))
    assert any("evaluated with different settings" in remark for remark in compare_runs(find_runs([tmp_path])).remarks)


def test_the_default_baseline_is_ppo_or_asked_for(tmp_path):
    for lr in (1e-3, 3e-4):
        write_run(tmp_path / f"ppo{lr}", lr=lr)
        write_run(tmp_path / f"apo{lr}", "apo", lr=lr)
    comparison = compare_runs(find_runs([tmp_path]), ["optimizer.lr"])
    with pytest.raises(ConfigError, match="which arm is the baseline"):
        verdict.pick_baseline(comparison, None)


def test_flatten():
    assert flatten({"a": {"b": 1, "c": {}}, "d": [1, 2]}) == {"a.b": 1, "a.c": "{}", "d": (1, 2)}


def test_arms_that_made_different_numbers_of_steps_are_told(tmp_path):
    for algo in ("ppo", "apo"):
        write_run(tmp_path / algo, algo)
    assert not any("number of environment steps" in remark for remark in compare_runs(find_runs([tmp_path])).remarks)
    metrics = tmp_path / "apo" / "metrics.csv"
    metrics.write_text(metrics.read_text().replace(",4000,", ",3900,"))
    told = "the arms differ in the number of environment steps per seed: apo 3,900, ppo 4,000"
    assert any(told in remark for remark in compare_runs(find_runs([tmp_path])).remarks)


def test_a_run_may_be_named_by_its_hash_again_and_again_also_in_a_study_with_an_equals_sign(tmp_path, monkeypatch):
    told = []  # what loggers are told of
    monkeypatch.setattr(compare, "loggers_named", lambda words, *of: told.append((words, of[2])) or Loggers())
    study = tmp_path / "s=t"
    for number, algo in enumerate(("ppo", "apo")):
        write_run(study / f"algo={algo}-0123abc{number}", algo)
    for _ in range(2):
        compare.main([str(study / "0123abc0"), str(study / "0123abc1"), "figures=false", "hydra.searchpath=[pkg://x]"])
    assert told == [(["hydra.searchpath=[pkg://x]"], ["s=t"])] * 2
    monkeypatch.chdir(tmp_path)
    study.rename("logger.s")
    compare.main(["logger.s", "figures=false"])
    study = tmp_path / "logger.s"
    folders = sorted(path.name for path in study.iterdir() if path.is_dir() and path.name != "compare")
    assert folders == ["algo=apo-0123abc1", "algo=ppo-0123abc0"]
    assert (study / "algo=ppo-0123abc0" / "compare" / "compare.md").is_file()


def test_a_broken_matplotlib_is_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.delitem(sys.modules, "rlexp.compare.figures")
    monkeypatch.delattr("rlexp.compare.figures")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SystemExit):
        compare.main([str(tmp_path)])
    assert re.fullmatch(
        r"rlexp\.compare: needs matplotlib, which is not installed: pip install 'rlexp\[compare\]'\n",
        capsys.readouterr().err,
    )
