"""Sweeps that are tiny, and what is looked at in them."""

from helpers import SUPPORT, jobs
from process import Process

TINY = (
    "-m",
    "study=s",
    "tuned=none",
    "progress=none",
    "evaluation.episodes=0",
    "compile=false",
    "network.torso.hidden=[8]",
)
QUICK = ("total_steps=256", "env.num_envs=2", "algo.rollout_steps=32")


def start(folder, *words, **environment):
    return Process(folder, *TINY, *words, PYTHONPATH=SUPPORT, **environment)


def named(part, folder="."):
    (job,) = [job for job in jobs(folder) if part in job.name]
    return job
