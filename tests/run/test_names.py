"""Names of run folders."""

from pathlib import Path

import pytest
from helpers import refusal

from rlexp.config.identity import config_hash
from rlexp.errors import ConfigError
from rlexp.run.names import job_name, locate, missing_folder


def test_names_are_cut_to_what_file_systems_take():
    few = [f"algo.key_{k}=0.123456789" for k in range(7)]
    assert job_name(few, {}).startswith(",".join(few) + "-")
    many = job_name([f"algo.key_{k}=0.123456789" for k in range(40)], {"a": 1})
    assert 200 < len(many.encode()) < 240
    assert many[-9:] == "-" + config_hash({"a": 1})
    assert len(job_name(["env.id=" + "é" * 300], {}).encode()) < 240


def test_a_home_folder_that_no_shell_has_read_is_refused(cli, tmp_path):
    for several in ([], ["-m"]):
        assert "outputs=~/o: the shell alone knows ~" in refusal(cli(*several, 'outputs="~/o"', "total_steps=64"))
    assert not list(tmp_path.iterdir())


def test_a_run_is_found_by_the_hash_that_its_name_ends_in(tmp_path):
    run = tmp_path / "s" / "algo=ppo,seed=1-0123abcd"
    run.mkdir(parents=True)
    assert locate(tmp_path / "s" / "0123abcd") == locate(run) == run
    assert locate(tmp_path / "s" / "0123abce") is None
    (tmp_path / "s" / "algo=ppo,seed=2-0123abcd").mkdir()
    with pytest.raises(ConfigError, match=r"s/0123abcd: is the end of 2 folders' names; .*seed=1-0123abcd is one of"):
        locate(tmp_path / "s" / "0123abcd")


def test_what_is_named_as_a_hash_alone_is_no_run_beside_one(tmp_path):
    run = tmp_path / "s" / "algo=ppo-0123abcd"
    for folder in (run, tmp_path / "s" / ".old-0123abcd", tmp_path / "s" / "0123abcd"):
        folder.mkdir(parents=True)
    assert locate(tmp_path / "s" / "0123abcd") == run
    (tmp_path / "s" / "0123abcd" / "run.json").write_text("{}")
    assert locate(tmp_path / "s" / "0123abcd") == tmp_path / "s" / "0123abcd"


def test_what_is_meant_below_outputs_is_told_also_of_a_hash(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("outputs/s/algo=ppo-0123abcd").mkdir(parents=True)
    for path in ("s", "s/0123abcd"):
        assert missing_folder(Path(path)) == f"{path}: there is no such folder; did you mean outputs/{path}?"
    assert missing_folder(Path("s/0123abce")) == "s/0123abce: there is no such folder"
