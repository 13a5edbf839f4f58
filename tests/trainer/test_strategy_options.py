"""Every option of every strategy is described once, where `tsn strategies show` finds it."""

import re
from collections import Counter

import pytest
from pydantic import ValidationError

from tsn_toolkit import registry
from tsn_toolkit.trainer.strategy_options import StrategyOptions

NAMES = registry.names("tsn_toolkit.strategies")


@pytest.mark.parametrize("name", NAMES)
def test_every_option_is_described_once(name):
    config = registry.load("tsn_toolkit.strategies", name).Config
    texts = [owner.__doc__ or "" for owner in config.__mro__ if owner.__module__.startswith("tsn_toolkit.")]
    lines = re.findall(r"^        (\w+(?:, \w+)*): ", "\n".join(texts), re.MULTILINE)
    described = Counter(option for names in lines for option in names.split(", "))
    assert described == Counter(list(config.model_fields))


@pytest.mark.parametrize("name", NAMES)
def test_options_have_the_common_ones_are_frozen_and_refuse_unknown_keys(name):
    config = registry.load("tsn_toolkit.strategies", name).Config
    assert issubclass(config, StrategyOptions) and config().calibration_batches == 16
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        config(calibration_batchs=3)
    with pytest.raises(ValidationError, match="frozen"):
        config().min_gain = 1.0
