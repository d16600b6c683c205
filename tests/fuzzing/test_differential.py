"""Whatever legacy is given, this package makes of it what legacy does.

A fixed number of cases, or `KERAS_LEGACY_OPT_FUZZ=N` times as many, and then
others in every run.
"""

import cases
import comparing
import hypothesis
import pytest

names = pytest.mark.parametrize("name", cases.ROWS)
NAMES = tuple(cases.ROWS)
FLOAT32_AND_64 = ("float32", "float64")


def examples(count):
    """How many cases a test draws."""
    return hypothesis.settings(
        max_examples=count * cases.TIMES,
        deadline=None,
        derandomize=cases.TIMES == 1,
        suppress_health_check=[hypothesis.HealthCheck.too_slow],
    )


def check(way, case, script=cases.script):
    """Compares; a difference is told with the Python that shows it."""
    try:
        is_comparable = way(case)
    except Exception as error:
        raise AssertionError(
            f"{error}\n\n{script(case, way.__name__)}"
        ) from error
    hypothesis.assume(is_comparable)


@names
@hypothesis.given(data=hypothesis.strategies.data())
@examples(40)
def test_eager(name, data):
    check(comparing.eager, data.draw(cases.cases([name])))


@names
@hypothesis.given(data=hypothesis.strategies.data())
@examples(25)
def test_native(native_ops, name, data):
    drawn = cases.cases([name], dtypes=FLOAT32_AND_64)
    check(comparing.native, data.draw(drawn))


@hypothesis.given(cases.cases())
@examples(20)
def test_function(case):
    check(comparing.function, case)


@hypothesis.given(cases.cases(alike=True))
@examples(20)
def test_graph(case):
    check(comparing.graph, case)


@hypothesis.given(cases.cases(kinds=False, alike=True))
@examples(8)
def test_xla_dense(case):
    check(comparing.xla, case)


@hypothesis.given(
    cases.cases(
        kinds=True,
        alike=True,
        elements=cases.ordinary,
        # The limits are those of the registry's arguments.
        any_arguments=False,
    )
)
@examples(8)
def test_xla_sparse(case):
    check(comparing.xla_within_limits, case)
