"""Variables that are arguments of a `tf.function`.

One trace serves each variable of a shape and dtype. Updates go to the one that
the function is called with, but slots are those of the variable it was traced
with: legacy trains the others with these, in silence.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from keras_legacy_opt import private_api
from keras_legacy_opt.state.base import OptimizerBase
from keras_legacy_opt.state.variables import var_key


def checks(
    optimizer: OptimizerBase, variables: Sequence[Any]
) -> list[tf.Operation]:
    """Ops that fail if the slots of a variable would be another's.

    Args:
      optimizer: the optimizer, which has created its slots.
      variables: what the function being traced is about to update.

    Raises:
      ValueError: if XLA compiles the function, or a variable is on a GPU:
        neither can check anything.
    """
    arguments = set(map(id, private_api.arguments_of_functions()))
    if not arguments:
        return []
    ops = []
    for variable in variables:
        if (
            isinstance(variable, tf.distribute.DistributedValues)
            or id(getattr(variable, "handle", None)) not in arguments
            or not optimizer._slots.get(var_key(variable))
        ):
            continue
        name = optimizer._known_variables.name(variable)
        # Of a GPU, TensorFlow has no op that tells one handle from another.
        where = "that XLA compiles" if private_api.compiled_by_xla() else None
        if where is None and "GPU:" in variable.device:
            where = "that updates it on a GPU"
        if where is not None:
            raise ValueError(
                f"Variable {name!r} is an argument of a function {where}."
                f" {type(optimizer).__name__} has slots for it, and the"
                " function would use them for any other variable, too: let the"
                " function take the variable from outside."
            )
        ops.append(_check(variable, name))
    return ops


def _check(variable: tf.Variable, name: str) -> tf.Operation:
    with tf.init_scope():
        traced_with = tf.raw_ops.SerializeTensor(tensor=variable.handle).numpy()
    given = tf.raw_ops.SerializeTensor(tensor=variable.handle)
    return tf.debugging.Assert(
        tf.equal(given, traced_with),
        [
            "A variable is an argument of a function that was traced with"
            f" another variable, {name!r}, whose slots the function updates."
            " Nothing was changed. Make one tf.function for each variable, or"
            " let it take the variables from outside."
        ],
    )
