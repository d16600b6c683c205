"""TF1 graphs and sessions: `get_gradients`, `get_updates`, v1 savers."""

import numpy as np
import pytest
import registry
import tensorflow as tf

import keras_legacy_opt
from keras_legacy_opt import addons

tf1 = tf.compat.v1


@pytest.fixture
def session():
    with tf.Graph().as_default(), tf1.Session() as session:
        yield session


def _model():
    rng = np.random.default_rng(0)
    kernel = tf1.get_variable("dense/kernel", initializer=rng.random((3, 2)))
    bias = tf1.get_variable("dense/bias", initializer=rng.random(2))
    loss = tf.reduce_sum((tf.ones((4, 3), tf.float64) @ kernel + bias) ** 2)
    return [kernel, bias], loss


def test_get_gradients(session):
    params, loss = _model()
    grads = keras_legacy_opt.SGD().get_gradients(loss, params)
    session.run(tf1.global_variables_initializer())
    kernel, bias, *grads = session.run([*params, *grads])
    output = kernel.sum(axis=0) + bias
    np.testing.assert_allclose(grads[1], 8 * output)
    np.testing.assert_allclose(grads[0], np.tile(8 * output, (3, 1)))
    assert session.graph.get_operation_by_name(
        "SGD/gradients/gradients/grad_ys_0"
    )


def test_get_gradients_of_what_the_loss_does_not_depend_on(session):
    params, loss = _model()
    other = tf1.get_variable("other", initializer=1.0)
    with pytest.raises(ValueError, match="'other:0' has `None` for gradient"):
        keras_legacy_opt.SGD().get_gradients(loss, [*params, other])


@pytest.mark.parametrize(
    "case",
    [registry.Case(row, "plain") for row in registry.BUILT_IN],
    ids=str,
)
def test_get_updates(case):
    """One op per step, with legacy's variables, names and values."""
    results = []
    for library in (registry.SUBJECT, registry.LEGACY):
        with tf.Graph().as_default(), tf1.Session() as session:
            params, loss = _model()
            optimizer = case.build(library)
            (update,) = optimizer.get_updates(loss, params)
            session.run(tf1.global_variables_initializer())
            for _ in range(3):
                session.run(update)
            variables = tf1.global_variables()
            results.append({v.name: session.run(v) for v in variables})
    subject, legacy = results
    assert subject.keys() == legacy.keys()
    for name, value in legacy.items():
        np.testing.assert_array_equal(subject[name], value, err_msg=name)


@pytest.mark.parametrize("wrap", [addons.Lookahead, addons.MovingAverage])
def test_slots_that_are_copies_may_be_initialized_first(wrap, session):
    """A session initializes all variables at once, in whatever order."""
    var = tf1.get_variable("kernel", initializer=[1.0, 2.0])
    optimizer = wrap(keras_legacy_opt.SGD(0.5))
    optimizer.get_updates(tf.reduce_sum(var**2), [var])
    (name,) = optimizer.get_slot_names()
    slot = optimizer.get_slot(var, name)
    session.run(slot.initializer)
    np.testing.assert_array_equal(session.run(slot), [1.0, 2.0])
    var.load([3.0, 4.0], session)  # As from a file.
    session.run(slot.initializer)
    np.testing.assert_array_equal(session.run(slot), [3.0, 4.0])


def test_v1_saver_and_weights(session, tmp_path):
    params, loss = _model()
    optimizer = keras_legacy_opt.Adam(0.1)
    (update,) = optimizer.get_updates(loss, params)
    session.run(tf1.global_variables_initializer())
    session.run(update)
    saver = tf1.train.Saver()
    path = saver.save(session, str(tmp_path / "model"))
    weights = optimizer.get_weights()
    session.run(update)
    assert int(optimizer.get_weights()[0]) == 2

    names = {name for name, _ in tf1.train.list_variables(path)}
    assert {"Adam/iter", "Adam/dense/kernel/m", "Adam/learning_rate"} <= names
    saver.restore(session, path)
    for actual, expected in zip(optimizer.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(actual, expected)

    weights[0] = np.array(10)
    optimizer.set_weights(weights)
    optimizer.learning_rate = 0.5
    assert session.run(optimizer.iterations) == 10
    assert session.run(optimizer.learning_rate) == 0.5
    assert optimizer.get_config()["learning_rate"] == 0.5
