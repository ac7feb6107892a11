"""conf/local: what a machine sets, and nothing that changes results."""

import pytest
from helpers import jobs, record, refusal

from rlexp.errors import ConfigError

TINY = ["tuned=none", "progress=none", "evaluation.episodes=0", "study=s", "compile=false"]
SHORT = [*TINY, "total_steps=1024", "algo.rollout_steps=64"]
HEAD = "# @package _global_\n"


def write(folder, text, name="default"):
    path = folder / "conf" / "local" / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_what_it_sets_holds_unless_the_command_says_otherwise(cli, tmp_path):
    assert cli(*SHORT).code == 0
    (before,) = jobs()
    write(tmp_path, f"{HEAD}tags: [laptop]\ncompile: false\nhydra:\n  launcher: {{}}\n")
    assert cli(*SHORT, "resume=never").code == 0
    assert record(jobs()[1])["tags"] == ["laptop"]
    assert jobs()[1].name == f"{before.name}_2"  # the same run
    assert record(jobs()[1])["choices"]["local"] == "default"
    assert "local" not in record(before)["choices"]
    assert cli(*SHORT, "resume=never", "tags=[x]").code == 0
    assert record(jobs()[2])["tags"] == ["x"]
    assert "tags=[y,z]: it keeps its own, [x]\n" in cli(*SHORT, "tags=[y,z]").out
    assert record(jobs()[2])["tags"] == ["x"]
    assert cli(*SHORT, "resume=never", "~local").code == 0
    assert "tags" not in record(jobs()[3])


def test_another_is_chosen_by_name_and_changes_no_folder(cli, tmp_path):
    write(tmp_path, f"{HEAD}tags: [cluster]\n", "cluster")
    assert cli(*SHORT).code == 0
    assert cli(*SHORT, "local=cluster", "resume=never").code == 0
    before, after = jobs()
    assert after.name == f"{before.name}_2"
    assert record(after)["tags"] == ["cluster"]
    assert cli(*SHORT[:-1], "algo.rollout_steps=32", "local=cluster").code == 0
    assert not [job.name for job in jobs() if "local" in job.name]


def test_it_may_choose_loggers(cli, tmp_path):
    (tmp_path / "conf" / "logger").mkdir(parents=True)
    (tmp_path / "conf" / "logger" / "lines.yaml").write_text("lines:\n  _target_: own_logger.Lines\n")
    write(tmp_path, f"{HEAD}defaults:\n  - override /logger: lines\n")
    assert cli(*SHORT).code == 0
    assert record(jobs()[0])["loggers"] == {"lines": f"record of {jobs()[0].name}"}
    assert cli(*SHORT, "logger=none", "resume=never").code == 0
    assert "loggers" not in record(jobs()[1])


@pytest.mark.few(15)
@pytest.mark.parametrize("several", [[], ["-m"]])
@pytest.mark.parametrize(
    ("text", "words", "told"),
    [
        (f"{HEAD}algo:\n  clip_coef: 0.3\n", [], "default.yaml changes algo.clip_coef, but may only set"),
        (f"{HEAD}log_every: 3\n", [], "default.yaml changes log_every, but may only set"),
        (f"{HEAD}evaluation:\n  max_steps: 7\n", [], "default.yaml changes evaluation.max_steps, but may only set"),
        (f"{HEAD}live: true\n", [], "default.yaml changes live, but may only set"),
        (f"{HEAD}defaults: [override /algo: apo]\n", [], "default.yaml changes algo."),
        (f"{HEAD}defaults: [/optimizer/adam_annealed@optimizer, _self_]\n", [], "default.yaml changes optimizer.lr"),
        (f"{HEAD}hydra: {{run: {{dir: here}}}}\n", [], "default.yaml changes hydra.run"),
        (f"{HEAD}hydra: {{verbose: true}}\n", [], "default.yaml changes hydra.verbose"),
        (f"{HEAD}hydra: {{job: {{env_set: {{X: 'y'}}}}}}\n", [], "default.yaml changes hydra.job.env_set"),
        (f"{HEAD}algo:\n  clip_coef: 0.3\n", ["+local@_global_=default"], "default.yaml changes algo.clip_coef"),
        (f"{HEAD}primary: final\n", [], "default.yaml changes primary"),
        (f"{HEAD}stop_at: 512\n", [], "default.yaml changes stop_at"),
        ("tags: [x]\n", [], "local/default.yaml: Key 'local' not in 'RunConfig'; its first line must be"),
        (f"{HEAD}tagss: [x]\n", [], "local/default.yaml: Key 'tagss' not in 'RunConfig'"),
        (f"{HEAD}tags: [x]\n", ["local=defaul"], "local=defaul: there is no such choice; did you mean default?"),
        (f"{HEAD}tags: [x]\n", ["local=null"], "~local leaves it out"),
        (f"{HEAD}tags: [x]\n", ["tags=pilot"], "tags=pilot: must be a list, as tags=[pilot]"),
    ],
)
def test_what_is_wrong_is_one_line(cli, tmp_path, text, words, told, several):
    write(tmp_path, text)
    assert told in refusal(cli(*several, *SHORT, *words))
    assert jobs() == []


def test_launchers_settings_meant_for_another_are_one_line(cli, tmp_path):
    write(tmp_path, f"{HEAD}hydra:\n  launcher: {{parameters: {{partition: main}}}}\n")
    said = refusal(cli("-m", *SHORT, "hydra/launcher=basic", "seed=0,1"))
    assert "hydra.launcher: Basic cannot be made of these settings" in said
    assert "conf/local" in said


def test_a_launcher_that_leaves_is_for_sweeps_alone(cli, tmp_path):
    pytest.importorskip("submitit", reason="extra slurm is not installed")
    write(
        tmp_path, f"{HEAD}defaults: [override /hydra/launcher: submitit_slurm]\nhydra: {{launcher: {{wait: false}}}}\n"
    )
    assert cli(*SHORT).code == 0
    assert record(jobs()[0])["status"] == "done"


def test_a_tuning_waits_where_sweeps_leave(cli, tmp_path, monkeypatch):
    pytest.importorskip("submitit", reason="extra slurm is not installed")
    pytest.importorskip("optuna", reason="extra tune is not installed")

    def tuning(jobs, name, folder, launcher, settings):
        raise ConfigError(f"waits: {launcher.wait}")

    monkeypatch.setattr("rlexp.sweep.tune.tuning.Tuning", tuning)
    write(
        tmp_path, f"{HEAD}defaults: [override /hydra/launcher: submitit_slurm]\nhydra: {{launcher: {{wait: false}}}}\n"
    )
    words = ["-m", *SHORT[:3], "hydra/sweeper=optuna", "optimizer.lr=interval(1e-4,1e-2)"]
    assert cli(*words).err == "rlexp: waits: True\n"


def test_one_that_is_not_there_is_one_line(cli):
    assert "local=laptop: there is no conf/local/laptop.yaml" in refusal(cli(*SHORT, "local=laptop"))


@pytest.mark.parametrize("sweeper", ["{params: {algo.ent_coef: '0,0.1'}}", "{grids: [[seed=1], [seed=2]]}"])
def test_it_makes_no_sweep(cli, tmp_path, sweeper):
    write(tmp_path, f"{HEAD}hydra:\n  mode: MULTIRUN\n  sweeper: {sweeper}\n")
    assert "default.yaml changes hydra.mode" in refusal(cli(*SHORT))
    write(tmp_path, f"{HEAD}hydra:\n  sweeper: {sweeper}\n")
    assert "default.yaml changes hydra.sweeper" in refusal(cli("-m", *SHORT))
    assert jobs() == []
