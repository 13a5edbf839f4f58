"""The small residual task that tests of exports and gates share: its model, activation ranges and integer reference."""

import export_models as models
import pytest

from tsn_toolkit.quantizers.activations import build_integer_model, calibrate_ranges


@pytest.fixture(scope="module")
def task():
    return models.extracted_of(models.ResidualNet())


@pytest.fixture(scope="module")
def ranges(task):
    return calibrate_ranges(task.model, task.q, task.scale, [models.inputs(64)])


@pytest.fixture(scope="module")
def reference(task, ranges):
    return build_integer_model(task.model, task.q, task.scale, models.inputs(1), ranges=ranges)
