"""tensorflow-recommenders: `CompositeOptimizer`."""

import os
import tempfile

import recording
import tensorflow as tf
from tensorflow_recommenders.experimental.optimizers import (
    clippy_adagrad,
    composite_optimizer,
)

legacy = tf.keras.optimizers.legacy


def make(variables):
    table, *others = variables
    return composite_optimizer.CompositeOptimizer(
        [
            (legacy.Adagrad(0.1), lambda: [table]),
            (legacy.Adam(0.01), lambda: others),
        ]
    )


for kind in ("eager", "function"):
    variables = recording.make_variables()
    optimizer = make(variables)

    step = recording.minimizing(optimizer, recording.loss, variables)
    if kind == "function":
        step = tf.function(step)
    for _ in range(4):
        step()
    recording.record(kind, [*variables, *optimizer.get_weights()])

path = os.path.join(tempfile.mkdtemp(), "checkpoint")
path = tf.train.Checkpoint(optimizer=optimizer, variables=variables).save(path)
again = recording.make_variables()
restored = make(again)
status = tf.train.Checkpoint(optimizer=restored, variables=again).restore(path)
for _ in range(2):
    restored.minimize(lambda: recording.loss(again), again)
status.assert_consumed()
weights = sorted(restored.weights, key=lambda v: v.name.rpartition("/")[2])
recording.record("restored", [*again, *weights])  # As restored, in any order.

# A subclass of Keras' new optimizer, which has the base that it wants.
assert not issubclass(clippy_adagrad.ClippyAdagrad, legacy.Optimizer)
recording.write()
