"""A run that starts from a finished one's parameters: what it takes, what it refuses, and how it is known."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from helpers import contents, make_config, make_jobs, record, records, refusal, same, state_of, status, trainer_of
from process import Process
from torch.testing import assert_close

import rlexp
from rlexp.compiling.graphs import UPDATE
from rlexp.config.identity import config_hash, identity
from rlexp.errors import CheckpointError, ConfigError
from rlexp.files import file_digest
from rlexp.jobs import inherit
from rlexp.jobs.job import settings_of

SIZES = ("env.num_envs=4", "algo.rollout_steps=64", "algo.epochs=2", "algo.minibatches=2", "total_steps=1024")
WORDS = (
    *SIZES,
    "tuned=none",
    "progress=none",
    "compile=false",
    "torch_threads=1",
    "log_every=256",
    "evaluation.episodes=1",
)
ALL = "init_with=[optimizer,normalizer,memory]"
APO = ("algo=apo", "algo.max_steps=20")
NORMALISED = ("env=pendulum", "env.normalize_obs=true", "env.normalize_reward=true")


def runs(study):
    return sorted(path.parent for path in Path("outputs", study).glob("*/run.json"))


def only(study):
    (run,) = runs(study)
    return run


def short(run):
    return f"{run.parent}/{record(run)['config_hash']}"


def train(cli, *words):
    result = cli(*[w for w in words if w == "-m"], *WORDS, *[w for w in words if w != "-m"])
    assert result.code == 0, result.err
    return result


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Parents that nobody changes: p of one seed, three of three."""
    folder = tmp_path_factory.mktemp("parents")
    for words in (("study=p",), ("study=three", "num_seeds=3")):
        process = Process(folder, *WORDS, *words)
        assert process.wait() == 0, process.communicate()
    return folder / "outputs"


@pytest.fixture
def parents(trained, tmp_path):
    """Copies of them where commands are typed."""
    shutil.copytree(trained, tmp_path / "outputs")


def begun(folder, *words):
    """A trainer whose agents have started from what init_from names."""
    jobs = make_jobs(folder, *SIZES, *words)
    trainer = trainer_of(jobs)
    inherit.begin(trainer, jobs, trainer.runs)
    return trainer


@pytest.mark.slow
def test_an_average_of_weights_starts_afresh_compiled_as_eagerly(cli, parents, tmp_path, traced):
    words = ("algo=ppo_ewma", f"init_from={short(only('p'))}", "init_with=[optimizer]", "algo.ewma_decay=0.9")
    learners = []
    for compiled in ("false", "true"):
        trainer = begun(tmp_path / compiled, *words, f"compile={compiled}")
        trainer.iterate()
        learners.append(trainer.learner)
        trainer._close()
    eager, compiled = learners
    assert UPDATE in compiled.graphs[0].made
    assert not compiled.notes.uncompiled
    assert_close(compiled.tensors(), eager.tensors(), rtol=1e-4, atol=1e-6)
    assert_close(*(learner.groups[0].optimizer_state() for learner in (compiled, eager)), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("words", ["normalizer", "memory"])
def test_modules_of_the_objective_are_taken_with_its_memory_only(cli, tmp_path, words):
    own = ("algo._target_=extras.Auxiliary",)
    train(cli, *own, "study=p")
    learnt = state_of(only("p"))["learner"]["tensors"]
    start = (*own, "seed=7", f"init_from={short(only('p'))}", f"init_with=[{words}]")
    ours = begun(tmp_path / "child", *start).learner.tensors()
    assert torch.equal(ours["actor_head.weight"], learnt["actor_head.weight"])
    assert torch.equal(ours["algo.aux.2.weight"], learnt["algo.aux.2.weight"]) == (words == "memory")


def test_a_child_that_does_not_learn_acts_like_its_parent(cli):
    train(cli, *APO, "study=p")
    parent = only("p")
    before = contents(parent)
    train(cli, *APO, "study=c", "optimizer.lr=0", "seed=7", f"init_from={short(parent)}", ALL)
    child = only("c")
    assert contents(parent) == before
    ours, theirs = (rlexp.load_policy(run) for run in (child, parent))
    observations = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)).numpy()
    assert (ours(observations) == theirs(observations)).all()
    assert same(state_of(child)["learner"]["tensors"], state_of(parent)["learner"]["tensors"])
    told = record(child)["parent"]
    assert told["folder"] == str(parent.resolve())
    assert (told["config_hash"], told["seed"]) == (record(parent)["config_hash"], 0)
    assert told["steps"] == record(parent)["result"]["steps"]
    assert told["checkpoint"] == file_digest(parent / "checkpoint.pt")
    assert told["with"] == ["memory", "optimizer"]  # there was no normalizer
    steps = told["steps"][0]
    assert record(child)["config"]["init_from"] == f"{told['config_hash']}:0@{steps}+memory+normalizer+optimizer"
    assert "init_from" not in record(parent)["config"]
    assert f"init_from={told['config_hash']}_0," in child.name  # not the path, however it is typed


def test_what_init_with_names_is_taken_and_nothing_else(cli, tmp_path):
    train(cli, "algo=apo", "algo.max_steps=20", *NORMALISED, "num_seeds=2", "optimizer.eps=1e-5", "study=p")
    words = ("algo=apo", "algo.max_steps=20", *NORMALISED, "num_seeds=2", f"init_from={short(only('p'))}")
    words += ("optimizer.eps=1e-4",)
    saved = state_of(only("p"))
    statistics = [f"encoder.normalizer.{name}" for name in ("mean", "var", "count")]

    whole = begun(tmp_path / "all", *words, ALL)
    assert same(whole.learner.tensors(), saved["learner"]["tensors"])
    kept = whole.learner.state_dict()["optimizer"]
    assert same(kept["tensors"], saved["learner"]["optimizer"]["tensors"])
    assert kept["numbers"]["#0"]["eps"].tolist() == [1e-4] * 2  # as typed, not as it was there
    assert same(whole.algo.state_dict(), saved["algo"])
    assert [float(x) for x in whole.scaler.var] == [float(x) for x in saved["scaler"]["var"]]
    assert not whole.scaler.running.any()  # of episodes that are over
    whole.train(False)

    bare = begun(tmp_path / "bare", *words, "init_with=[]")
    tensors = bare.learner.tensors()
    assert not tensors["encoder.normalizer.count"].any()
    assert all(torch.equal(x, saved["learner"]["tensors"][k]) for k, x in tensors.items() if k not in statistics)
    assert not bare.learner.updated
    assert not bare.scaler.count.any()
    assert bare.algo.memory.kept == {}

    usual = begun(tmp_path / "usual", *words)
    assert same(usual.learner.tensors(), saved["learner"]["tensors"])
    assert usual.scaler.count.all()
    assert usual.algo.memory.kept == {}


def test_the_child_of_a_seed_is_the_same_alone_and_beside_others(cli):
    train(cli, *APO, "num_seeds=3", "study=p")
    parent = f"init_from={short(only('p'))}"
    train(cli, *APO, "num_seeds=3", "study=c", parent, ALL)
    train(cli, *APO, "seed=2", "study=alone", parent, ALL)
    together, alone = state_of(only("c")), state_of(only("alone"))
    for name, tensor in alone["learner"]["tensors"].items():
        assert_close(together["learner"]["tensors"][name][2:], tensor, atol=2e-4, rtol=2e-3, msg=name)
    # seeds of one arm, however they were launched
    assert record(only("c"))["config"]["init_from"] == record(only("alone"))["config"]["init_from"]
    train(cli, *APO, "num_seeds=2", "seed=5", "study=one", f"{parent}:1", "optimizer.lr=0")
    tensors = state_of(only("one"))["learner"]["tensors"]
    parents = state_of(only("p"))["learner"]["tensors"]
    assert all(torch.equal(tensors[k][i], parents[k][1]) for k in tensors for i in (0, 1))


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(APO, marks=pytest.mark.slow),
        (*NORMALISED, "num_seeds=2"),
        pytest.param((*APO, "batching=loop", "num_seeds=2"), marks=pytest.mark.slow),
    ],
)
def test_a_resumed_child_is_the_uninterrupted_one_and_needs_no_parent(cli, case):
    train(cli, *case, "study=p")
    words = (*case, f"init_from={short(only('p'))}", ALL, "optimizer.lr=1e-3")
    train(cli, *words, "study=whole")
    train(cli, *words, "study=parts", "stop_at=512")
    shutil.rmtree("outputs/p")
    train(cli, *words, "study=parts")
    assert same(state_of(only("parts"))["learner"], state_of(only("whole"))["learner"])
    assert same(state_of(only("parts"))["algo"], state_of(only("whole"))["algo"])
    assert records(only("parts")) == records(only("whole"))
    assert record(only("parts"))["parent"] == record(only("whole"))["parent"]
    assert "already done" in train(cli, *words, "study=parts").out
    assert "there is no such folder" in refusal(cli(*WORDS, *words, "study=parts", "resume=never"))
    assert "there is no such folder" in refusal(cli(*WORDS, *words, "study=another"))


@pytest.mark.slow
def test_a_child_is_extended_like_any_run(cli):
    train(cli, *APO, "study=p")
    words = (*APO, f"init_from={short(only('p'))}", ALL)
    train(cli, *words, "study=whole", "total_steps=2048")
    train(cli, *words, "study=s")
    shutil.rmtree("outputs/p")
    train(cli, *words, "study=s", "total_steps=2048", "resume=extend")
    (longer,) = [run for run in runs("s") if record(run)["config"]["total_steps"] == 2048]
    assert longer.name == only("whole").name
    assert same(state_of(longer)["learner"], state_of(only("whole"))["learner"])
    assert records(longer) == records(only("whole"))
    assert record(longer)["parent"] == record(only("whole"))["parent"]


@pytest.mark.slow
def test_a_parent_is_known_by_what_it_is_and_not_by_how_it_is_typed(cli, parents):
    parent = only("p")
    shutil.copytree(parent, "elsewhere/copy")
    typed = [short(parent), f"{short(parent)}:0", f"'{parent}'", f"'{parent.resolve()}:0'", "elsewhere/copy"]
    hashes = {config_hash(settings_of(make_config(f"init_from={path}"))) for path in typed}
    assert len(hashes) == 1
    assert hashes == {config_hash(settings_of(make_config(f"init_from={typed[0]}", "init_with=normalizer")))}
    assert hashes != {config_hash(settings_of(make_config()))}
    assert hashes != {config_hash(settings_of(make_config(f"init_from={parent.parent}/{parent.name[-8:]}", ALL)))}
    # all runs made before there was init_from keep their folders
    for words in ((), ("init_from=null", ALL)):
        assert settings_of(make_config(*words)) == identity(make_config())
        assert not {"init_from", "init_with"} & set(identity(make_config(*words)))


@pytest.mark.parametrize("launcher", ["basic", pytest.param("batched", marks=pytest.mark.slow)])
@pytest.mark.slow
def test_a_sweep_over_parents(cli, launcher):
    alone = train(cli, "-m", "seed=0,1", "study=p", "init_with=[optimizer]").out
    assert "init_with=[optimizer]: has no effect without init_from" in alone
    assert not [run for run in runs("p") if "init_with" in run.name]
    parents = [short(run) for run in runs("p")]
    words = ("-m", f"hydra/launcher={launcher}", f"init_from={','.join(parents)}", "optimizer.lr=0,1e-3", "study=c")
    result = train(cli, *words)
    if launcher == "batched":
        assert "4 jobs (4 agents) side by side: init_from, optimizer.lr differ" in result.out
    assert [status(run) for run in runs("c")] == ["done"] * 4
    for run in runs("c"):
        if record(run)["config"]["optimizer"]["lr"] == 0:
            theirs = state_of(Path(record(run)["parent"]["folder"]))["learner"]["tensors"]
            assert same(state_of(run)["learner"]["tensors"], theirs)
    assert "4 jobs: 4 done" in train(cli, *words).out
    mixed = train(
        cli, "-m", f"hydra/launcher={launcher}", f"init_from=null,{parents[0]}", "study=d", "seed=0,1", "init_with=null"
    )
    if launcher == "batched":
        assert "2 batches: init_from must be the same within one" in mixed.out


def test_a_run_whose_parent_is_gone_is_known_by_its_seed_and_its_latest_launch(cli, parents):
    parent = short(only("three"))
    train(cli, f"init_from={parent}:1", "study=c", "stop_at=256")
    child = only("c")
    said = (child / "run.json").read_text()
    entry = record(child)["config"]["init_from"]
    # as if it had begun from another run of that name before, and from another seed since
    for name, started, steps, seed in (("earlier", "2000", 512, 1), ("seed", "2999", 1024, 0)):
        made = json.loads(said) | {"started": started}
        made["config"]["init_from"] = f"{entry.partition(':')[0]}:{seed}@{steps}+normalizer"
        made["parent"]["seed"] = seed
        Path("outputs", "c", name).mkdir()
        Path("outputs", "c", name, "run.json").write_text(json.dumps(made))
    shutil.rmtree("outputs/three")
    cfg = make_config(*WORDS, f"init_from={parent}:1", "study=c", "stop_at=256")
    assert settings_of(cfg)["init_from"] == entry


def test_a_launch_that_begins_anew_forgets_what_an_earlier_one_began_from(tmp_path):
    jobs = make_jobs(tmp_path, *SIZES)
    trainer = trainer_of(jobs)
    trainer.runs[0].record.data.update(parent={}, extends={})
    inherit.begin(trainer, jobs, trainer.runs)
    assert not {"parent", "extends"} & trainer.runs[0].record.data.keys()


REFUSED = {  # words of the child -> what is said
    "network.torso.hidden=[32]": r"actor_torso\.\S+ is \(64, 4\) there, \(32, 4\) here",
    "network.shared=true": r"is \(.*\) there, none here",
    "env=acrobot": r"the observation space is Box\(4,\) float32 there, Box\(6,\) float32 here",
    "env.normalize_obs=true": r"encoder\.normalizer\.\w+ is none there, \(.*\) here; set env\.normalize_obs as in",
    "env.normalize_reward=true": r"reward scaling are none there, \(1,\) here; set env\.normalize_reward as in",
    "algo=apo init_with=[memory]": r"PPO of that run has no memory; leave memory out of init_with",
    "init_with=[optimizer] optimizer._target_=torch.optim.SGD ~optimizer.eps ~optimizer.fused": "the optimizer "
    "is Adam there, SGD here; leave optimizer out of init_with",
    "init_with=[optimiser]": r"there is no optimiser; did you mean optimizer\?",
    "init_with=[policy]": r"init_with=\['policy'\]: there is no policy",
    "init_with=3": r"init_with=3: there is no 3",
}


@pytest.mark.few(4)
@pytest.mark.parametrize("words", REFUSED)
def test_what_does_not_fit_is_refused_before_anything_is_written(cli, parents, words):
    said = refusal(cli(*WORDS, f"init_from={short(only('p'))}", "study=c", *words.split()))
    assert re.search(REFUSED[words], said), said
    assert not Path("outputs/c").exists()


def test_another_memory_is_refused(cli, tmp_path):
    train(cli, *APO, "study=p")
    words = ("init_with=[memory]", f"init_from={short(only('p'))}")
    with pytest.raises(CheckpointError, match=r"kept\.obs is \(1, 20, 4\) float32 there, \(1, 30, 4\) float32 here"):
        begun(tmp_path / "a", "algo=apo", "algo.max_steps=30", *words)
    with pytest.raises(CheckpointError, match="PPO of this run has no memory"):
        begun(tmp_path / "b", "algo=ppo", *words)
    begun(tmp_path / "c", "algo=apo_ce", "algo.max_steps=20", *words)  # which remembers the same


def test_what_is_kept_by_rewards_and_what_comes_later_is_taken(cli, tmp_path):
    theirs = "algo._target_=hooks.FromRewards"
    train(cli, theirs, "study=p", "num_seeds=2")
    trainer = begun(tmp_path / "a", theirs, "seed=1", f"init_from={short(only('p'))}", "init_with=[memory]")
    held = state_of(only("p"))["algo"]
    assert_close(trainer.algo.best, held["best"][1:])
    assert_close(trainer.algo.seen["mean"], held["seen"]["mean"][1:])


def test_seeds_and_runs_that_are_not_there_are_refused_in_one_line(cli, parents):
    parent = short(only("three"))
    words = (*WORDS, "study=c")
    said = refusal(cli(*words, f"init_from={parent}:7"))
    assert "that run has no seed 7; it has seeds 0 to 2" in said
    said = refusal(cli(*words, f"init_from={parent}", "seed=2", "num_seeds=2"))
    assert "that run has no seed 3; it has seeds 0 to 2: name one for all, as in" in said
    assert "there is no such folder" in refusal(cli(*words, "init_from=outputs/q/none"))
    assert "it is a study; one of its runs is outputs/three/" in refusal(cli(*words, "init_from=outputs/three"))
    assert "name the folder by the hash" in refusal(cli(*words, f"init_from={only('three')}"))
    train(cli, "study=half", "stop_at=256")
    said = refusal(cli(*words, f"init_from={short(only('half'))}"))
    assert "that run is interrupted, not done; finish it first with its command (python -m" in said
    said = refusal(cli("-m", *words, f"init_from={parent},{parent}:9"))
    assert "has no seed 9" in said
    assert not Path("outputs/c").exists()


def test_a_strangers_folder_runs_nothing_and_is_refused_where_it_is_damaged(cli, parents):
    parent, words = only("p"), (*WORDS, "study=c", f"init_from={short(only('p'))}")
    good, state = (parent / "checkpoint.pt").read_bytes(), state_of(parent)
    (parent / ".hydra" / "config.yaml").write_text("network: {_target_: os.system}")  # which nobody reads
    torch.save(print, parent / "checkpoint.pt")
    assert re.search(r"is damaged or not a checkpoint \(.* \.\.\.\)", refusal(cli(*words)))
    torch.save(state | {"learner": {"tensors": {"a": 3}}}, parent / "checkpoint.pt")
    assert "checkpoint.pt: does not fit this run" in refusal(cli(*words))
    torch.save(state | {"config_hash": "00000000"}, parent / "checkpoint.pt")
    assert "belongs to config 00000000" in refusal(cli(*words))
    torch.save(state | {"seeds": [4]}, parent / "checkpoint.pt")
    assert "has other seeds than run.json" in refusal(cli(*words))
    (parent / "checkpoint.pt").unlink()
    assert re.search("init_from=.* has no checkpoint any more .*what=checkpoints", refusal(cli(*words)))
    (parent / "checkpoint.pt").write_bytes(good)
    (parent / "run.json").write_text("[]")
    said = refusal(cli(*words))
    assert re.search(r"^rlexp: init_from=.*run.json: cannot be read .*; fix it, or name another run$", said)
    assert not Path("outputs/c").exists()


def test_a_run_that_began_from_another_checkpoint_is_not_taken_for_this_one(cli, parents):
    words = (*WORDS, "study=c", f"init_from={short(only('p'))}")
    assert cli(*words, "stop_at=512").code == 0
    state = state_of(only("p"))
    state["learner"]["tensors"]["critic_head.bias"] += 1
    torch.save(state, only("p") / "checkpoint.pt")
    assert "its checkpoint has changed since the run in outputs/c/" in refusal(cli(*words))
    assert "its checkpoint has changed" in refusal(cli("-m", *words))
    assert cli(*words, "stale=keep").code == 0
    assert cli(*words, "resume=never").code == 0
    assert len(runs("c")) == 2


def test_side_by_side_all_start_from_a_run_or_none(cli, parents, tmp_path):
    jobs = make_jobs(tmp_path / "x", *SIZES, own=((f"init_from={short(only('p'))}",), ("seed=1",)))
    trainer = trainer_of(jobs)
    with pytest.raises(ConfigError, match="set it for all jobs of a batch or for none"):
        inherit.begin(trainer, jobs, trainer.runs)
    assert json.dumps(trainer.runs[0].record.data).find("parent") == -1


@pytest.mark.slow
def test_a_compiled_child_is_the_same_resumed_and_acts_like_its_parent(tmp_path, monkeypatch):
    def run(*words):
        process = Process(tmp_path, *WORDS, "compile=true", *words)
        assert process.wait(300) == 0, process.communicate()

    monkeypatch.chdir(tmp_path)
    run(*APO, "study=p")
    parent = f"init_from={short(only('p'))}"
    for study, *words in (("frozen", "optimizer.lr=0"), ("whole",), ("parts", "stop_at=512"), ("parts",)):
        run(*APO, f"study={study}", parent, ALL, *words)
    assert same(state_of(only("frozen"))["learner"]["tensors"], state_of(only("p"))["learner"]["tensors"])
    assert same(state_of(only("parts"))["learner"], state_of(only("whole"))["learner"])
    assert records(only("parts")) == records(only("whole"))


@pytest.mark.slow
def test_nothing_starts_from_a_seed_that_diverged(cli):
    train(cli, "algo._target_=diverging.SpoilsAPO", "algo=apo", "algo.victim=1", "num_seeds=3", "study=p")
    parent = short(only("p"))
    for words in ((f"init_from={parent}", "num_seeds=3"), (f"init_from={parent}:1",)):
        told = refusal(cli(*WORDS, "algo=apo", "study=c", *words))
        assert re.search(r"seed 1 of that run diverged at step \d+, so it has no parameters to start from; name", told)
        assert f"{parent}:0, {parent}:2" in told
    assert not Path("outputs/c").exists()
    train(cli, "algo=apo", "study=c", f"init_from={parent}:2", ALL)
    assert record(only("c"))["parent"]["seed"] == 2
    train(cli, "algo=apo", "study=d", f"init_from={parent}", "seed=2")
    assert record(only("d"))["parent"]["seeds"] == [0, 1, 2]
