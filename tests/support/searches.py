"""Search spaces as they are typed, and what refuses them."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.distributions import FloatDistribution

from rlexp.errors import ConfigError
from rlexp.sweep.tune.space import space

PARSER = OverridesParser.create()


PLANE = {"x": FloatDistribution(-10, 10), "y": FloatDistribution(-10, 10)}


def searched(*overrides):
    return space(overrides, PARSER)[0]


def refusal(function, *args, **kwargs):
    with pytest.raises(ConfigError) as error:
        function(*args, **kwargs)
    assert "\n" not in str(error.value)
    return str(error.value)
