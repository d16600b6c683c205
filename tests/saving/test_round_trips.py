"""Whatever the optimizer, its options and the shapes: state survives."""

import pickle
import tempfile

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import keras_legacy_opt as klo
from keras_legacy_opt import checkpoints
from keras_legacy_opt.checkpoints import conversion

pytestmark = pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")

rates = st.floats(1e-4, 0.5)
betas = st.floats(0.1, 0.99)
clipping = st.sampled_from([{}, {"clipnorm": 0.5}, {"clipvalue": 0.1}])
decays = st.sampled_from([0.0, 0.25])


def optimizers():
    def make(cls, *args, clip=None, **kwargs):
        return lambda: cls(*args, **(clip or {}), **kwargs)

    builds = [
        st.builds(
            make,
            st.just(klo.SGD),
            rates,
            momentum=st.sampled_from([0.0, 0.5]),
            nesterov=st.booleans(),
            decay=decays,
            clip=clipping,
        ),
        st.builds(
            make,
            st.just(klo.Adam),
            rates,
            beta_1=betas,
            beta_2=betas,
            amsgrad=st.booleans(),
            decay=decays,
            clip=clipping,
        ),
        st.builds(
            make,
            st.just(klo.RMSprop),
            rates,
            rho=betas,
            momentum=st.sampled_from([0.0, 0.5]),
            centered=st.booleans(),
            decay=decays,
        ),
        st.builds(make, st.just(klo.Nadam), rates, beta_1=betas),
        st.builds(make, st.just(klo.Adamax), rates, beta_1=betas),
        st.builds(make, st.just(klo.Adadelta), rates, rho=betas),
        st.builds(make, st.just(klo.Adagrad), rates),
        st.builds(make, st.just(klo.Ftrl), rates, beta=betas),
    ]
    return st.one_of(builds)


def dense_model(library, units):
    layers = [library.layers.Dense(u) for u in units]
    return library.Sequential([library.layers.Input((3,)), *layers])


def trained(model, make, steps):
    optimizer = make()
    model.compile(optimizer, "mse", run_eagerly=True)
    optimizer.build(model.trainable_variables)
    rng = np.random.default_rng(steps)
    for _ in range(steps):
        optimizer.apply_gradients(
            [
                (tf.constant(rng.normal(size=v.shape), tf.float32), v)
                for v in model.trainable_variables
            ]
        )
    return optimizer


def equal(optimizer, other):
    assert len(optimizer.weights) == len(other.weights)
    for a, b in zip(optimizer.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    for name in optimizer._hyper:
        a, b = getattr(optimizer, name), getattr(other, name)
        np.testing.assert_array_equal(float(a), float(b))


def through_checkpoint(model, other, folder):
    path = tf.train.Checkpoint(m=model, optimizer=model.optimizer).write(
        f"{folder}/c"
    )
    tf.train.Checkpoint(m=other, optimizer=other.optimizer).read(path)
    other.optimizer.build(other.trainable_variables)


def through_keras_2_checkpoint(model, other, folder):
    path = checkpoints.save(f"{folder}/c", model)
    checkpoints.restore(path, other)


def through_keras_2_weights(model, other, folder):
    path = checkpoints.save(f"{folder}/c", model, as_weights=True)
    checkpoints.restore(path, other)


def through_weights_file(model, other, folder):
    model.save_weights(f"{folder}/m.weights.h5")
    checkpoints.restore(f"{folder}/m.weights.h5", other)


def through_converted_h5(model, other, folder):
    path = checkpoints.save(f"{folder}/c", model)
    conversion.convert(
        path, f"{folder}/c.h5", optimizer=type(model.optimizer).__name__
    )
    checkpoints.restore(f"{folder}/c.h5", other)


def through_set_weights(model, other, folder):
    other.optimizer.set_weights(model.optimizer.get_weights())
    other.optimizer.build(other.trainable_variables)


def through_pickle(model, other, folder):
    restored = pickle.loads(pickle.dumps(model.optimizer))
    other.compile(restored, "mse")
    restored.build(other.trainable_variables)


ROUTES = (
    through_checkpoint,
    through_keras_2_checkpoint,
    through_keras_2_weights,
    through_weights_file,
    through_converted_h5,
    through_set_weights,
    through_pickle,
)
fewer = settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)


@pytest.mark.parametrize("route", ROUTES)
@fewer
@given(
    make=optimizers(),
    units=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    steps=st.integers(0, 2),
)
def test_keras_3(route, make, units, steps):
    model, other = dense_model(keras, units), dense_model(keras, units)
    optimizer = trained(model, make, steps)
    other.compile(make(), "mse")
    with tempfile.TemporaryDirectory() as folder:
        route(model, other, folder)
    equal(optimizer, other.optimizer)


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5")
@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@fewer
@given(
    make=optimizers(),
    units=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    steps=st.integers(0, 2),
)
def test_whole_models(suffix, make, units, steps):
    for library in (keras, tf_keras):
        if library is keras and suffix == ".h5":
            continue  # Keras 3 writes no optimizer state into these.
        model = dense_model(library, units)
        optimizer = trained(model, make, steps)
        with tempfile.TemporaryDirectory() as folder:
            model.save(f"{folder}/m{suffix}")
            other = library.models.load_model(f"{folder}/m{suffix}")
        other.optimizer.build(other.trainable_variables)
        equal(optimizer, other.optimizer)


@fewer
@given(
    make=optimizers(),
    shapes=st.lists(
        st.lists(st.integers(1, 3), max_size=3), min_size=1, max_size=3
    ),
    dtype=st.sampled_from(["float16", "float32", "float64"]),
)
def test_bare_variables(make, shapes, dtype):
    def variables():
        return [tf.Variable(tf.ones(shape, dtype)) for shape in shapes]

    first, second = variables(), variables()
    optimizer, other = make(), make()
    optimizer.apply_gradients([(tf.ones_like(v) / 3, v) for v in first])
    with tempfile.TemporaryDirectory() as folder:
        path = checkpoints.save(f"{folder}/c", {"v": first}, optimizer)
        assert not checkpoints.restore(path, {"v": second}, other).problems
    equal(optimizer, other)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
