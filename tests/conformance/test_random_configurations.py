"""Optimizers equal legacy's with any hyperparameters, shapes and gradients.

On TensorFlow's kernels, to the bit; for the native ops see tests/fused.
"""

import hypothesis
import numpy as np
import pytest
import stepping
from configurations import HYPERPARAMETERS, SHARED, arguments, problems
from hypothesis import strategies as st
from registry import BUILT_IN, LEGACY, SUBJECT

from keras_legacy_opt import fused


@pytest.mark.parametrize("name", [row.name for row in BUILT_IN])
@hypothesis.given(data=st.data(), problem=problems())
@hypothesis.settings(max_examples=25, deadline=None, derandomize=True)
def test_random_configurations(name, data, problem):
    chosen = data.draw(arguments(name))
    with fused.disabled():
        ours, legacy = (
            stepping.run_eagerly(
                lambda optimizers=library.optimizers: getattr(optimizers, name)(
                    **chosen
                ),
                *problem,
            )
            for library in (SUBJECT, LEGACY)
        )
    for our, their in zip(ours, legacy, strict=True):
        assert list(our) == list(their)
        for key, value in their.items():
            np.testing.assert_array_equal(our[key], value, err_msg=key)


def test_all_hyperparameters_are_random():
    for row in BUILT_IN:
        optimizer = getattr(SUBJECT.optimizers, row.name)()
        known = {*optimizer.get_config(), "schedule_decay"} - {"name"}
        assert known >= HYPERPARAMETERS[row.name].keys()
        assert known <= {
            *HYPERPARAMETERS[row.name],
            *SHARED,
            "schedule_decay",
        }
