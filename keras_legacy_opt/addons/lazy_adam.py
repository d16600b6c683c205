"""LazyAdam, which leaves alone what a sparse gradient has no rows for."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import tensorflow as tf

from keras_legacy_opt import hosts
from keras_legacy_opt.rules import adam
from keras_legacy_opt.rules import formula as f


@functools.cache
def _formula(amsgrad: bool) -> f.Formula:
    of_adam = adam.formula(amsgrad)
    assert of_adam.native is not None
    native = of_adam.native._replace(op=f"lazy_{of_adam.native.op}")
    return dataclasses.replace(of_adam, native=native, idle=f.Idle.NOTHING)


def _bias_corrected(c: f.Coefficients) -> tf.Tensor:
    """As Adam's kernel rounds it."""
    root = tf.sqrt(1 - c["beta_2_power"])
    return c["lr_t"] * root / (1 - c["beta_1_power"])


_DERIVED = {
    **adam.DERIVED,
    "lr": _bias_corrected,
    "neg_lr": lambda c: -c["lr"],
}


@hosts.public
class LazyAdam(adam.Adam):
    """Adam for embeddings: a sparse gradient costs what its rows cost.

    Dense gradients are applied as `keras_legacy_opt.Adam` applies them.  Of
    sparse ones only the rows are: neither do the slots `m`, `v` and, with
    `amsgrad`, `vhat` of other rows decay, nor do these rows move.  That is
    another algorithm than Adam, usually of the same quality, and its time does
    not depend on the size of the table.

    With `amsgrad`, tensorflow_addons ignores `vhat` where gradients are sparse;
    here its rows are updated and used.

    >>> opt = keras_legacy_opt.addons.LazyAdam(learning_rate=0.1)
    >>> table = tf.Variable([[1.0], [2.0], [3.0]])
    >>> grad = tf.IndexedSlices(tf.constant([[5.0]]), tf.constant([1]))
    >>> for _ in range(2):
    ...     _ = opt.apply_gradients([(grad, table)])
    >>> [round(value, 3) for value in table.numpy().ravel().tolist()]
    [1.0, 1.8, 3.0]

    Reference: [Kingma and Ba, 2014](https://arxiv.org/abs/1412.6980).
    """

    _declaration = dataclasses.replace(
        adam.Adam._declaration,
        formula=lambda optimizer: _formula(bool(optimizer.amsgrad)),
        derived=_DERIVED,
        variants=(_formula(False), _formula(True)),
    )

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_1: Any = 0.9,
        beta_2: Any = 0.999,
        epsilon: float | None = 1e-7,
        amsgrad: bool = False,
        name: str | None = "LazyAdam",
        **kwargs: Any,
    ):
        """Creates the optimizer; see `keras_legacy_opt.Adam`."""
        super().__init__(
            learning_rate, beta_1, beta_2, epsilon, amsgrad, name, **kwargs
        )
