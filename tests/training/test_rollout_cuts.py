"""Rollouts may be cut where one likes: a stream of steps is the same stream."""

import numpy as np
import pytest
import torch
from helpers import HandMade

from rlexp.algos.episode_memory import EpisodeMemory
from rlexp.algos.return_scaler import ReturnScaler
from rlexp.data import RunSpec
from rlexp.seeding import AgentStreams


def stream(steps=60, seed=0):
    """Rewards and ends (T, A=2, E=3) under next-step autoreset."""
    rng = np.random.default_rng(seed)
    done = np.zeros((steps, 2, 3), bool)
    for t in range(steps):
        done[t] = rng.random((2, 3)) < 0.3
        if t:
            done[t] &= ~done[t - 1]
    rewards = rng.integers(1, 5, (steps, 2, 3)).astype(float)
    rewards[1:][done[:-1]] = 0.0
    return rewards, done


CUTS = [(60,), (1,) * 60, (7, 13, 20, 20), (30, 30)]


def pieces(sizes):
    rewards, done = stream()
    make = HandMade(2, 3)
    ends = np.cumsum(sizes)
    return [make(rewards[end - size : end], done[end - size : end]) for size, end in zip(sizes, ends, strict=True)]


@pytest.mark.parametrize("sizes", CUTS[1:])
def test_episodes_are_the_same_wherever_rollouts_are_cut(sizes):
    def all_of(sizes):
        told, start = [], 0
        for size, rollout in zip(sizes, pieces(sizes), strict=True):
            e = rollout.episodes
            told += list(zip((e.ends + start).tolist(), e.agents, e.envs, e.returns, e.lengths, strict=True))
            start += size
        return told

    assert all_of(sizes) == all_of(CUTS[0])
    assert sum(r.steps for r in pieces(sizes)).tolist() == pieces(CUTS[0])[0].steps.tolist()


@pytest.mark.parametrize("sizes", CUTS[1:])
def test_the_return_scaler_sees_the_same_returns_wherever_rollouts_are_cut(sizes):
    def after(sizes):
        scaler = ReturnScaler(2, 3, 0.9, 10.0, torch.device("cpu"))
        running = []
        for rollout in pieces(sizes):
            scaler(rollout.rewards, rollout.terminated | rollout.truncated, rollout.weights)
            running.append(scaler.running.clone())
        return scaler, running

    whole, _ = after(CUTS[0])
    cut, running = after(sizes)
    torch.testing.assert_close(cut.running, whole.running)
    torch.testing.assert_close(cut.mean, whole.mean)
    torch.testing.assert_close(cut.var, whole.var)
    # an episode that ends with a rollout leaves nothing to the next
    for rollout, left in zip(pieces(sizes), running, strict=True):
        ended = (rollout.terminated | rollout.truncated)[:, -1]
        assert (left[ended] == 0).all()
    assert sum(int((r.terminated | r.truncated)[:, -1].sum()) for r in pieces(sizes)) > 0


@pytest.mark.parametrize("sizes", CUTS[1:])
@pytest.mark.parametrize("max_steps", [64, 4])
def test_the_memory_keeps_the_same_episode_wherever_rollouts_are_cut(sizes, max_steps):
    def after(sizes):
        streams = [AgentStreams.make(k, torch.device("cpu")) for k in range(2)]
        memory = EpisodeMemory(RunSpec(2, 3, streams, torch.device("cpu")), max_steps=max_steps)
        for rollout in pieces(sizes):
            memory.add(rollout)
        return memory

    whole, cut = after(CUTS[0]), after(sizes)
    for name in ("scores", "returns", "lengths", "counts", "mean"):
        assert np.array_equal(getattr(whole, name), getattr(cut, name)), name
    if max_steps == 64:  # of longer episodes a sample is kept, drawn in another order
        for agent in range(2):
            rows = slice(0, int(whole.counts[agent, 0]))
            assert torch.equal(whole.kept["obs"][agent, rows], cut.kept["obs"][agent, rows])
