import sys

import pytest
from helpers import jobs, record

from rlexp.config.search_path import read

TINY = ["tuned=none", "total_steps=256", "progress=none", "evaluation.episodes=0", "algo.rollout_steps=16"]
CALM = "defaults: [ppo, _self_]\nclip_coef: 0.1\n"


def write(path, text=CALM):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def install(folder, package):
    """A package with conf/ and an entry point of the group rlexp, as pip leaves it; its code must not be run."""
    write(folder / package / "__init__.py", "raise RuntimeError('run')\n")
    write(folder / package / "conf" / "algo" / "calm.yaml")
    write(folder / f"{package}-1.dist-info" / "METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: 1\n")
    write(folder / f"{package}-1.dist-info" / "entry_points.txt", f"[rlexp]\n{package} = {package}\n")


def test_yamls_in_conf_of_the_working_directory_are_found(cli, tmp_path):
    write(tmp_path / "conf" / "algo" / "calm.yaml")
    for words in (["algo=calm"], ["-m", "algo=calm,ppo"]):
        result = cli(*words, *TINY[1:])
        assert result.code == 0, result.err
    calm, ppo = jobs()
    assert record(calm)["config"]["algo"]["clip_coef"] == 0.1
    assert [record(job)["choices"]["tuned"] for job in (calm, ppo)] == ["none", "ppo_cartpole"]  # it has none
    assert calm.parent.name == "calm_cartpole"


def test_yamls_of_an_installed_package_are_found(cli, tmp_path, monkeypatch):
    install(tmp_path / "site", "calm_pkg")
    monkeypatch.syspath_prepend(tmp_path / "site")
    result = cli("algo=calm", *TINY)
    assert result.code == 0, result.err
    assert record(jobs()[0])["config"]["algo"]["clip_coef"] == 0.1
    assert "calm_pkg" not in sys.modules


def test_a_package_that_was_installed_without_its_yamls_is_named(cli, tmp_path, monkeypatch):
    install(tmp_path / "site", "bare_pkg")
    (tmp_path / "site" / "bare_pkg" / "conf" / "algo" / "calm.yaml").unlink()
    monkeypatch.syspath_prepend(tmp_path / "site")
    told = cli("algo=calm", *TINY).err
    assert told.rstrip().endswith("; bare_pkg has an entry point, but no yamls in conf/")


def test_two_yamls_of_one_name_are_refused_unless_they_say_the_same(cli, tmp_path):
    import rlexp.config.schema

    ppo = tmp_path / "conf" / "algo" / "ppo.yaml"
    write(ppo)
    for words in ([], ["-m", "algo=ppo,apo"]):
        result = cli(*words, *TINY)
        assert result.code == 1
        assert result.err.startswith("rlexp: algo=ppo: there are two, ")
        assert str(ppo) in result.err
        assert result.err.count("\n") == 1
    assert jobs() == []
    write(tmp_path / "conf" / "algo" / "calm.yaml", "defaults: [ppo, _self_]\nent_coef: 0.1\n")
    assert cli("algo=calm", *TINY).err.startswith("rlexp: algo=ppo: there are two, ")
    ppo.write_bytes((rlexp.config.schema.CONF_DIR / "algo" / "ppo.yaml").read_bytes())
    assert cli(*TINY).code == 0


def test_what_becomes_of_a_yaml_that_was_read_is_not_read_again(tmp_path):
    write(tmp_path / "calm.yaml")
    read(tmp_path / "calm.yaml")["defaults"].clear()
    assert read(tmp_path / "calm.yaml") == {"defaults": ["ppo", "_self_"], "clip_coef": 0.1}


@pytest.mark.parametrize(
    "place", ["pkg://nowhere.conf", "/nowhere/conf", "file:///nowhere/conf", "pkg://quits_pkg.conf"]
)
def test_a_place_that_is_not_there_is_one_line(cli, tmp_path, monkeypatch, place):
    write(tmp_path / "quits_pkg" / "__init__.py", "raise SystemExit(0)\n")
    monkeypatch.syspath_prepend(tmp_path)
    result = cli(f"hydra.searchpath=[{place}]", "algo=calm", *TINY)
    assert result.code == 1
    assert result.err.startswith(f"rlexp: hydra.searchpath={place}: there is no such ")
    assert result.err.count("\n") == 1


def test_a_choice_that_is_nowhere_is_told_with_the_ways_to_have_it_found(cli):
    told = cli("algo=their_own", *TINY).err
    for part in (
        "algo=their_own",
        "known: a2c",
        "conf/ of the working directory",
        "entry point",
        "hydra.searchpath=",
    ):
        assert part in told
    assert told.count("\n") == 1
