"""What wrappers do in eager steps that are planned, beside those inside."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import tensorflow as tf

Moving = Callable[[Mapping[tf.DType, tf.Tensor]], AbstractContextManager[Any]]


class Around(NamedTuple):
    """What a wrapper does around the steps of one optimizer.

    Attributes:
      inside: that optimizer.
      slots: the names of the wrapper's own slots.
      is_due: whether it has to do in this step what nothing here says; None:
        it never has.  It changes nothing.
      average: that of its slots which updates move towards the variable, where
        they do.
      weight: function from a dtype to the weight of the variable in it.
      moving: function of weights by dtype: a context, in which steps inside
        move the averages.
      sum: that of its slots to which gradients are added, where that is all,
        and there is no step inside.
      count: int64 variable, the number of steps that have been added up.
      remembered: by the keys of variables, what it knows of them.
    """

    inside: Any
    slots: tuple[str, ...] = ()
    is_due: Callable[[], Any] | None = None
    average: str | None = None
    weight: Callable[[tf.DType], tf.Tensor] | None = None
    moving: Moving = contextlib.nullcontext
    sum: str | None = None
    count: Any = None
    remembered: Mapping[str, Any] | None = None
