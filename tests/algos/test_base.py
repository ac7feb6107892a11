"""What any algorithm has: ranges that are checked, and jobs that differ."""

import pytest
from helpers import make_config
from strangers import algo

from rlexp import build, parts
from rlexp.algos.base import Algorithm
from rlexp.errors import ConfigError


def test_jobs_differ_in_what_is_too_long_to_be_told(tmp_path):
    one, same, other = (parts.build_algorithm(make_config(algo("Table"), f"+algo.k={k}")) for k in (1.0, 1.0, 50.0))
    Algorithm.side_by_side([one, same])
    with pytest.raises(ConfigError, match=r"algo\.table: is"):
        Algorithm.side_by_side([one, other])


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ("algo.max_grad_norm=0", r"algo\.max_grad_norm=0\.0: must be positive"),
        ("algo.target_kl=0", r"algo\.target_kl=0\.0: must be positive"),
        ("algo.target_kl=-1", r"algo\.target_kl=-1\.0: must be positive"),
    ],
)
def test_zero_is_not_positive(setting, line):
    with pytest.raises(ConfigError, match=line):
        build.check(make_config("algo=ppo", setting))
