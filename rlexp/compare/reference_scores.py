"""Reference scores of well-known environments: no skill, mastery, solved."""

# mean returns: of no skill (a random policy over 100 episodes, or the minimum); of mastery (the maximum, or PPO's
# published score); and the one that counts as solved, where there is a convention
SCORES: dict[str, tuple[float, float, float | None]] = {
    "CartPole-v1": (0, 500, 475),
    "Acrobot-v1": (-500, -70, -100),
    "MountainCar-v0": (-200, -100, -110),
    "MountainCarContinuous-v0": (-33, 95, 90),
    "Pendulum-v1": (-1208, -150, None),
    "LunarLander-v3": (-192, 250, 200),
    # mastery: CleanRL's PPO after a million steps on v4
    "HalfCheetah-v4": (-282, 1443, None),
    "HalfCheetah-v5": (-282, 1443, None),
    "Hopper-v4": (17, 2383, None),
    "Hopper-v5": (17, 2383, None),
    "Walker2d-v4": (2, 2288, None),
    "Walker2d-v5": (2, 2288, None),
}
