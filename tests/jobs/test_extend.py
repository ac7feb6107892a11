"""A finished run that is extended is the run that was never stopped, bit for bit; where it cannot be, it says so."""

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from helpers import contents, jobs, make_config, record, records, refusal, same, state_of, status
from omegaconf import OmegaConf
from process import Process

from rlexp.algos.ppo import PPO
from rlexp.compare import __main__ as compare
from rlexp.jobs import extend, extend_from, init_from

SIZES = ("env.num_envs=4", "algo.rollout_steps=64", "algo.epochs=2", "algo.minibatches=2")
PLAIN = ("tuned=none", "progress=none", "compile=false", "torch_threads=1")
WORDS = (*SIZES, *PLAIN, "log_every=512", "evaluation.episodes=2")
SHORT, LONG = "total_steps=768", "total_steps=2048"  # the last row of the first is not due: 768 is no multiple of 512

CASES = {
    "ppo": ("algo=ppo", "env=cartpole"),
    "memory": ("algo=apo", "env=cartpole", "env.backend=gymnasium", "num_seeds=2", "algo.top_k=2", "algo.max_steps=20"),
    "normalised": ("algo=apo", "env=pendulum", "env.normalize_obs=true", "env.normalize_reward=true"),
    "adaptive": ("algo=ppo_kl", "env=acrobot", "optimizer.lr=[1e-3,1e-3]", "num_seeds=2"),  # a list that is constant
    "loop": ("algo=apo", "env=mountaincar_continuous", "batching=loop", "num_seeds=2"),
    # after 768 rows there is a line of metrics.csv in both, and an evaluation only where it is the last
    "evaluated": (
        "env=cartpole",
        "num_seeds=2",
        "log_every=256",
        "evaluation.every=1024",
        "evaluation.curve_episodes=2",
    ),
    # what is evaluated at 768, only there as the first run ends, is better than all that follows
    "best": (
        "env=cartpole",
        "num_seeds=2",
        "optimizer.lr=0.03",
        "evaluation.every=1024",
        "evaluation.curve_episodes=2",
        "evaluation.weights=best",
    ),
}


def ended(folder, total):
    """The runs of a study by their total_steps, less those whose schedules were stretched."""
    found = [job for job in jobs() if job.parent.name == folder and record(job)["config"]["total_steps"] == total]
    return [job for job in found if "extended_at" not in record(job)["config"]]


def assert_uninterrupted(extended, whole):
    ours, theirs = state_of(extended), state_of(whole)
    for state in (ours, theirs):
        for name in ("seconds", "time", "evaluating"):
            del state["trainer"][name]
        del state["environments"]  # bytes, which tell of copies and views, too
    assert ours.keys() == theirs.keys()
    for name in theirs:
        assert same(ours[name], theirs[name]), name
    assert records(extended) == records(whole)
    assert (extended / "evaluation.json").read_text() == (whole / "evaluation.json").read_text()
    assert record(extended)["result"]["rows"] == record(whole)["result"]["rows"]


# one of each kind: what an algorithm remembers, and agents one after the other
@pytest.mark.few(1)
@pytest.mark.parametrize(
    "case", [case if case in ("memory", "loop") else pytest.param(case, marks=pytest.mark.slow) for case in CASES]
)
def test_an_extended_run_is_the_uninterrupted_one(cli, case):
    words = (*WORDS, *CASES[case])
    assert cli(*words, LONG, "study=whole").code == 0
    assert cli(*words, SHORT, "study=s").code == 0
    (before,) = ended("s", 768)
    kept = contents(before)
    result = cli(*words, LONG, "study=s", "resume=extend")
    assert result.code == 0, result.err
    assert "from 768 to 2048 steps" in result.out
    assert contents(before) == kept
    (extended,), (whole,) = ended("s", 2048), ended("whole", 2048)
    assert extended.name == whole.name  # the folder that it would have anyway
    assert_uninterrupted(extended, whole)
    assert record(extended)["extends"]["folder"] == str(before.resolve())
    assert record(extended)["extends"]["config_hash"] == record(before)["config_hash"]
    assert "already done" in cli(*words, LONG, "study=s", "resume=extend").out


def test_events_are_those_of_the_whole_curve(cli):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for words in ((SHORT,), (LONG, "resume=extend")):
        assert cli(*WORDS, *words, "study=s").code == 0
    (run,) = ended("s", 2048)
    events = EventAccumulator(str(run / "seed_0"))
    events.Reload()
    rows = [line.split(",") for line in (run / "metrics.csv").read_text().splitlines()[1:]]
    assert [event.step for event in events.Scalars("losses/policy_loss")] == [int(row[1]) for row in rows]


def test_the_longest_finished_run_is_extended_and_one_of_no_more_updates_ends_at_once(cli):
    for total in ("768", "1024"):
        assert cli(*WORDS, f"total_steps={total}", "study=s").code == 0
    halted = record(ended("s", 1024)[0]) | {"status": "interrupted"}
    halted["config"]["total_steps"] = 1536
    Path("outputs/s/halted").mkdir()
    Path("outputs/s/halted/run.json").write_text(json.dumps(halted))
    result = cli(*WORDS, LONG, "study=s", "resume=extend")
    assert "from 1024 to 2048 steps" in result.out
    assert cli(*WORDS, "total_steps=1100", "study=s", "resume=extend").code == 0  # the same four updates
    (four,), (same_updates,) = ended("s", 1024), ended("s", 1100)
    assert records(same_updates) == records(four)


SCHEDULES = ("optimizer.lr=[1e-3,0]", "algo.clip_coef=[0.3,0.1]")


def test_schedules_are_stretched_and_make_another_run(cli, capsys):
    words = (*WORDS, *SCHEDULES, "study=s")
    assert cli(*words, SHORT).code == 0
    result = cli(*words, LONG, "resume=extend")
    assert result.code == 0, result.err
    # the rate that was used last is that of 2/3 of 768 steps, the next that of 768/2048 of the way
    assert "optimizer.lr is rescaled to the new total_steps: 0.000333333 in the last update there, 0.000625" in (
        result.out
    )
    assert "algo.clip_coef is rescaled" in result.out
    (stretched,) = [job for job in jobs() if record(job)["config"].get("extended_at")]
    assert record(stretched)["config"]["extended_at"] == [768]
    assert "is rescaled" in (stretched / "train.log").read_text()
    assert "already done" in cli(*words, LONG, "resume=extend").out
    assert cli(*words, LONG).code == 0  # no sweep takes it for the run of these total_steps
    (plain,) = ended("s", 2048)
    assert plain != stretched
    assert cli(*words, LONG, "seed=1").code == 0
    capsys.readouterr()
    compare.main(["outputs/s", "figures=false", "baseline=ppo", "out=page"])  # two arms, not pooled
    told = capsys.readouterr().out
    assert "1 run is left out, as longer ones here extend them" in told
    shutil.rmtree(ended("s", 768)[0])
    assert "ppo extended_at=[768]" in told
    assert "-v1  ppo  " in told
    assert "already done" in cli(*words, LONG, "resume=extend").out  # also without its parent


@pytest.mark.slow
def test_a_stretched_run_that_was_stopped_goes_on_whatever_has_become_of_its_parent(cli):
    words = (*WORDS, *SCHEDULES, "study=s")
    assert cli(*words, SHORT).code == 0
    assert cli(*words, LONG, "resume=extend", "stop_at=1280").code == 0
    (stretched,) = [job for job in jobs() if record(job)["config"].get("extended_at")]
    assert status(stretched) == "interrupted"
    assert cli(*words, "total_steps=1024").code == 0  # a longer one, finished since
    shutil.rmtree(ended("s", 768)[0])
    result = cli(*words, LONG, "resume=extend")
    assert result.code == 0, result.err
    assert status(stretched) == "done"
    assert record(stretched)["launches"] == 2
    assert cli(*words, "total_steps=3072", "resume=extend:2048").code == 0
    assert [768, 2048] in [record(job)["config"].get("extended_at") for job in jobs()]


@dataclass(kw_only=True)
class Fading(PPO):
    """Reads progress by itself."""

    def coefficients(self, progress, num_agents, device):
        late = torch.full((num_agents,), float(progress > 0.9), device=device)
        return super().coefficients(progress, num_agents, device) | {"late": late}


def test_what_an_algorithm_makes_of_progress_by_itself_is_found():
    cfg = make_config("algo._target_=test_extend.Fading", "algo.ent_coef=[0.1,0]")
    found = extend_from.schedules(cfg)
    assert list(found) == ["algo.coefficients()['late']", "algo.ent_coef"]
    assert [found["algo.coefficients()['late']"](p) for p in (0.5, 0.95)] == [0.0, 1.0]
    assert extend_from.schedules(make_config("algo=ppo_kl", "algo.clip_coef=[0.2,0.2]")) == {}


def test_what_cannot_be_extended_is_refused_in_one_line(cli):
    words = (*WORDS, "study=s", LONG, "resume=extend")
    assert "outputs/s has no run with these settings and total_steps below 2048" in refusal(cli(*words))
    assert "it has no run at all" in refusal(cli(*words))
    assert "total_steps below 2048" in refusal(cli(*words, "optimizer.lr=[1e-3,0]"))
    assert not Path("outputs/s").exists()
    assert cli(*WORDS, "study=s", SHORT, "stop_at=256", "resume=never").code == 0
    said = refusal(cli(*words))
    assert "is interrupted, not done; finish it first with its command (python -m rlexp.train " in said
    assert SHORT in said
    assert not re.search("stop_at|never", said)
    assert cli(*WORDS, "study=s", SHORT).code == 0
    said = refusal(cli(*words, "seed=3", "gae.gamma=0.5"))
    assert "the nearest of 1, outputs/s/" in said
    assert "differs in gae.gamma (" in said
    assert "seed (0 there, 3 here)" in said
    assert "runs with these settings have total_steps=768" in refusal(cli(*words, "total_steps=512"))
    assert "total_steps=512 to extend" in refusal(cli(*words, "resume=extend:512"))
    assert "debug=true: makes the first update of a new run and cannot extend one" in refusal(cli(*words, "debug=true"))
    assert "to train from scratch, leave out resume=extend" in refusal(cli(*words, "stale=rerun"))
    (run,) = ended("s", 768)
    table = run / "metrics.csv"
    kept = table.read_bytes()
    table.write_bytes(kept + b"0,1\r\n")
    assert "metrics.csv: was edited after the run" in refusal(cli(*words))
    table.write_bytes(kept)
    (run / "checkpoint.pt").rename(run / "kept.pt")
    assert "has no checkpoint any more" in refusal(cli(*words))
    torch.save(print, run / "checkpoint.pt")  # pickled code is not executed
    assert "is damaged" in refusal(cli(*words))
    assert [job.name for job in jobs()] == [run.name]
    (run / "kept.pt").rename(run / "checkpoint.pt")
    assert cli(*words).code == 0
    assert "resume=extends: must be one of auto, never, must, extend, extend:<total_steps>" in refusal(
        cli(*words, "resume=extends")
    )


@pytest.mark.parametrize("launcher", ["basic", "batched"])
@pytest.mark.slow
def test_each_job_of_a_sweep_extends_its_own_run(cli, launcher):
    words = (
        "-m",
        *WORDS,
        "algo=apo",
        "seed=0,1",
        "optimizer.lr=1e-3,[2e-3,0]",
        f"hydra/launcher={launcher}",
        "study=s",
    )
    assert cli(*words, SHORT).code == 0
    assert cli(*words, "seed=0,1,2", LONG, "resume=extend").code == 1  # checked before any starts
    assert len(jobs()) == 4
    result = cli(*words, LONG, "resume=extend")
    assert result.code == 0, result.err
    assert "4 jobs: 4 to extend" in result.out
    if launcher == "batched":
        assert "4 jobs (4 agents) side by side: extended_at, optimizer.lr, seed differ" in result.out
    extended = [job for job in jobs() if record(job)["config"]["total_steps"] == 2048]
    assert [status(job) for job in extended] == ["done"] * 4
    for job in extended:
        mine = record(job)["config"]
        theirs = record(Path(record(job)["extends"]["folder"]))["config"]
        assert (mine["seed"], mine["optimizer"]) == (theirs["seed"], theirs["optimizer"])
        assert ("extended_at" in mine) == isinstance(mine["optimizer"]["lr"], list)
        assert record(job)["result"]["rows"] == [4]
    assert "4 jobs: 4 done" in cli(*words, LONG, "resume=extend").out


def test_one_sweep_of_several_lengths_extends_what_was_there_when_it_began(cli):
    words = ("-m", *WORDS, *SCHEDULES, "study=s")
    assert cli(*words, SHORT).code == 0
    assert cli(*words, "total_steps=1280,2048", "resume=extend").code == 0
    stages = [record(job)["config"].get("extended_at") for job in jobs() if status(job) == "done"]
    assert sorted(map(str, stages)) == ["None", "[768]", "[768]"]


def test_environments_that_cannot_be_copied_restart_and_the_run_says_so(cli):
    words = (*WORDS, "study=s", "env=cartpole", "env.backend=gymnasium", "env.vectorization=async")
    assert cli(*words, SHORT).code == 0
    result = cli(*words, LONG, "resume=extend")
    assert result.code == 0, result.err
    assert "running episodes are replaced by new, seeded ones" in result.out
    assert record(ended("s", 2048)[0])["result"]["rows"] == [4]


@pytest.mark.slow
def test_a_run_killed_while_it_took_over_takes_over_again(cli, monkeypatch):
    assert cli(*WORDS, "study=s", SHORT).code == 0
    assert cli(*WORDS, "study=whole", LONG).code == 0

    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(extend.checkpoint, "save", die)
        assert cli(*WORDS, "study=s", LONG, "resume=extend").code == 130
    (run,) = ended("s", 2048)
    assert not (run / "checkpoint.pt").exists()
    shutil.copytree(run, "outputs/t/" + run.name)
    assert cli(*WORDS, "study=s", LONG, "resume=extend").code == 0
    assert_uninterrupted(run, ended("whole", 2048)[0])
    assert cli(*WORDS, "study=t", LONG).code == 0  # anew: nothing is extended
    assert_uninterrupted(ended("t", 2048)[0], ended("whole", 2048)[0])
    assert "extends" not in record(ended("t", 2048)[0])


@pytest.mark.slow
def test_compiled_runs_are_extended_bit_for_bit(tmp_path):
    words = (*SIZES, "tuned=none", "progress=none", "compile=true", "evaluation.episodes=2", "log_every=512")
    for more in ((SHORT, "study=s"), (LONG, "study=whole"), (LONG, "study=s", "resume=extend")):
        process = Process(tmp_path, *words, *more)
        assert process.wait(300) == 0, process.communicate()
    runs = {(job.parent.name, record(job)["config"]["total_steps"]): job for job in jobs(tmp_path)}
    assert_uninterrupted(runs["s", 2048], runs["whole", 2048])


def test_the_older_code_of_the_parent_is_told(cli):
    assert cli(*WORDS, "study=s", SHORT).code == 0
    (run,) = ended("s", 768)
    made = record(run)
    made["sources"], made["made_by"] = dict.fromkeys(made["sources"], "00000000"), []
    (run / "run.json").write_text(json.dumps(made))
    said = refusal(cli(*WORDS, "study=s", LONG, "resume=extend"))
    assert "was made before rlexp/algos/ppo.py changed; stale=keep extends it with the new code" in said
    assert cli(*WORDS, "study=s", LONG, "resume=extend", "stale=keep").code == 0
    assert record(ended("s", 2048)[0])["made_by"] == [{"rlexp/algos/ppo.py": "00000000"}]
    assert [own["made_by"] for folder, own in init_from.records(run.parent) if folder.name == run.name] == [[]]
    assert OmegaConf.load(ended("s", 2048)[0] / ".hydra" / "config.yaml").resume == "extend"


@pytest.mark.slow
def test_a_seed_that_diverged_stays_retired(cli):
    # it diverges in the third and last update of the short run, after the row that is due in the second
    words = (*WORDS, "algo=apo", "algo._target_=diverging.SpoilsAPO", "algo.since=0.6", "num_seeds=3", "study=s")
    assert cli(*words, SHORT, "algo.victim=1").code == 0
    result = cli(*words, LONG, "algo.victim=1", "resume=extend")
    assert result.code == 0, result.err
    assert re.search(r"seed 1 diverged there, at step \d+, and stays retired", result.out)
    told, before = record(ended("s", 2048)[0]), record(ended("s", 768)[0])
    assert told["status"] == "done"
    assert told["diverged"] == before["diverged"]
    assert list(told["diverged"]) == ["1"]
    assert told["result"]["rows"][1] == before["result"]["rows"][1] == 1
    assert told["result"]["training_return"][1] is None
    assert cli(*words, LONG, "algo.victim=-1", "study=whole").code == 0
    ours, theirs = records(ended("s", 2048)[0]), records(ended("whole", 2048)[0])
    assert [row for row in ours if row[0] != "1"] == [row for row in theirs if row[0] != "1"]


@pytest.mark.slow
def test_a_seed_that_diverged_keeps_its_evaluations(cli):
    # rows at 256, 512 and 768; the last of seed 1 is that at 512, evaluated in both; 768 is only where the run ends
    words = (*WORDS, "algo=apo", "algo._target_=diverging.SpoilsAPO", "num_seeds=3", "study=s", "log_every=256")
    words += ("evaluation.every=512", "evaluation.curve_episodes=2", "algo.since=0.6", "algo.victim=1")
    assert cli(*words, SHORT).code == 0
    result = cli(*words, LONG, "resume=extend")
    assert result.code == 0, result.err
    (header, *before), (_, *after) = (records(ended("s", steps)[0]) for steps in (768, 2048))
    column = header.split(",").index("evaluation_return") - 1  # wall_time, before it, is left out
    ours, theirs = ([row for row in rows if row[0] == "1"] for rows in (after, before))
    assert ours == theirs
    assert [row[column] != "" for row in ours] == [False, True]
    assert [row[column] != "" for row in after if row[0] == "0"] == [False, True] * 4
