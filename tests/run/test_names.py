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
    (run / "run.json").write_text("{}")
    assert locate(tmp_path / "s" / "0123abcd") == locate(run) == run
    assert locate(tmp_path / "s" / "0123abce") is None
    (tmp_path / "s" / "algo=ppo,seed=2-0123abcd" / ".hydra").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"s/0123abcd: is the end of 2 folders' names; .*seed=1-0123abcd is one of"):
        locate(tmp_path / "s" / "0123abcd")


def test_what_is_named_as_a_hash_alone_is_no_run_beside_one(tmp_path):
    run = tmp_path / "s" / "algo=ppo-0123abcd"
    for folder in (run, tmp_path / "s" / ".old-0123abcd", tmp_path / "s" / "0123abcd"):
        (folder / ".hydra" if folder.name != "0123abcd" else folder / "compare").mkdir(parents=True)
    assert locate(tmp_path / "s" / "0123abcd") == run


def test_a_study_named_like_a_hash_is_that_study_whatever_stands_beside_it(tmp_path):
    for study in ("20261127", "baseline-20261127"):
        (tmp_path / study / "algo=ppo-0123abcd").mkdir(parents=True)
        (tmp_path / study / "algo=ppo-0123abcd" / "run.json").write_text("{}")
    (tmp_path / "algo=ppo-20261127" / ".hydra").mkdir(parents=True)
    assert locate(tmp_path / "20261127") == tmp_path / "20261127"
    assert locate(tmp_path / "20261128") is None
    (tmp_path / "algo=ppo-20261127" / ".hydra").rmdir()
    (tmp_path / "20261127" / "algo=ppo-0123abcd" / "run.json").unlink()
    assert locate(tmp_path / "20261127") == tmp_path / "20261127"  # the other is a study, not a run


@pytest.mark.parametrize("name", ["**", "x" * 300, "[", "a/**/b"])
def test_names_that_no_folder_has_are_of_none(tmp_path, name):
    assert locate(tmp_path / name) is None
    assert missing_folder(Path(name)) == f"{name}: there is no such folder"


def test_what_is_meant_below_outputs_is_told_also_of_a_hash(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("outputs/s/algo=ppo-0123abcd/.hydra").mkdir(parents=True)
    Path("outputs/ppo-none").mkdir()
    for path in ("s", "s/0123abcd"):
        assert missing_folder(Path(path)) == f"{path}: there is no such folder; did you mean outputs/{path}?"
    for path in ("s/0123abce", "none", f"{tmp_path}/s"):
        assert missing_folder(Path(path)) == f"{path}: there is no such folder"
