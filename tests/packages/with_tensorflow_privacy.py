"""tensorflow-privacy: classes made of given ones, with other gradients."""

import numpy as np
import recording
import tensorflow as tf
from tensorflow_privacy.privacy.optimizers import (
    dp_optimizer_keras,
    dp_optimizer_keras_sparse,
    dp_optimizer_keras_vectorized,
)

ARGUMENTS = {"l2_norm_clip": 0.5, "num_microbatches": 2}


def train(cls, name, **arguments):
    def make():
        return cls(**{**ARGUMENTS, "noise_multiplier": 0.0, **arguments})

    recording.train(name, make, loss=recording.losses, dense=True)


for cls, arguments in (
    (
        dp_optimizer_keras.DPKerasSGDOptimizer,
        {"learning_rate": 0.1, "momentum": 0.9},
    ),
    (dp_optimizer_keras.DPKerasAdamOptimizer, {"learning_rate": 0.01}),
    (dp_optimizer_keras.DPKerasAdagradOptimizer, {"learning_rate": 0.1}),
    (
        dp_optimizer_keras_vectorized.VectorizedDPKerasSGDOptimizer,
        {"learning_rate": 0.1},
    ),
    (
        dp_optimizer_keras_vectorized.VectorizedDPKerasAdamOptimizer,
        {"learning_rate": 0.01},
    ),
):
    train(cls, cls.__name__, **arguments)
train(
    dp_optimizer_keras.DPKerasAdamOptimizer,
    "accumulating",
    learning_rate=0.01,
    gradient_accumulation_steps=2,
)
train(
    dp_optimizer_keras_sparse.DPSparseKerasAdamOptimizer,
    "sparse",
    learning_rate=0.01,
)
train(
    dp_optimizer_keras.make_keras_optimizer_class(
        tf.keras.optimizers.legacy.RMSprop
    ),
    "RMSprop",
    learning_rate=0.01,
)

# With noise: the same numbers, if it is drawn as often.
tf.random.set_seed(1)
variables = recording.make_variables()[1:]
optimizer = dp_optimizer_keras.DPKerasSGDOptimizer(
    **ARGUMENTS, noise_multiplier=0.7, learning_rate=0.1
)
for _ in range(3):
    optimizer.minimize(
        lambda: recording.losses([tf.ones([6, 2]), *variables]), variables
    )
recording.record("noise", variables)

# In `fit`, which needs one line more in Keras 3.
inputs = np.arange(32, dtype="float32").reshape(8, 4) / 32
model = tf.keras.Sequential(
    [tf.keras.layers.InputLayer((4,)), tf.keras.layers.Dense(1)]
)
model.set_weights([np.full((4, 1), 0.25), np.zeros(1)])
if recording.IS_KERAS_3:
    import keras_legacy_opt

    model = keras_legacy_opt.with_minimize(model)
model.compile(
    dp_optimizer_keras.DPKerasSGDOptimizer(
        l2_norm_clip=0.25, noise_multiplier=0.0, learning_rate=0.5
    ),
    tf.keras.losses.MeanSquaredError(reduction="none"),
)
model.fit(
    inputs,
    inputs.sum(axis=1, keepdims=True),
    batch_size=4,
    epochs=2,
    shuffle=False,
    verbose=0,
)
recording.record("fit", model.get_weights())
recording.write()
