"""From run folders to a verdict: grouping, refusals, remarks, files; on real runs and on written ones."""

import csv
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from rlexp import compare
from rlexp.arms import compare_runs
from rlexp.run_folder import config_hash, file_digest
from rlexp.study import StudyError, find_runs, flatten

ALGOS = {
    "ppo": {"_target_": "rlexp.algos.PPO", "clip_coef": 0.2},
    "apo": {"_target_": "rlexp.algos.APO", "clip_coef": 0.2, "anchor_coef": 1, "direction": "forward"},
}


def write_run(folder, algo="ppo", env="CartPole-v1", seeds=range(5), level=100.0, status="done", lr=1e-3, **more):
    """A run's folder as training leaves it; seed k ends at level + k."""
    folder.mkdir(parents=True)
    config = {
        "seed": min(seeds),
        "num_seeds": len(seeds),
        "total_steps": 4000,
        "env": {"id": env, "threshold": 90, "bounds": [0, 200]},
        "algo": ALGOS[algo] | more,
        "optimizer": {"lr": lr},
    }
    rows = ["seed,step,wall_time,episodic_return,episodic_length,episodes,loss"]
    for k in seeds:
        rows.append(f"{k},1000,1.0,,,0,0.5")
        rows += [f"{k},{1000 * t},{t}.0,{(level + k) * t / 4:.9g},9,{10 * t},0.5" for t in (2, 3, 4)]
    (folder / "metrics.csv").write_text("\n".join(rows) + "\n")
    agents = [{"seed": k, "mean_return": level + 2 * k, "episodes": []} for k in seeds]
    (folder / "evaluation.json").write_text(json.dumps({"agents": agents}))
    record = {
        "status": status,
        "started": f"2026-01-01T00:00:{len(list(folder.parent.iterdir())):02d}",
        "config": config,
        "config_hash": config_hash(config),
        "choices": {"algo": algo},
        "seeds": list(seeds),
        "commit": "c0ffee",
        "dirty": False,
        "versions": {"torch": "2"},
        "files": {name: file_digest(folder / name) for name in ("metrics.csv", "evaluation.json")},
    }
    (folder / "run.json").write_text(json.dumps(record))
    return folder


def rows_of(folder):
    with open(folder / "compare.csv") as file:
        return {(r["env"], r["arm"], r["measure"]): r for r in csv.DictReader(file)}


def test_scores_and_verdicts(tmp_path, capsys):
    for env, level in (("A-v0", 150.0), ("B-v0", 100.0), ("C-v0", 60.0)):
        write_run(tmp_path / f"ppo{env}", env=env)
        write_run(tmp_path / f"apo{env}", "apo", env, level=level)
    compare.main([str(tmp_path), "figures=false"])
    rows = rows_of(tmp_path / "compare")
    final = {env: rows[env, "apo", "final"] for env in ("A-v0", "B-v0", "C-v0")}
    assert [final[env]["verdict"] for env in final] == ["better", "inconclusive", "worse"]
    assert float(final["A-v0"]["mean"]) == 152  # 150 … 154
    assert float(final["A-v0"]["iqm"]) == 152
    assert float(final["A-v0"]["difference"]) == 50
    assert float(final["A-v0"]["improvement"]) == 1
    assert float(rows["A-v0", "apo", "evaluation"]["mean"]) == 154  # 150, 152, …, 158
    # seed k's curve is (150 + k)/4 · (2, 3, 4) at steps 2, 3 and 4 thousand: mean height 3/4
    assert float(rows["A-v0", "apo", "area"]["mean"]) == pytest.approx(152 * 0.75)
    assert float(rows["A-v0", "apo", "retention"]["mean"]) == 1  # only ever rises
    assert rows["C-v0", "apo", "retention"]["n"] == "0"  # never reached 90
    said = capsys.readouterr().out
    assert "apo is better than ppo on A-v0" in said
    assert "apo against ppo on B-v0: inconclusive" in said
    assert "Over 3 environments apo" in said
    # bounds 0 and 200; of 15 scores the lowest and highest three are cut: 100 … 104 and two from each side
    middle = [100, 101, 102, 103, 104, 150, 151, 63, 64]
    assert f"apo  3             {np.mean(middle) / 200:.4g} [" in said


def test_refuses_arms_that_differ_in_more_than_the_tested_term(tmp_path, capsys):
    write_run(tmp_path / "ppo")
    write_run(tmp_path / "apo", "apo", lr=3e-4)
    with pytest.raises(SystemExit):
        compare.main([str(tmp_path)])
    said = capsys.readouterr().err
    assert "optimizer.lr: 0.0003 in apo, 0.001 in ppo" in said
    assert "allow=optimizer.lr" in said
    compare.main([str(tmp_path), "allow=optimizer.lr", "figures=false"])
    assert "optimizer.lr" in capsys.readouterr().out


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
    write_run(tmp_path / "ppo_2", seeds=range(4, 7), level=300.0)
    write_run(tmp_path / "apo", "apo", seeds=range(3))
    write_run(tmp_path / "broken", "apo", status="failed")
    edited = write_run(tmp_path / "edited", "apo", seeds=range(10, 12))
    (edited / "metrics.csv").write_text((edited / "metrics.csv").read_text().replace(",9,", ",8,"))
    comparison = compare_runs(find_runs([tmp_path]))
    said = "\n".join(comparison.remarks)
    assert "broken: left out, it is failed" in said
    assert "ppo, seed 4: trained twice" in said
    assert "edited: metrics.csv was edited after the run" in said
    assert "apo: has no seeds 3, 4, 5, 6, which other arms have" in said
    assert [s.curve.returns[-1] for s in comparison.settings[0].arms["ppo"].samples][4] == 304  # the later run counts


def test_clear_lines_for_what_cannot_be(tmp_path, capsys):
    cases = {
        (str(tmp_path / "nowhere"),): "there is no run in or below it",
        ("basline=ppo",): "basline=ppo: no such setting",
        ("baseline=ppo",): "say which runs",
        (
            str(write_run(tmp_path / "a" / "run").parent),
            "baseline=apo",
        ): "baseline=apo: there is no such arm; the arms are: ppo",
        (str(write_run(tmp_path / "b" / "run", status="running").parent),): "no run has finished",
    }
    for words, expected in cases.items():
        with pytest.raises(SystemExit):
            compare.main(list(words))
        assert expected in capsys.readouterr().err


def test_a_real_study_gives_the_same_bytes_every_time(tmp_path):
    settings = "num_seeds=3 env=cartpole tuned=none total_steps=4096 progress=none compile=false evaluation.episodes=2"
    words = [*settings.split(), f"outputs={tmp_path}", "study=first"]
    subprocess.run([sys.executable, "-m", "rlexp.train", "-m", "algo=ppo,apo", *words], check=True, capture_output=True)
    study = tmp_path / "first"
    compare.main([str(study)])
    made = {path.name: path.read_bytes() for path in (study / "compare").iterdir()}
    assert {"compare.md", "compare.csv", "compare.html", "curves_steps.svg", "curves_steps.png", "profile.svg"} <= set(
        made
    )
    shutil.rmtree(study / "compare")
    compare.main([str(study)])
    assert made == {path.name: path.read_bytes() for path in (study / "compare").iterdir()}
    assert made["compare.html"].count(b"<svg") == sum(name.endswith(".svg") for name in made)
    rows = rows_of(study / "compare")
    for algo in ("ppo", "apo"):
        (run,) = [run for run in find_runs([study]) if run.algo == algo]
        results = run.record["result"]
        for measure, key in (("final", "training_return"), ("evaluation", "evaluation_return")):
            found = float(rows["CartPole-v1", algo, measure]["mean"])
            assert found == pytest.approx(np.mean(results[key]), rel=1e-4)


def test_flatten():
    assert flatten({"a": {"b": 1, "c": {}}, "d": [1, 2]}) == {"a.b": 1, "a.c": "{}", "d": (1, 2)}
