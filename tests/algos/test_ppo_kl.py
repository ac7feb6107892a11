"""PPO with a KL penalty."""

import pytest
from helpers import make_config

from rlexp import build
from rlexp.errors import ConfigError


def test_a_target_of_zero_is_no_target_of_ppo_kl():
    with pytest.raises(ConfigError, match=r"algo\.kl_target=0\.0: must be positive"):
        build.check(make_config("algo=ppo_kl", "algo.kl_target=0"))
