"""What a rollout says of the observations after its steps, and of the rewards that the learner sees."""

import torch
from helpers import make_trainer


def rollouts(folder, *settings, updates=2):
    trainer = make_trainer(folder, *settings)
    seen = []
    observe = trainer.algo.observe

    def keep(rollout):
        names = ("obs", "next_obs", "rewards", "learner_rewards", "terminated", "truncated", "weights")
        seen.append({name: getattr(rollout, name).clone() for name in names})
        return observe(rollout)

    trainer.algo.observe = keep
    for _ in range(updates):
        trainer.iterate()
    trainer._close()
    return seen


def test_next_observations_are_those_of_the_next_row_and_of_the_next_rollout(tmp_path):
    first, second = rollouts(tmp_path, "algo.rollout_steps=16", "env.num_envs=2")
    torch.testing.assert_close(first["next_obs"][:, :-1], first["obs"][:, 1:])
    torch.testing.assert_close(first["next_obs"][:, -1], second["obs"][:, 0])


def test_the_final_observation_of_an_episode_is_the_next_one(tmp_path):
    # CartPole ends where |angle| > 0.2095 or |position| > 2.4: the final observation is out of bounds, a first one not
    (rollout,) = rollouts(tmp_path, "algo.rollout_steps=128", "env.num_envs=2", updates=1)
    final = rollout["next_obs"][rollout["terminated"]]
    assert len(final) > 2
    assert ((final[:, 2].abs() > 0.2094) | (final[:, 0].abs() > 2.4)).all()


def test_learner_rewards_are_scaled_and_rewards_are_raw(tmp_path):
    (rollout,) = rollouts(tmp_path, "env.normalize_reward=true", "algo.rollout_steps=32", updates=1)
    weight = rollout["weights"] > 0
    assert (rollout["rewards"][weight] == 1).all()
    assert (rollout["learner_rewards"][weight] != 1).all()
    scale = rollout["learner_rewards"][weight]
    assert (scale == scale[0]).all()  # one factor for a rollout
