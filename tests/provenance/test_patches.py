"""What a run keeps of code that is not committed restores it: git apply, on a clone of the commit, byte for byte."""

import subprocess
from pathlib import Path

import pytest
from helpers import jobs, record
from process import Process

from rlexp.provenance import code_state, modules, patches, repositories, sources
from rlexp.provenance.code_state import config_state


def git(folder, *words):
    identity = ("-c", "user.name=x", "-c", "user.email=x@x")
    return subprocess.run(["git", "-C", folder, *identity, *words], check=True, capture_output=True).stdout


def commit(folder, *names):
    if not (folder / ".git").exists():
        git(folder, "init", "-q")
    git(folder, "add", *(names or ["."]))
    git(folder, "commit", "-q", "-m", "x")


def write(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


FILES = {
    "their_pkg/__init__.py": b"",
    "their_pkg/loss.py": b"from their_pkg.terms import X\ndef f(): pass\n",
    "their_pkg/terms.py": b"X = 1\n",
    "latin.txt": "größe\n".encode("latin-1"),
    "README": b"first\n",
    ":notes": b"1\n",
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where commands are typed: a repository with a package, which is not imported but read."""
    for cached in (sources._sources, sources._digests, patches._patches, repositories.root_of):
        cached.cache_clear()
    folder = tmp_path / "their repo"
    write(folder, FILES)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    return folder


def kept(folder, name="their_pkg.loss", launch=1):
    """What a launch leaves in a run's folder, of repositories other than rlexp's."""
    for cached in (modules.read, sources._sources, patches._patches):
        cached.cache_clear()
    run = folder / "outputs" / "s" / "job"
    run.mkdir(parents=True, exist_ok=True)
    before = set(run.iterdir())
    # by a word among settings, so that nothing is imported
    settings = {"network": {"_target_": "torch.nn.Linear", "kind": f"{name}.f"}}
    patches.keep_patches(settings, run, launch)
    own = repositories.package_root()
    return sorted(path for path in set(run.iterdir()) - before if own is None or path.name.split(".")[1] != own.name)


def restored(folder, patch, tmp_path):
    """Files of a clone of the last commit once the patch is applied."""
    clone = tmp_path / f"clone of {patch.name}"
    has_commit = subprocess.run(["git", "-C", folder, "rev-parse", "-q", "--verify", "HEAD"], capture_output=True)
    git(tmp_path, *(["clone", "-q", folder, clone] if has_commit.returncode == 0 else ["init", "-q", clone]))
    git(clone, "apply", "--check", patch.resolve())
    git(clone, "apply", patch.resolve())
    return contents(clone)


def contents(folder):
    """What lies in a folder, but for git's own and outputs."""
    files = {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file() or path.is_symlink()}
    return {
        str(name): path.readlink() if path.is_symlink() else path.read_bytes()
        for name, path in files.items()
        if name.parts[0] not in (".git", "outputs")
    }


EDITS = {
    "no last newline": {"README": b"second"},
    "last lines empty": {"README": b"first\n\n\n"},
    "not UTF-8": {"latin.txt": "größer\n".encode("latin-1"), "their_pkg/terms.py": b"X = 2\n"},
    "carriage returns": {"their_pkg/terms.py": b"X = 2\r\n"},
    "binary": {"README": bytes(range(256))},
    "a new file": {"their_pkg/terms.py": b"from their_pkg.new import X", "their_pkg/new.py": b"X = 3"},
    "a new empty one": {"their_pkg/loss.py": b"import their_pkg.sub\n", "their_pkg/sub/__init__.py": b""},
    "a name that is a pattern to git": {":notes": b"2\n"},
    "a line like a header": {"README": b"diff --git a/x b/x\n# first\n"},
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_a_patch_restores_what_was_not_committed(folder, tmp_path, monkeypatch, edit):
    commit(folder)
    assert kept(folder) == []  # nothing to restore
    git(folder, "config", "diff.noprefix", "true")
    git(folder, "config", "diff.renames", "copies")
    git(folder, "config", "diff.context", "0")
    monkeypatch.setenv("GIT_DIFF_OPTS", "-u0")
    write(folder, edit)
    (patch,) = kept(folder)
    assert patch.name == "code.their_repo.patch"
    assert restored(folder, patch, tmp_path) == contents(folder)


def test_it_does_without_a_commit(folder, tmp_path):
    git(folder, "init", "-q")
    git(folder, "add", ".")
    write(folder, {"their_pkg/terms.py": b"X = 2\n"})
    (patch,) = kept(folder)
    assert restored(folder, patch, tmp_path) == contents(folder)
    (state,) = config_state({}, patch.parent)["repositories"]
    assert (state["commit"], state["dirty"]) == (None, True)


def test_it_does_where_a_file_has_become_a_link_or_is_gone(folder, tmp_path):
    commit(folder)
    (folder / "README").unlink()
    (folder / "README").symlink_to("latin.txt")
    (folder / "latin.txt").unlink()
    (patch,) = kept(folder)
    assert restored(folder, patch, tmp_path) == contents(folder)


def test_it_does_where_a_file_has_another_name(folder, tmp_path):
    write(folder, {"README": b"a line\n" * 20})
    commit(folder)
    git(folder, "mv", "README", "READ.ME")
    (patch,) = kept(folder)
    assert restored(folder, patch, tmp_path) == contents(folder)


def test_a_hook_of_git_is_told_of_another_repository(folder, tmp_path, monkeypatch):
    commit(folder)
    write(tmp_path / "other", {"x": b""})
    commit(tmp_path / "other")
    with monkeypatch.context() as patched:
        patched.setenv("GIT_DIR", str(tmp_path / "other" / ".git"))
        patched.setenv("GIT_INDEX_FILE", str(tmp_path / "other" / ".git" / "index"))
        patched.setenv("GIT_WORK_TREE", str(tmp_path / "other"))
        patched.setenv("GIT_PREFIX", "x/")
        write(folder, {"README": b"second\n"})
        (patch,) = kept(folder)
    assert restored(folder, patch, tmp_path) == contents(folder)


def test_each_repository_has_a_patch_of_its_own(folder, tmp_path, monkeypatch):
    other = tmp_path / "other"
    write(other, {"base_pkg/__init__.py": b"", "base_pkg/base.py": b"Y = 1\n", "linked.py": b"Z = 1\n"})
    monkeypatch.syspath_prepend(other)
    write(folder, {"their_pkg/terms.py": b"from base_pkg.base import Y\nimport their_pkg.link\n"})
    (folder / "their_pkg" / "link.py").symlink_to(other / "linked.py")
    commit(folder)
    commit(other)
    write(folder, {"their_pkg/loss.py": b"from their_pkg.terms import Y\n# edited\n"})
    write(other, {"base_pkg/base.py": b"Y = 2\n", "linked.py": b"Z = 2\n"})
    first, second = kept(folder)
    assert restored(other, first, tmp_path) == contents(other)
    assert restored(folder, second, tmp_path) == contents(folder)


def test_what_is_too_much_is_left_out_by_whole_files_and_never_what_the_config_names(folder, tmp_path, monkeypatch):
    commit(folder)
    monkeypatch.setattr(repositories, "PATCH_LIMIT", 2000)
    write(
        folder, {"README": b"long\n" * 1000, "their_pkg/terms.py": b"X = 1  # of many\n" * 500, "latin.txt": b"short\n"}
    )
    (patch,) = kept(folder)
    assert b"# left out, as there is too much: README\n" in patch.read_bytes()
    assert restored(folder, patch, tmp_path) == {**contents(folder), "README": FILES["README"]}


def test_what_a_killed_git_has_said_by_then_is_no_answer(tmp_path, monkeypatch):
    (tmp_path / "git").write_text("#!/bin/sh\necho half of it\nkill -9 $$\n")
    (tmp_path / "git").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert repositories.git(tmp_path, "diff") is None


def test_outputs_do_not_make_a_repository_dirty(folder):
    write(folder, {"outputs/old/job/run.json": b"{}"})
    commit(folder)  # even those that git knows
    run = folder / "outputs" / "s" / "job"
    write(run, {"metrics.csv": b"1\n"})
    write(folder, {"outputs/old/job/run.json": b"[]", "notes.txt": b""})
    assert [own["dirty"] for own in config_state({}, run)["repositories"]] == [False]
    assert kept(folder) == []
    write(folder, {"README": b"second\n"})
    (folder / "outputs" / "other").mkdir()
    assert [own["dirty"] for own in config_state({}, folder / "outputs" / "other" / "j")["repositories"]] == [False]


def test_launches_keep_patches_of_their_own_where_they_differ(folder):
    commit(folder)
    write(folder, {"README": b"one\n"})
    assert [path.name for path in kept(folder)] == ["code.their_repo.patch"]
    assert kept(folder, launch=2) == []
    write(folder, {"README": b"two\n"})
    assert [path.name for path in kept(folder, launch=3)] == ["code.their_repo.3.patch"]
    commit(folder, "README")
    (clean,) = kept(folder, launch=10)
    assert git(folder, "rev-parse", "HEAD").decode().strip() in clean.read_text()
    assert clean.read_text().splitlines()[1:] == ["# nothing has changed since that commit"]
    assert kept(folder, launch=11) == []


@pytest.mark.slow
def test_an_environment_that_nobody_has_edited_is_refused_at_no_launch(tmp_path):
    thing = "from gymnasium.envs.classic_control import CartPoleEnv\nfrom envs_pkg.rew import R\n"
    thing += "class Thing(CartPoleEnv):\n    def step(self, action):\n        o, r, *more = super().step(action)\n"
    register = 'gymnasium.register("Thing-v0", entry_point="envs_pkg.thing:Thing", max_episode_steps=20)\n'
    write(
        tmp_path, {"envs_pkg/__init__.py": b"import gymnasium\n" + register.encode(), "envs_pkg/rew.py": b"R = 1.0\n"}
    )
    write(tmp_path, {"envs_pkg/thing.py": f"{thing}        return o, r * R, *more\n".encode()})
    words = ("algo=ppo", "env.id=envs_pkg:Thing-v0", "study=s", "progress=none", "total_steps=128", "compile=false")
    words += ("env.num_envs=2", "algo.rollout_steps=32", "algo.minibatches=2", "evaluation.episodes=1")

    def run(*more):
        process = Process(tmp_path, *words, *more)
        return process.wait(120), process.output.read_text()

    assert run("stop_at=64")[0] == 0
    assert run()[0] == 0
    code, said = run()
    assert code == 0, said
    assert "already done" in said
    (job,) = jobs(tmp_path)
    assert set(record(job)["sources"]) >= {"envs_pkg/__init__.py", "envs_pkg/rew.py", "envs_pkg/thing.py"}
    write(tmp_path, {"envs_pkg/rew.py": b"R = 2.0\n"})
    code, said = run()
    assert code == 1
    assert f"envs_pkg/rew.py changed since the run in {Path('outputs/s')}" in said


def test_documents_of_rlexp_make_no_run_dirty_and_are_in_no_patch(tmp_path, monkeypatch):
    names = "rlexp/__init__.py", "rlexp/README.md", "conf/a.yaml"
    write(tmp_path, dict.fromkeys(names, b"1\n"))
    commit(tmp_path)
    for module in (code_state, repositories):
        monkeypatch.setattr(module, "PACKAGE", tmp_path / "rlexp")
        monkeypatch.setattr(module, "CONF_DIR", tmp_path / "conf")

    def state():
        kept = repositories.patch(tmp_path, [], tmp_path / "outputs").text
        return code_state.code_state.__wrapped__()["dirty"], [name for name in names if f"b/{name}".encode() in kept]

    write(tmp_path, {"rlexp/README.md": b"2\n", "conf/new one.md": b"2\n"})
    assert state() == (False, [])
    write(tmp_path, {"conf/a.yaml": b"2\n"})
    assert state() == (True, ["conf/a.yaml"])
    git(tmp_path, "checkout", "conf")
    write(tmp_path, {"rlexp/new.py": b"2\n"})
    assert state() == (True, [])
