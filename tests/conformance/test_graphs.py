"""What legacy has not runs in TF1 graphs as it does eagerly.

`test_parity` compares the others with legacy there, and `test_no_retrace` has
all of them in functions.
"""

import numpy as np
import pytest
import stepping
from registry import ADDONS, SUBJECT, WRAPPERS, own_cases

from keras_legacy_opt import addons

pytestmark = pytest.mark.usefixtures("plain_path")


def assert_as_eager(make, problem):
    expected = stepping.run_eagerly(make, *problem)
    ours = stepping.run_in_graph(make, *problem)
    for step, (our, their) in enumerate(zip(ours, expected, strict=True)):
        assert {*our} == {*their}
        for name, value in their.items():
            # Grappler may rearrange what is multiplied.
            scale = np.abs(value).max(initial=1e-30)
            np.testing.assert_allclose(
                our[name],
                value,
                rtol=0,
                atol=1e-12 * scale * (step + 1),
                err_msg=f"{name} after step {step + 1}",
            )


@pytest.mark.parametrize("case", own_cases((*ADDONS, *WRAPPERS)), ids=str)
def test_as_eager(case):
    problem = stepping.problem(str(case), "float64", "mixed")
    assert_as_eager(lambda: case.build(SUBJECT), problem)


@pytest.mark.parametrize("name", ["LAMB", "LARS"])
def test_what_is_excluded(name):
    """By a coefficient that is 0 for some variables."""

    def make():
        return getattr(addons, name)(
            0.1, exclude_from_layer_adaptation=["vector", "table"]
        )

    initial, gradients = stepping.problem(name, "float64", "mixed")
    assert_as_eager(make, (initial, gradients[:2]))
