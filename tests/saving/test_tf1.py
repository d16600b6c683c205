"""Checkpoints of TF1's Saver, written here by tf.compat.v1's optimizers."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_legacy_opt as klo
from keras_legacy_opt import checkpoints
from keras_legacy_opt.checkpoints.formats import tf1

SAVE_AT, STEPS = 4, 8
V1 = tf.compat.v1.train

# TF1's optimizer, ours, and how many float32 spacings they may part.
PAIRS = {
    "sgd": (lambda: V1.GradientDescentOptimizer(0.1), lambda: klo.SGD(0.1), 0),
    "momentum": (
        lambda: V1.MomentumOptimizer(0.1, 0.9),
        lambda: klo.SGD(0.1, momentum=0.9),
        4,
    ),
    "nesterov": (
        lambda: V1.MomentumOptimizer(0.1, 0.9, use_nesterov=True),
        lambda: klo.SGD(0.1, momentum=0.9, nesterov=True),
        4,
    ),
    "adam": (
        lambda: V1.AdamOptimizer(0.1, epsilon=1e-7),
        lambda: klo.Adam(0.1, epsilon=1e-7),
        8,  # TF1 multiplies the powers of the betas up, we compute them.
    ),
    "adagrad": (
        lambda: V1.AdagradOptimizer(0.1),
        lambda: klo.Adagrad(0.1, epsilon=1e-16),
        4,
    ),
    "adadelta": (
        lambda: V1.AdadeltaOptimizer(1.0, epsilon=1e-6),
        lambda: klo.Adadelta(1.0, epsilon=1e-6),
        0,
    ),
    "ftrl": (
        lambda: V1.FtrlOptimizer(0.1, l1_regularization_strength=0.01),
        lambda: klo.Ftrl(0.1, l1_regularization_strength=0.01),
        0,
    ),
    "rmsprop_momentum": (
        lambda: V1.RMSPropOptimizer(0.01, momentum=0.9, epsilon=1e-5),
        lambda: klo.RMSprop(0.01, momentum=0.9, epsilon=1e-5),
        0,
    ),
    "rmsprop_centered": (
        lambda: V1.RMSPropOptimizer(
            0.01, momentum=0.9, epsilon=1e-5, centered=True
        ),
        lambda: klo.RMSprop(0.01, momentum=0.9, epsilon=1e-5, centered=True),
        0,
    ),
}


def gradients():
    rng = np.random.default_rng(5)
    return rng.normal(0, 0.3, (STEPS, 3, 2)).astype(np.float32)


def train_in_tf1(make_optimizer, prefix, global_step=True):
    """Saves after SAVE_AT steps; returns the weights at the end."""
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        with tf.compat.v1.variable_scope("dense"):
            kernel = tf.compat.v1.get_variable(
                "kernel", initializer=np.ones((3, 2), np.float32)
            )
            bias = tf.compat.v1.get_variable(
                "bias", initializer=np.zeros(2, np.float32)
            )
        step = V1.get_or_create_global_step() if global_step else None
        feed = tf.compat.v1.placeholder(tf.float32, (3, 2))
        train = make_optimizer().apply_gradients(
            [(feed, kernel), (tf.reduce_sum(feed, 0), bias)], global_step=step
        )
        session.run(tf.compat.v1.global_variables_initializer())
        saver = V1.Saver()
        for i, gradient in enumerate(gradients()):
            session.run(train, {feed: gradient})
            if i + 1 == SAVE_AT:
                saver.save(session, str(prefix))
        return session.run([kernel, bias])


def build_model():
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])


@pytest.mark.parametrize("name", PAIRS)
def test_training_goes_on(name, tmp_path):
    make_tf1, make_ours, tolerance = PAIRS[name]
    expected = train_in_tf1(make_tf1, tmp_path / "model.ckpt")
    model = build_model()
    kernel, bias = model.trainable_variables
    optimizer = make_ours()
    report = checkpoints.restore(
        tmp_path / "model.ckpt",
        model,
        optimizer,
        names={"dense/kernel": kernel, "dense/bias": bias},
    )
    assert not report.problems
    assert int(optimizer.iterations) == SAVE_AT
    for gradient in gradients()[SAVE_AT:]:
        optimizer.apply_gradients([(gradient, kernel), (gradient.sum(0), bias)])
    for variable, array in zip((kernel, bias), expected, strict=True):
        ulps = np.abs(variable.numpy() - array) / np.spacing(
            np.abs(array).max()
        )
        assert ulps.max() <= tolerance


def test_iterations_come_from_powers_without_a_global_step(tmp_path):
    train_in_tf1(PAIRS["adam"][0], tmp_path / "m", global_step=False)
    variables = {"dense": build_model().layers[0]}
    kernel, bias = variables["dense"].weights
    optimizer = klo.Adam(0.1)
    checkpoints.restore(
        tmp_path / "m",
        {"dense/kernel": kernel, "dense/bias": bias},
        optimizer,
    )
    assert int(optimizer.iterations) == SAVE_AT


def test_other_betas_are_an_error(tmp_path):
    train_in_tf1(PAIRS["adam"][0], tmp_path / "m", global_step=False)
    kernel, bias = build_model().weights
    with pytest.raises(checkpoints.MismatchError, match="other betas"):
        checkpoints.restore(
            tmp_path / "m",
            {"dense/kernel": kernel, "dense/bias": bias},
            klo.Adam(0.1, beta_1=0.8, beta_2=0.99),
        )


def test_another_optimizers_checkpoint_is_an_error(tmp_path):
    train_in_tf1(PAIRS["ftrl"][0], tmp_path / "m")
    kernel, bias = build_model().weights
    before = kernel.numpy()
    with pytest.raises(checkpoints.MismatchError, match="another optimizer"):
        checkpoints.restore(
            tmp_path / "m",
            {"dense/kernel": kernel, "dense/bias": bias},
            klo.Adagrad(0.1),
        )
    np.testing.assert_array_equal(kernel.numpy(), before)


@pytest.mark.parametrize(("beta", "steps"), [(0.9, 700), (0.999, 60_000)])
def test_steps_of_power(beta, steps):
    beta = np.float32(beta)
    power = beta
    for _ in range(steps):
        power = power * beta
    assert tf1.steps_of_power(power, beta) == steps


def test_steps_of_power_that_underflowed():
    assert tf1.steps_of_power(np.float32(0.0), np.float32(0.9)) is None
    assert tf1.steps_of_power(np.float32(1e-40), np.float32(0.9)) is None
