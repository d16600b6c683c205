"""A small problem to train on, and what the programs here record.

A program trains with a package's optimizers, by whatever names the package
looks for, and ends with `write()`: the file is compared with that of another
process.
"""

import sys

import numpy as np
import tensorflow as tf

IS_KERAS_3 = tf.keras.layers.__name__.startswith("keras.")
_records = {}


def record(name, values):
    """Keeps arrays, or the weights of models or optimizers, to be compared."""
    for i, value in enumerate(values):
        _records[f"{name}/{i}"] = np.array(value)


def write():
    """Writes all that was recorded to the file that the program was given."""
    assert all(np.isfinite(array).all() for array in _records.values())
    np.savez(sys.argv[1], **_records)


def make_variables():
    """A table, whose gradient is sparse, a kernel and a bias."""
    rng = np.random.default_rng(0)
    shapes = {"table": (6, 2), "kernel": (2, 3), "bias": (3,)}
    return [
        tf.Variable(rng.uniform(-0.5, 0.5, shape).astype("float32"), name=name)
        for name, shape in shapes.items()
    ]


def losses(variables):
    """The loss of each of four examples."""
    table, kernel, bias = variables
    rows = tf.gather(table, [0, 2, 2, 5])
    targets = tf.constant(np.arange(12.0).reshape(4, 3) / 4, tf.float32)
    outputs = tf.tanh(rows @ kernel + bias)
    return tf.reduce_mean((outputs - targets) ** 2, axis=1)


def loss(variables):
    return tf.reduce_mean(losses(variables))


def minimizing(optimizer, loss, variables, trained=None, **arguments):
    """A step, which has the variables without taking them as arguments."""

    def step():
        optimizer.minimize(
            lambda: loss(variables), trained or variables, **arguments
        )

    return step


def train(name, make_optimizer, steps=6, loss=loss, dense=False, **arguments):
    """Trains eagerly and in a function, and records variables and weights.

    Args:
      name: of the records.
      make_optimizer: a function without arguments.
      steps: how many.
      loss: the loss, a function of the variables.
      dense: whether to leave out the table and its sparse gradient.
      **arguments: of `minimize`.

    Returns:
      The optimizer of the function.
    """
    for kind in ("eager", "function"):
        variables = make_variables()
        trained = variables[1:] if dense else variables
        optimizer = make_optimizer()

        step = minimizing(optimizer, loss, variables, trained, **arguments)
        if kind == "function":
            step = tf.function(step)
        for _ in range(steps):
            step()
        record(f"{name}/{kind}/variables", variables)
        record(f"{name}/{kind}/weights", optimizer.get_weights())
    return optimizer
