"""What several test files need: composed configs, trainers without a command line, a rollout made by hand."""

import csv
import json
import math
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium.spaces import Discrete
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

import rlexp.train  # noqa: F401  (registers the schema and the resolvers)
from rlexp import build, execute
from rlexp.config.schema import CONF_DIR
from rlexp.data import Batch, Rollout, finished_episodes
from rlexp.jobs.job import Job
from rlexp.networks.distributions import Categorical
from rlexp.signals import Interrupted
from rlexp.training.profiling import Profiled

# eager, as compiling takes longer than most tests; RLEXP_TEST_COMPILE=true scripts/test ... runs them compiled
COMPILE = f"compile={os.environ.get('RLEXP_TEST_COMPILE', 'false')}"
# PYTHONPATH of processes: what lies here, and the rlexp that is tested, whichever is installed
SUPPORT = os.pathsep.join([str(Path(__file__).parent), str(Path(build.__file__).parents[1])])
TINY = ("study=tests", "progress=none", "tuned=none", "evaluation.episodes=0", COMPILE)


def compose_config(*words):
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return compose("config", list(words))


def make_config(*overrides):
    return compose_config(*TINY, *overrides)


def make_jobs(folder: Path, *overrides, own=((),)):
    """One job, or with `own` overrides of several each of those, in folders of their own."""
    jobs = []
    for number, mine in enumerate(own):
        job = Job(make_config(*overrides, *mine), folder / str(number) if len(own) > 1 else folder)
        build.check(job.cfg)
        job.folder.mkdir(parents=True, exist_ok=True)
        jobs.append(job)
    return jobs


def make_trainer(folder: Path, *overrides, own=((),)):
    return trainer_of(make_jobs(folder, *overrides, own=own))


def trainer_of(jobs):
    return execute.make_trainer(jobs)[0]


def write_config(folder: Path, *overrides):
    """What `rlexp.train` leaves for those who load the run."""
    (folder / ".hydra").mkdir()
    (folder / ".hydra" / "config.yaml").write_text(OmegaConf.to_yaml(make_config(*overrides), resolve=True))


def train(folder: Path, *overrides, resume=False, own=((),)):
    jobs = make_jobs(folder, *overrides, own=own)
    trainer = trainer_of(jobs)
    trainer.train(resume, Profiled(trainer, jobs[0].folder) if jobs[0].cfg.profile else None)
    return trainer


def stop_after(trainer, updates):
    """A signal arrives during the given update."""
    iterate = trainer.iterate

    def once_more():
        iterate()
        if trainer.update_number == updates:
            signal.raise_signal(signal.SIGTERM)

    trainer.iterate = once_more


def jobs(folder="."):
    return sorted(path for path in Path(folder).glob("outputs/*/[!.]*") if path.is_dir())


def status(job):
    return record(job)["status"]


def record(job):
    return json.loads((job / "run.json").read_text())


def curves(folder):
    """Rows of each job's metrics.csv, by its name, less what the clock decides."""
    found = {}
    for job in jobs(folder):
        with open(job / "metrics.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        found[job.name] = [{k: v for k, v in row.items() if k not in ("wall_time", "steps_per_second")} for row in rows]
    return found


def records(folder):
    header, *rows = (folder / "metrics.csv").read_text().splitlines()
    skip = [header.split(",").index(name) for name in ("wall_time", "steps_per_second")]
    return [header, *([v for i, v in enumerate(row.split(",")) if i not in skip] for row in rows)]


def state_of(run):
    return torch.load(run / "checkpoint.pt", weights_only=True)


def same(ours, theirs):
    if isinstance(theirs, dict):
        return ours.keys() == theirs.keys() and all(same(ours[key], theirs[key]) for key in theirs)
    if isinstance(theirs, list):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    return torch.equal(ours, theirs) if isinstance(theirs, torch.Tensor) else ours == theirs


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


def refusal(result):
    assert result.code == 1
    assert result.err.count("\n") == 1
    return result.err


def weights_of(trainer):
    return trainer.learner.tensors()


def last_metrics(folder: Path, seed: int = 0) -> dict[str, float]:
    header, *rows = (folder / "metrics.csv").read_text().splitlines()
    row = [r for r in rows if r.startswith(f"{seed},")][-1]
    return {k: float(v) for k, v in zip(header.split(","), row.split(","), strict=True) if v}


class AsObserved(torch.nn.Module):
    """A network whose observations are what it makes of them: logits of two actions, and the value."""

    distribution = Categorical(Discrete(2))

    def forward(self, obs, actor_only=False):
        return obs[..., :2], None if actor_only else obs[..., 2]


def make_batch(**fields):
    """Rows of a minibatch, as a loss sees them; each field is a list or a tensor of as many rows as the others.

    Those left out are of a policy of two actions, as likely one as the other, that took the first, of whose value
    nothing is known and that found nothing better or worse than expected. Every row has weight.
    """
    given = {name: x if name in ("replay", "key") else torch.as_tensor(x) for name, x in fields.items()}
    rows = next(len(x) for name, x in given.items() if name not in ("replay", "key"))
    zeros = torch.zeros(rows)
    defaults = {
        "obs": torch.zeros(rows, 3),
        "actions": torch.zeros(rows, dtype=torch.int64),
        "dist_params": torch.zeros(rows, 2),
        "log_probs": torch.full((rows,), math.log(0.5)),
        "values": zeros,
        "advantages": zeros,
        "returns": zeros,
        "weights": torch.ones(rows),
    }
    return Batch(**(defaults | given))


def for_one_agent(algo):
    """The algorithm as an agent's loss sees it at the start of training: numbers in place of schedules."""
    return algo.bind({name: x[0] for name, x in algo.coefficients(0.0, 1, torch.device("cpu")).items()})


class HandMade:
    """Rollouts of scalar observations from rewards and dones written down as (T, A, E) arrays, one after the other."""

    def __init__(self, agents=1, envs=1):
        self.open_returns = np.zeros((agents, envs))
        self.open_lengths = np.zeros((agents, envs), np.int64)
        self.prev_done = np.zeros((agents, envs), bool)
        self.clock = 0.0

    def __call__(self, rewards, done) -> Rollout:
        rewards = np.asarray(rewards, np.float32)
        done = np.asarray(done, bool)
        dummy = np.concatenate([self.prev_done[None], done[:-1]])
        self.prev_done = done[-1]
        open_lengths = self.open_lengths
        episodes, self.open_returns, self.open_lengths = finished_episodes(
            rewards, done, dummy, self.open_returns, open_lengths
        )
        # every observation is its own time stamp, so that a test sees which rows were kept
        stamps = self.clock + np.arange(rewards.size, dtype=np.float32).reshape(rewards.shape)
        self.clock += rewards.size

        def by_agent(x):
            return torch.from_numpy(np.ascontiguousarray(np.swapaxes(x, 0, 1)))

        obs = by_agent(stamps)[..., None]
        return Rollout(
            obs=obs,
            next_obs=obs + obs.shape[0] * obs.shape[2],
            actions=obs[..., 0].long(),
            dist_params=torch.cat([obs, -obs], -1),
            log_probs=torch.zeros(obs.shape[:3]),
            values=torch.zeros(obs.shape[:3]),
            rewards=by_agent(rewards),
            learner_rewards=by_agent(rewards),
            terminated=by_agent(done),
            truncated=torch.zeros(obs.shape[:3], dtype=torch.bool),
            weights=by_agent(~dummy).float(),
            last_values=torch.zeros(obs.shape[0], obs.shape[2]),
            steps=(~dummy).sum((0, 2)),
            dummy_first=dummy[0],
            open_lengths=open_lengths,
            episodes=episodes,
            games=episodes,
        )


def resumed(folder, *settings, after=3):
    first = make_trainer(folder, *settings)
    stop_after(first, after)
    with pytest.raises(Interrupted):
        first.train(False)
    return train(folder, *settings, resume=True)


def have_same_weights(a, b):
    return all(torch.equal(x, weights_of(b)[name]) for name, x in weights_of(a).items())
