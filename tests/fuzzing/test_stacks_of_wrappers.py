"""Whatever stack of wrappers, they compute what `wrapped.Model` composes.

As many cases as `test_differential` draws; a difference comes with its Python.
"""

import functools

import comparing_wrapped
import hypothesis
import pytest
import test_differential
import wrapped
from test_differential import examples

check = functools.partial(test_differential.check, script=wrapped.script)


@hypothesis.given(wrapped.cases())
@examples(40)
def test_eager(case):
    check(comparing_wrapped.eager, case)


@pytest.mark.usefixtures("native_ops")
@hypothesis.given(wrapped.cases(wrapped.ordinary))
@examples(25)
def test_native(case):
    check(comparing_wrapped.native, case)


@hypothesis.given(wrapped.cases(wrapped.ordinary))
@examples(3)
def test_function(case):
    check(comparing_wrapped.function, case)
