"""A run over two processes is the run of one, up to rounding; and nothing is lost when one of them dies."""

import contextlib
import csv
import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch
from helpers import COMPILE, SUPPORT, TINY, jobs, make_config, record, refusal, same, state_of, train, weights_of
from lots import best_of
from process import Process

from rlexp import build
from rlexp.errors import CheckpointError, ConfigError, RankError, StorageError
from rlexp.execute import ExitError
from rlexp.signals import Interrupted, StopSignal
from rlexp.training.ranks import Ranks, Torchrun

SIZES = ("env.num_envs=4", "algo.rollout_steps=32", "algo.minibatches=2", "algo.epochs=2", "torch_threads=1")
WORDS = (*TINY, *SIZES, "log_every=128", "resume=auto")
ONE_UPDATE, EIGHT = "total_steps=128", "total_steps=1024"
SYNC = "env.vectorization=sync"


def variables(rank, port):
    """What torchrun sets."""
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
    return {"MASTER_ADDR": "127.0.0.1", **{name: str(number) for name, number in numbers.items()}}


def start(folder, *words):
    """Two processes as torchrun starts them, without the imports of fresh interpreters."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder.mkdir(exist_ok=True)
    return [Process(folder, *WORDS, *words, PYTHONPATH=SUPPORT, **variables(rank, port)) for rank in range(2)]


def together(folder, *words, codes=(0, 0)):
    """The folder of the run that two processes train, and what each printed."""
    processes = start(folder, *words)
    printed = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == list(codes), printed
    return jobs(folder)[0] if jobs(folder) else None, printed


def torchrun(folder, *words):
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "rlexp.train"]
    with open(folder / "printed", "wb") as file:
        return subprocess.Popen(
            [*command, *WORDS, *words],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": SUPPORT, "OMP_NUM_THREADS": "1"},
            stdout=file,
            stderr=file,
        )


def wait_for_update(folder, number, process):
    """Until metrics.csv has this many rows."""
    deadline = time.time() + 60
    while not any(len((job / "metrics.csv").read_text().splitlines()) > number for job in jobs(folder) if rows_of(job)):
        assert process.poll() is None, (folder / "printed").read_text()
        assert time.time() < deadline
        time.sleep(0.02)


def rows_of(job):
    path = job / "metrics.csv"
    return list(csv.DictReader(path.read_text().splitlines())) if path.is_file() else []


def assert_close(run, weights, atol=1e-6):
    found = state_of(run)["learner"]["tensors"]
    assert found.keys() == weights.keys()
    for name, expected in weights.items():
        torch.testing.assert_close(found[name], expected, atol=atol, rtol=0, msg=lambda text, n=name: f"{n}: {text}")


FIRST = {  # in each some rows are dummies, not as many in one half of a minibatch as in the other
    "ppo": ("algo=ppo", "env=cartpole", "num_seeds=2"),
    "apo": ("algo=apo", "env=cartpole", SYNC, "algo.target_kl=1"),
    "sil": ("algo=sil", "env=cartpole", "env.normalize_obs=true", "env.normalize_reward=true"),
    "rnd": ("algo=ppo_ewma", "bonus=rnd", "bonus.rnd_proportion=1", "env=cartpole", SYNC),
}


@pytest.mark.parametrize(
    "case", ["ppo", *(pytest.param(name, marks=pytest.mark.slow) for name in ("apo", "sil", "rnd"))]
)
def test_the_first_update_is_that_of_one_process(tmp_path, case):
    run, (_, silent) = together(tmp_path / "two", *FIRST[case], ONE_UPDATE)
    one = train(tmp_path / "one", *SIZES, *FIRST[case], ONE_UPDATE, "log_every=128")
    assert_close(run, weights_of(one))
    theirs, ours = rows_of(tmp_path / "one"), rows_of(run)
    assert len(ours) == len(theirs) == (2 if case == "ppo" else 1)
    for row, other in zip(ours, theirs, strict=True):
        known = {name: x for name, x in other.items() if x and name not in ("wall_time", "steps_per_second")}
        assert {name: float(row[name]) for name in known} == pytest.approx(
            {name: float(x) for name, x in known.items()}, rel=1e-4, abs=1e-5
        )
    assert silent == ""  # of the second process


def test_random_rows_of_a_loss_are_those_of_one_process():
    from rlexp.networks.noise import uniform

    x, key = torch.zeros(6, 2), torch.tensor(12345)
    parts = [uniform(part, key, 1, start) for part, start in ((x[:3], 0), (x[3:], 6))]
    assert torch.equal(torch.cat(parts), uniform(x, key, 1))


def test_the_mean_of_a_whole_number_is_not_rounded(monkeypatch):
    ranks = object.__new__(Torchrun)
    ranks.size = 2
    monkeypatch.setattr(ranks, "_call", lambda *_: None)  # which sums over ranks
    whole, flag, x = ranks.mean([torch.tensor(3), torch.tensor(True), torch.tensor(3.0, dtype=torch.float64)])
    assert (float(whole), float(flag), float(x)) == (1.5, 0.5, 1.5)
    assert x.dtype == torch.float64


@pytest.mark.slow
def test_metrics_are_averaged_by_name(tmp_path):
    run, _ = together(tmp_path / "two", "algo=ppo", "env=cartpole", "algo._target_=shuffled.Shuffled", ONE_UPDATE)
    (row,) = rows_of(run)
    assert (float(row["ones"]), float(row["twos"])) == pytest.approx((1, 2))


def test_processes_that_are_restarted_read_nothing_of_those_before(monkeypatch):
    kept = torch.distributed.HashStore()  # as torchrun's
    monkeypatch.setattr("torch.distributed.rendezvous", lambda _: iter([(kept, 0, 1)]))
    monkeypatch.setattr("torch.distributed.init_process_group", lambda *_, **__: None)
    for name, value in variables(0, 1).items():
        monkeypatch.setenv(name, value)
    first = Torchrun()
    with contextlib.suppress(ConfigError), first.reporting():
        raise ConfigError("a: b")
    assert "ended: ConfigError: a: b" in str(first._lost())
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    monkeypatch.setattr("rlexp.training.ranks.LAST_WORDS", 0.1)
    assert "without a word" in str(Torchrun()._lost())


def test_all_are_anchored_to_the_best_episode_whichever_process_found_it(tmp_path):
    seed = next(seed for seed in range(9) if best_of(seed, 4)[0] >= 2)  # of the second process
    words = ("algo=apo", "env.id=lots:Lots-v0", f"seed={seed}", EIGHT, "algo.anchor_coef=10")
    run, _ = together(tmp_path / "two", *words)
    memory = state_of(run)["algo"]["memory"]["arrays"]
    assert float(memory["returns"].max()) == pytest.approx(3 * best_of(seed, 4)[1])
    # the second process's half of the gradient would be another without it
    one = train(tmp_path / "one", *SIZES, *words)
    assert_close(run, weights_of(one), atol=2e-5)


@pytest.mark.slow
def test_a_run_goes_on_over_another_number_of_processes(tmp_path):
    for name, words in {"torch": ("env=cartpole",), "sync": ("env=cartpole", SYNC, "num_seeds=2")}.items():
        words = ("algo=apo", *words, EIGHT)
        whole = train(tmp_path / f"{name}-whole", *SIZES, *words)
        one_first, two_first = tmp_path / f"{name}-1-2", tmp_path / f"{name}-2-1"
        assert Process(make(one_first), *WORDS, *words, "stop_at=512", PYTHONPATH=SUPPORT).wait() == 0
        run, _ = together(one_first, *words)
        assert_close(run, weights_of(whole), atol=1e-4)
        assert len(state_of(run)["environments"]) == 2
        together(two_first, *words, "stop_at=512")
        assert record(jobs(two_first)[0])["status"] == "interrupted"
        assert Process(two_first, *WORDS, *words, PYTHONPATH=SUPPORT).wait() == 0
        assert_close(jobs(two_first)[0], weights_of(whole), atol=1e-4)


def make(folder):
    folder.mkdir()
    return folder


@pytest.mark.slow
def test_an_error_in_one_process_is_told_by_the_first(tmp_path):
    words = ("algo=ppo", "env.id=lots:BreaksOff-v0", "seed=1", "total_steps=1e5")
    assert best_of(1, 4)[0] == 3  # of the second process
    run, (first, second) = together(tmp_path / "two", *words, codes=(1, 1))
    told = record(run)
    assert told["status"] == "failed"
    assert "it broke" in told["error"]
    assert first.splitlines()[-1].startswith("rlexp: process 1 of 2 ended: EnvironmentFault: env.id=lots:BreaksOff-v0")
    assert "it broke" not in second


LEAVING = {
    "check": "ConfigError: algo.at=check: not on this machine",
    "observe": "ExitError: sys.exit(3) was called during the run",
}


@pytest.mark.parametrize("at", LEAVING)
def test_the_first_tells_why_another_has_left(tmp_path, at):
    words = ("algo=ppo", "env=cartpole", "algo._target_=leaving.Leaves", f"+algo.at={at}", EIGHT)
    _, (first, _) = together(tmp_path / "two", *words, codes=(1, 1))
    assert first.splitlines()[-1] == f"rlexp: process 1 of 2 ended: {LEAVING[at]}"


@pytest.mark.parametrize("question", [("--cfg", "job"), ("--cfg=job",), ("--help", "algo"), ("--info", "searchpath")])
def test_one_process_answers_what_trains_nothing(tmp_path, question):
    _, (first, second) = together(tmp_path / "two", *question)
    assert ("conf" if question[0] == "--info" else "minibatches") in first
    assert second == ""


class Noting(Ranks):
    """The first process, whose reports a test reads."""

    reporting = Torchrun.reporting

    def __init__(self):
        self.store = self

    def use(self, device):
        """Nothing to share."""

    def compare_set(self, key, expected, report):
        self.report = json.loads(report)


ENDS = {  # where, the error, what is reported of it: the error, the signal
    "checked": ("rlexp.build.check", ConfigError("a: b"), ("ConfigError: a: b", 0)),
    "exits": ("rlexp.build.check", SystemExit(3), ("SystemExit: 3", 0)),
    "locked": ("rlexp.jobs.job.Job.check_code", CheckpointError("c"), ("CheckpointError: c", 0)),
    "starts": ("rlexp.execute._record_start", StorageError("full"), ("StorageError: full", 0)),
    "trains": ("rlexp.training.trainer.Trainer.iterate", SystemExit(3), ("ExitError: sys.exit(3) was called", 0)),
    "stops": ("rlexp.training.trainer.Trainer.iterate", Interrupted(15), ("Interrupted: interrupted by SIGTERM", 15)),
    "another": ("rlexp.training.trainer.Trainer.iterate", RankError("of process 1"), None),
}


@pytest.mark.parametrize("when", ENDS)
def test_whatever_ends_a_process_is_reported_to_the_others(cli, monkeypatch, when):
    def end(*_, **__):
        raise error

    where, error, expected = ENDS[when]
    ranks = Noting()
    for name, value in variables(0, 1).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("rlexp.training.ranks.Torchrun", lambda: ranks)
    monkeypatch.setattr(where, end)
    with contextlib.suppress(ExitError):
        assert cli(*WORDS, "env=cartpole", ONE_UPDATE).code != 0
    report = vars(ranks).get("report")
    if expected is None:
        assert report is None
    else:
        assert report["error"].startswith(expected[0])
        assert report["signum"] == expected[1]


def test_one_process_killed_ends_the_run_which_one_process_resumes(tmp_path):
    words = ("algo=apo", "env=cartpole", SYNC, "total_steps=4096", "checkpoint_every=512")
    process = torchrun(tmp_path / "two", *words)
    wait_for_update(tmp_path / "two", 6, process)
    os.kill(rank_of(process, 1), signal.SIGKILL)
    assert process.wait(60) == 1
    (run,) = jobs(tmp_path / "two")
    assert record(run)["status"] == "failed"
    assert "another process of this run has ended" in record(run)["error"]
    done = state_of(run)["trainer"]["update_number"]
    assert 0 < done < 32
    again = Process(tmp_path / "two", *WORDS, *words, PYTHONPATH=SUPPORT)
    assert "resumed at" in again.communicate()
    whole = train(tmp_path / "whole", *SIZES, *words)
    assert_close(run, weights_of(whole), atol=1e-3)
    steps = [int(row["step"]) for row in rows_of(run)]
    assert len(steps) == 32
    assert sorted(set(steps)) == steps


def rank_of(process, rank):
    """The id of one of torchrun's processes."""
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True).stdout
    for pid in map(int, children.split()):
        with open(f"/proc/{pid}/environ", "rb") as file:
            if f"RANK={rank}".encode() in file.read().split(b"\0"):
                return pid
    raise AssertionError(children)


@pytest.mark.slow
def test_stopped_by_a_signal_it_is_saved_and_resumed_bit_for_bit(tmp_path):
    words = ("algo=apo", "env=cartpole", "num_seeds=2", "total_steps=8192")
    whole, _ = together(tmp_path / "whole", *words)
    process = torchrun(tmp_path / "two", *words)
    wait_for_update(tmp_path / "two", 6, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) != 0
    (run,) = jobs(tmp_path / "two")
    assert record(run)["status"] == "interrupted"
    assert 0 < state_of(run)["trainer"]["update_number"] < 64
    together(tmp_path / "two", *words)
    assert record(run)["status"] == "done"
    assert same(state_of(run)["learner"], state_of(whole)["learner"])


@pytest.mark.parametrize(("rank", "lines"), [(0, 1), (1, 0)])
def test_the_first_alone_tells_that_it_stops(monkeypatch, capfd, rank, lines):
    for name, value in variables(rank, 1).items():
        monkeypatch.setenv(name, value)
    StopSignal().receive(signal.SIGINT, sys._getframe())
    assert capfd.readouterr().err.count("stopping as soon as it is saved") == lines


@pytest.mark.slow
def test_a_signal_to_one_stops_all_at_the_same_update(tmp_path):
    words = ("algo=ppo", "env=cartpole", "total_steps=1e6", "evaluation.every=256", "evaluation.curve_episodes=2")
    for rank in range(2):
        processes = start(tmp_path / str(rank), *words)
        deadline = time.time() + 60
        while not any(rows_of(job) for job in jobs(tmp_path / str(rank))):
            assert time.time() < deadline
            time.sleep(0.02)
        processes[rank].send_signal(signal.SIGTERM)
        assert [process.wait() for process in processes] == [143, 143]
        assert record(jobs(tmp_path / str(rank))[0])["status"] == "interrupted"


@pytest.mark.slow
def test_a_longer_run_stays_close(tmp_path):
    words = ("algo=ppo", "env.id=probes:MatchingAction-v0", "total_steps=4096", COMPILE)
    run, _ = together(tmp_path / "two", *words)
    assert_close(run, weights_of(train(tmp_path / "one", *SIZES, *words)), atol=1e-3)


@pytest.mark.slow
def test_files_are_those_of_one_process(tmp_path):
    words = ("algo=ppo", "env=cartpole", EIGHT, "evaluation.episodes=2", "evaluation.every=256", "resume=never")
    kinds = []
    for number in range(2):  # the second in a folder with the next number
        together(tmp_path / "two", *words)
        assert len(jobs(tmp_path / "two")) == number + 1
    assert Process(make(tmp_path / "one"), *WORDS, *words, PYTHONPATH=SUPPORT).wait() == 0
    for name in ("one", "two"):
        run = jobs(tmp_path / name)[0]
        kinds.append(sorted(path.name.partition(".tfevents")[0] for path in run.rglob("*") if path.is_file()))
        assert len(rows_of(run)) == 8
    assert kinds[0] == kinds[1]
    assert record(jobs(tmp_path / "two")[0])["how"]["processes"]["value"] == 2
    _, (first, _) = together(tmp_path / "two", *words[:-1])
    assert "already done" in first


REFUSED = {
    ("env.num_envs=3",): "env.num_envs=3: 2 processes cannot share them equally; use 4, or another number of processes",
    (
        "env.num_envs=2",
        "algo.rollout_steps=3",
        "algo.minibatches=2",
    ): "algo.minibatches=2: 2 processes cannot share its minibatches of 3 rows equally",
    ("debug=true",): "debug=true: takes one process, these are 2; leave out torchrun, or debug",
    ("live=true",): "live=true: takes one process",
    ("profile=true",): "profile=true: takes one process",
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_several_processes_cannot_do_is_refused(words):
    cfg = make_config("algo=ppo", "env=cartpole", "total_steps=1e5", *words)
    build.check(cfg)
    with pytest.raises(ConfigError, match="^" + REFUSED[words].replace("(", r"\(")):
        build.check(cfg, 2)


TUNING = ("-m", "hydra/sweeper=optuna", "optimizer.lr=interval(1e-4,1e-2)")


def test_sweeps_and_other_commands_are_refused(cli, monkeypatch, capsys):
    from rlexp.commands import command

    for name, value in variables(0, 1).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("rlexp.training.ranks.Torchrun", Ranks)
    for words in (("-m", "seed=0,1"), ("hydra.mode=MULTIRUN",), ("experiment=apo_ablation",), TUNING):
        assert refusal(cli(*words)).startswith("rlexp: hydra.mode=MULTIRUN: 2 processes train one run together")
    with pytest.raises(SystemExit):
        command("rlexp.evaluate", "", print, ["run=x"])
    assert capsys.readouterr().err == "rlexp.evaluate: takes one process, and these are 2; leave out torchrun\n"
