"""Classify handwritten digits with one legacy Adam in three training loops.

The same small convolutional network is trained with Keras 3 `fit`, with
tf_keras `fit` and with a GradientTape loop over bare variables, from the same
initial weights and on the same batches.  All three have to reach the accuracy
goal and to end with equal losses.
"""

import argparse
import functools
import sys
import time

import keras
import numpy as np
import tensorflow as tf
import tf_keras
from common import digits, positive

import keras_legacy_opt

BATCH = 32
ACCURACY_GOAL = 0.96
# The largest relative difference between the final training losses.  The steps
# are the same to the bit, but each loop averages the losses in its own way.
LOSS_BOUND = 1e-6


def make_optimizer():
    return keras_legacy_opt.Adam(learning_rate=1e-2, decay=1e-3)


def make_weights(rng):
    """Return kernel and bias of the convolution and of the output layer."""

    def glorot(*shape):
        receptive = int(np.prod(shape[:-2]))
        limit = np.sqrt(6 / (receptive * (shape[-2] + shape[-1])))
        return rng.uniform(-limit, limit, shape).astype(np.float32)

    def zeros(size):
        return np.zeros(size, np.float32)

    return [
        glorot(3, 3, 1, 32),
        zeros(32),
        glorot(3 * 3 * 32, 10),
        zeros(10),
    ]


def train_with_fit(host, weights, batches, steps, epochs, x_test):
    """Train with the `fit` of Keras 3 or tf_keras."""
    layers = host.layers
    model = host.Sequential(
        [
            layers.Input((8, 8, 1)),
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dense(10),
        ]
    )
    model.set_weights(weights)
    model.compile(
        optimizer=make_optimizer(),
        loss=host.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    history = model.fit(
        batches,
        epochs=epochs,
        steps_per_epoch=steps,
        shuffle=False,
        verbose=0,
    )
    predicted = model.predict(x_test, verbose=0)
    return history.history["loss"], model.get_weights(), predicted


def train_with_tape(weights, batches, steps, epochs, x_test):
    """Train bare variables in a loop of one's own."""
    variables = [tf.Variable(w) for w in weights]
    conv_kernel, conv_bias, out_kernel, out_bias = variables
    optimizer = make_optimizer()

    def logits(x):
        x = tf.nn.conv2d(x, conv_kernel, strides=1, padding="VALID")
        x = tf.nn.relu(tf.nn.bias_add(x, conv_bias))
        x = tf.nn.max_pool2d(x, ksize=2, strides=2, padding="VALID")
        x = tf.reshape(x, (-1, 3 * 3 * 32))
        return tf.nn.bias_add(x @ out_kernel, out_bias)

    @tf.function
    def step(x, y):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(
                tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits(x))
            )
        optimizer.minimize(loss, variables, tape=tape)
        return loss

    losses = []
    iterator = iter(batches)
    for _ in range(epochs):
        epoch = [step(*next(iterator)) for _ in range(steps)]
        losses.append(float(tf.reduce_mean(epoch)))
    return losses, [v.numpy() for v in variables], logits(x_test).numpy()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=positive, default=20)
    args = parser.parse_args()

    x_train, x_test, y_train, y_test = digits()
    x_train, x_test = x_train / 16, x_test / 16
    rng = np.random.default_rng(0)
    weights = make_weights(rng)
    order = np.concatenate(
        [rng.permutation(len(x_train)) for _ in range(args.epochs)]
    )
    # One pass over this data set is the whole training: every loop sees the
    # same batches in the same order.  Epochs are cut to full batches.
    steps = len(x_train) // BATCH
    order = order.reshape(args.epochs, -1)[:, : steps * BATCH].ravel()
    batches = tf.data.Dataset.from_tensor_slices(
        (x_train[order], y_train[order])
    ).batch(BATCH)

    fit, tape = train_with_fit, train_with_tape
    loops = {
        f"Keras {keras.__version__} fit": functools.partial(fit, keras),
        f"tf_keras {tf_keras.__version__} fit": functools.partial(
            fit, tf_keras
        ),
        f"TensorFlow {tf.__version__} GradientTape": tape,
    }
    final_losses, final_weights, accuracies = [], [], []
    for name, train in loops.items():
        start = time.perf_counter()
        losses, trained, predicted = train(
            weights, batches, steps, args.epochs, x_test
        )
        seconds = time.perf_counter() - start
        for epoch in sorted({1, (args.epochs + 1) // 2, args.epochs}):
            print(f"{name}: epoch {epoch}: loss {losses[epoch - 1]:.6f}")
        final_losses.append(losses[-1])
        final_weights.append(np.concatenate([w.ravel() for w in trained]))
        accuracies.append(np.mean(predicted.argmax(-1) == y_test))
        print(
            f"{name}: {args.epochs * steps / seconds:.0f} steps/s in "
            f"{seconds:.1f} s, test accuracy {accuracies[-1]:.2%}"
        )

    difference = np.ptp(final_losses) / np.min(final_losses)
    print(
        f"largest difference between the loops: weights "
        f"{np.ptp(final_weights, axis=0).max():.1e}, final losses "
        f"{difference:.1e} (bound {LOSS_BOUND:.0e})"
    )
    ok = min(accuracies) > ACCURACY_GOAL and difference <= LOSS_BOUND
    print(f"accuracy above {ACCURACY_GOAL:.0%} and equal losses: {ok}")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
