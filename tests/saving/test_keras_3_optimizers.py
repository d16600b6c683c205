"""Legacy optimizers into Keras 3's own, and back."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_legacy_opt as klo
from keras_legacy_opt import checkpoints

# Keras 3 and NumPy 2 disagree about `__array__`.
pytestmark = pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")

EXACT = {
    "sgd": lambda: klo.SGD(0.1),
    "momentum": lambda: klo.SGD(0.1, momentum=0.9),
    "nesterov": lambda: klo.SGD(0.1, momentum=0.9, nesterov=True, clipnorm=0.3),
    "adam": lambda: klo.Adam(0.1, epsilon=1e-3),
    "amsgrad": lambda: klo.Adam(0.1, amsgrad=True),
    "adam_decay": lambda: klo.Adam(0.1, decay=0.5),
    "adam_schedule": lambda: klo.Adam(
        klo.schedules.ExponentialDecay(0.1, 2, 0.5)
    ),
    "adamax": lambda: klo.Adamax(0.1),
    "adadelta": lambda: klo.Adadelta(1.0),
    "ftrl": lambda: klo.Ftrl(
        0.1, l1_regularization_strength=0.01, beta=0.3, learning_rate_power=-0.6
    ),
    "ftrl_shrinkage": lambda: klo.Ftrl(
        0.1, l2_shrinkage_regularization_strength=0.02
    ),
    "nadam": lambda: klo.Nadam(0.1, schedule_decay=1.0),
    "rmsprop": lambda: klo.RMSprop(0.01, momentum=0.9),
    "rmsprop_centered": lambda: klo.RMSprop(0.01, momentum=0.9, centered=True),
}
INEXACT = {
    "adagrad": (lambda: klo.Adagrad(0.1), "square root"),
    "rmsprop": (lambda: klo.RMSprop(0.1), "square root"),
    "nadam": (lambda: klo.Nadam(0.1), "schedule_decay"),
    "clipping": (lambda: klo.SGD(0.1, clipnorm=1.0, clipvalue=2.0), "clips"),
    "callable": (lambda: klo.Adam(0.1, beta_1=lambda: 0.9), "function"),
}


def step(optimizer, variables, seed):
    rng = np.random.default_rng(seed)
    optimizer.apply_gradients(
        [
            (tf.constant(rng.normal(0, 0.5, v.shape), tf.float32), v)
            for v in variables
        ]
    )


def trained(make):
    variables = [
        keras.Variable(np.linspace(-1, 1, 6, dtype="f").reshape(2, 3)),
        keras.Variable(np.ones(3, "f")),
    ]
    optimizer = make()
    for seed in range(3):
        step(optimizer, variables, seed)
    return optimizer, variables


def copies(variables):
    return [keras.Variable(v.numpy()) for v in variables]


@pytest.mark.parametrize("name", EXACT)
def test_there_and_back_and_on(name):
    optimizer, variables = trained(EXACT[name])
    theirs = checkpoints.to_keras_3(optimizer, variables)
    their_variables = copies(variables)
    # An optimizer of Keras 3 knows its variables by identity.
    back = checkpoints.from_keras_3(theirs)
    moved = checkpoints.to_keras_3(back, variables)
    for actual, expected in zip(moved.variables, theirs.variables, strict=True):
        np.testing.assert_array_equal(actual.numpy(), expected.numpy())
    assert int(back.iterations) == 3
    for ours, other in zip(optimizer.weights, back.weights, strict=True):
        np.testing.assert_array_equal(ours.numpy(), other.numpy())
    start = [v.numpy() for v in variables]
    for seed in range(3, 6):
        step(optimizer, variables, seed)
    end = [v.numpy() for v in variables]
    for variable, value in zip(variables, start, strict=True):
        variable.assign(value)
    for seed in range(3, 6):
        step(theirs, variables, seed)
    for variable, expected in zip(variables, end, strict=True):
        np.testing.assert_allclose(variable.numpy(), expected, rtol=2e-6)
    assert len(their_variables) == len(variables)


@pytest.mark.parametrize("name", INEXACT)
def test_differences_are_told(name):
    make, reason = INEXACT[name]
    optimizer, variables = trained(make)
    with pytest.raises(checkpoints.ConversionError, match=reason):
        checkpoints.to_keras_3(optimizer, variables)
    with pytest.warns(UserWarning, match=reason):
        theirs = checkpoints.to_keras_3(optimizer, variables, strict=False)
    assert int(theirs.iterations) == 3
    assert len(theirs.variables) >= 2


@pytest.mark.parametrize("option", [{"weight_decay": 0.1}, {"use_ema": True}])
def test_options_that_legacy_lacks(option):
    variables = [keras.Variable([1.0])]
    theirs = keras.optimizers.Adam(**option)
    theirs.build(variables)
    with pytest.raises(checkpoints.ConversionError, match=next(iter(option))):
        checkpoints.from_keras_3(theirs)


def test_other_classes_are_refused():
    class Mine(klo.Adam):
        pass

    with pytest.raises(TypeError, match="subclass may compute"):
        checkpoints.to_keras_3(Mine())
    with pytest.raises(TypeError, match="cannot be converted"):
        checkpoints.from_keras_3(keras.optimizers.Lion())


def test_a_file_of_keras_3s_own_adam_says_what_to_do(tmp_path):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile(keras.optimizers.Adam(), "mse")
    model.fit(np.ones((2, 3)), np.ones((2, 2)), verbose=0)
    model.save_weights(tmp_path / "m.weights.h5")
    model.compile(klo.Adam(), "mse")
    model.optimizer.build(model.trainable_variables)
    stored = model.get_weights()
    other = [np.full_like(array, 5.0) for array in stored]
    model.set_weights(other)
    with pytest.raises(ValueError, match="from_keras_3"):
        checkpoints.restore(tmp_path / "m.weights.h5", model)
    for array, expected in zip(model.get_weights(), other, strict=True):
        np.testing.assert_array_equal(array, expected)
    with pytest.warns(UserWarning, match="skipped.*from_keras_3"):
        model.load_weights(tmp_path / "m.weights.h5")
    for array, expected in zip(model.get_weights(), stored, strict=True):
        np.testing.assert_array_equal(array, expected)
    assert int(model.optimizer.iterations) == 0
