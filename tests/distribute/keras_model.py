"""A small model with an embedding, of either Keras, and its data."""

import keras
import numpy as np
import tensorflow as tf
import tf_keras

KERAS = {"keras 3": keras, "tf_keras": tf_keras}
BATCH = 8
EXAMPLES = 32


def data():
    rng = np.random.default_rng(3)
    tokens = rng.integers(0, 12, (EXAMPLES, 3)).astype("int32")
    targets = rng.standard_normal((EXAMPLES, 1)).astype("float32")
    return tokens, targets


def dataset():
    """Batches that every worker takes its part of."""
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = (
        tf.data.experimental.AutoShardPolicy.DATA
    )
    batches = tf.data.Dataset.from_tensor_slices(data()).batch(BATCH)
    return batches.with_options(options)


def make(host):
    """A model with the same initial weights every time."""
    layers = KERAS[host].layers
    KERAS[host].utils.set_random_seed(4)
    return KERAS[host].Sequential(
        [
            layers.Input((3,), dtype="int32"),
            layers.Embedding(12, 4),
            layers.Flatten(),
            layers.Dense(6, activation="tanh"),
            layers.Dense(1),
        ]
    )


def fitted_weights(host, strategy, make_optimizer, optimizer_in_scope=True):
    """The weights after `fit`."""
    optimizer = None if optimizer_in_scope else make_optimizer()
    with strategy.scope():
        model = make(host)
        model.compile(optimizer or make_optimizer(), "mse")
    model.fit(dataset(), epochs=2, verbose=0, shuffle=False)
    return model.get_weights()


def replica_step_of(model, optimizer):
    """One step of a replica, as a function of its part of the batch."""

    def replica_step(batch):
        tokens, targets = batch
        with tf.GradientTape() as tape:
            error = tf.square(model(tokens, training=True) - targets)
            loss = tf.reduce_sum(error) / BATCH
        grads = tape.gradient(loss, model.trainable_variables)
        pairs = zip(grads, model.trainable_variables)  # noqa: B905 AutoGraph
        optimizer.apply_gradients(pairs)

    return replica_step


def looped_weights(host, strategy, make_optimizer):
    """The weights after a custom loop with `strategy.run`."""
    with strategy.scope():
        model = make(host)
        optimizer = make_optimizer()
    replica_step = replica_step_of(model, optimizer)

    @tf.function
    def step(batch):
        strategy.run(replica_step, args=(batch,))

    for _ in range(2):
        for batch in strategy.experimental_distribute_dataset(dataset()):
            step(batch)
    return model.get_weights()
