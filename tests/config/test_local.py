"""conf/local: what a machine sets, and nothing that changes results."""

import pytest
from helpers import jobs, record, refusal

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
    write(tmp_path, f"{HEAD}tags: [laptop]\nevaluation:\n  every: 512\nhydra:\n  launcher: {{}}\n")
    assert cli(*SHORT, "resume=never").code == 0
    assert record(jobs()[1])["tags"] == ["laptop"]
    assert jobs()[1].name == f"{before.name}_2"  # the same run
    assert record(jobs()[1])["choices"]["local"] == "default"
    assert "local" not in record(before)["choices"]
    assert cli(*SHORT, "resume=never", "tags=[x]").code == 0
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


def test_it_may_choose_loggers(cli, tmp_path):
    (tmp_path / "conf" / "logger").mkdir(parents=True)
    (tmp_path / "conf" / "logger" / "lines.yaml").write_text("lines:\n  _target_: own_logger.Lines\n")
    write(tmp_path, f"{HEAD}defaults:\n  - override /logger: lines\n")
    assert cli(*SHORT).code == 0
    assert record(jobs()[0])["loggers"] == {"lines": f"record of {jobs()[0].name}"}
    assert cli(*SHORT, "logger=none", "resume=never").code == 0
    assert "loggers" not in record(jobs()[1])


@pytest.mark.parametrize("several", [[], ["-m"]])
@pytest.mark.parametrize(
    ("text", "words", "told"),
    [
        (f"{HEAD}algo:\n  clip_coef: 0.3\n", [], "default.yaml: algo.clip_coef changes results"),
        (f"{HEAD}total_steps: 3\n", [], "default.yaml: total_steps changes results"),
        (f"{HEAD}evaluation:\n  episodes: 3\n", [], "default.yaml: evaluation.episodes changes results"),
        (f"{HEAD}live: true\n", [], "default.yaml: live changes results"),
        ("tags: [x]\n", [], "local/default.yaml: Key 'local' not in 'RunConfig'; its first line must be"),
        (f"{HEAD}tagss: [x]\n", [], "local/default.yaml: Key 'tagss' not in 'RunConfig'"),
        (f"{HEAD}tags: [x]\n", ["local=defaul"], "local=defaul: there is no such choice; did you mean default?"),
        (f"{HEAD}tags: [x]\n", ["local=null"], "~local leaves it out"),
    ],
)
def test_what_is_wrong_is_one_line(cli, tmp_path, text, words, told, several):
    write(tmp_path, text)
    assert told in refusal(cli(*several, *SHORT, *words))
    assert jobs() == []


def test_one_that_is_not_there_is_one_line(cli):
    assert "local=laptop: there is no conf/local/laptop.yaml" in refusal(cli(*SHORT, "local=laptop"))
