"""Conditional gradient (Frank-Wolfe), within a ball of a matrix norm."""

from __future__ import annotations

import functools
from typing import Any

import tensorflow as tf

from keras_legacy_opt import hosts
from keras_legacy_opt.rules import formula as f
from keras_legacy_opt.rules.declared import (
    DEFAULT_EPSILON,
    DeclaredOptimizer,
    declare,
)


def _direction(grad: tf.Tensor, epsilon: tf.Tensor) -> tf.Tensor:
    """The gradient, of Frobenius norm 1."""
    return grad / (tf.sqrt(tf.reduce_sum(tf.square(grad))) + epsilon)


def _top_singular_matrix(grad: tf.Tensor, epsilon: tf.Tensor) -> tf.Tensor:
    """Of the first singular vectors u and v, u v^T; in the gradient's shape."""
    del epsilon
    # Of a sparse gradient, a trace does not know how many rows there are.
    rows, columns = (-1, grad.shape[-1]) if grad.shape.rank > 1 else (1, -1)
    _, u, v = tf.linalg.svd(tf.reshape(grad, [rows, columns]))
    return tf.reshape(
        tf.matmul(u[:, :1], v[:, :1], transpose_b=True), tf.shape(grad)
    )


_CORNERS = {"fro": _direction, "nuclear": _top_singular_matrix}


def _update(
    state: f.State, grad: tf.Tensor, c: f.Coefficients, *, norm: str
) -> f.Changes:
    lr, corner = c["lr_t"], _CORNERS[norm](grad, c["epsilon"])
    step = (1 - lr) * c["lambda_"] * corner
    return {f.VARIABLE: state[f.VARIABLE] * lr - step, _UNUSED: state[_UNUSED]}


_UNUSED = "conditional_gradient"


@functools.cache
def _formula(norm: str) -> f.Formula:
    native = f.Native(
        "conditional_gradient",
        {},
        {"lr": "lr_t", "radius": "lambda_", **f.same("epsilon")},
    )
    return f.Formula(
        (_UNUSED,),
        functools.partial(_update, norm=norm),
        unused=(_UNUSED,),
        native=native if norm == "fro" else None,
    )


def _coefficients(
    optimizer: Any, dtype: tf.DType, c: f.Coefficients
) -> f.Coefficients:
    return {
        **f.hypers_of(optimizer, dtype, "lambda_"),
        "epsilon": tf.convert_to_tensor(optimizer.epsilon, dtype),
    }


@hosts.public
class ConditionalGradient(DeclaredOptimizer):
    """Conditional gradient: steps towards a corner of what is allowed.

    A step is

        w = learning_rate * w - (1 - learning_rate) * lambda_ * s

    so that a *small* learning rate makes large steps, and weights get and stay
    within `lambda_` of 0.  With `ord="fro"`, in the Frobenius norm, s is
    g / (norm(g) + epsilon); with `ord="nuclear"`, in the nuclear norm, u v^T,
    of the first singular vectors u and v of g.  There a scalar or vector is a
    matrix of one row, and what has more than two axes, which tensorflow_addons
    refuses, a matrix whose columns are the last one.

    Sparse gradients update their rows only; these are the matrix.  The slot
    `conditional_gradient` is not used, and is there for files, as in
    tensorflow_addons.  That refuses schedules; here they work.

    >>> opt = keras_legacy_opt.addons.ConditionalGradient(0.9, lambda_=5.0)
    >>> var = tf.Variable([3.0, 4.0])
    >>> _ = opt.minimize(lambda: tf.reduce_sum(var**2) / 2.0, [var])
    >>> [round(value, 4) for value in var.numpy().tolist()]
    [2.4, 3.2]

    Reference: [Ravi et al., 2018](https://arxiv.org/abs/1803.06453).
    """

    _HAS_AGGREGATE_GRAD = True
    _declaration = f.Rule(
        hypers=("learning_rate", "lambda_"),
        options={"epsilon": "epsilon", "ord": "ord"},
        formula=lambda optimizer: _formula(optimizer.ord),
        coefficients=_coefficients,
        variants=tuple(map(_formula, _CORNERS)),
    )

    def __init__(
        self,
        learning_rate: Any,
        lambda_: Any = 0.01,
        epsilon: float | None = 1e-7,
        ord: str = "fro",
        name: str | None = "ConditionalGradient",
        **kwargs: Any,
    ):
        """Creates the optimizer.

        Args:
          learning_rate: number, tensor, callable or schedule, within 0 and 1:
            what is left of the weights in a step.
          lambda_: number, tensor or callable: the largest norm.
          epsilon: number, added to a norm; 1e-7 if `None` or 0.
          ord: "fro" or "nuclear".
          name: name of the optimizer's variables.
          **kwargs: see `keras_legacy_opt.Optimizer`; there is no `decay`.

        Raises:
          ValueError: if `ord` is neither, or there is a `decay`.
        """
        if ord not in _CORNERS:
            raise ValueError(
                f'`ord` must be "fro" or "nuclear". Received: {ord!r}.'
            )
        super().__init__(name, **kwargs)
        declare(
            self,
            learning_rate=kwargs.get("lr", learning_rate),
            lambda_=lambda_,
            epsilon=epsilon or DEFAULT_EPSILON,
            ord=ord,
        )
