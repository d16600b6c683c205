"""What legacy has not runs alike eagerly, in functions and in TF1 graphs.

`test_parity` compares the others with legacy in each of these ways.
"""

import numpy as np
import pytest
import stepping
from registry import ADDONS, SUBJECT, WRAPPERS, own_cases

from keras_legacy_opt import addons

WAYS = {
    "function": stepping.run_in_function,
    "graph": stepping.run_in_graph,
}
CASES = own_cases((*ADDONS, *WRAPPERS))


@pytest.mark.usefixtures("plain_path")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_as_eager(case, way):
    problem = stepping.problem(str(case), "float64", "mixed")
    expected = stepping.run_eagerly(lambda: case.build(SUBJECT), *problem)
    ours = WAYS[way](lambda: case.build(SUBJECT), *problem)
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


@pytest.mark.usefixtures("plain_path")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["LAMB", "LARS"])
def test_what_is_excluded(name, way):
    """Of one kernel, by a coefficient that is 0 for some variables."""

    def make():
        return getattr(addons, name)(
            0.1, exclude_from_layer_adaptation=["vector", "table"]
        )

    problem = stepping.problem(name, "float64", "mixed")
    expected = stepping.run_eagerly(make, *problem)[0]
    ours = WAYS[way](make, *problem)[0]
    for key, value in expected.items():
        np.testing.assert_allclose(ours[key], value, rtol=1e-12, err_msg=key)
