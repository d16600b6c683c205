"""`model.load_weights` leaves the optimizer alone, as legacy's does."""

import keras
import numpy as np
import pytest
import tf_keras

import keras_legacy_opt as klo
from keras_legacy_opt import checkpoints

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5"),
]
LIBRARIES = {"keras": keras, "tf_keras": tf_keras}
WRAPPERS = {"bare": lambda o: o, "loss scale": klo.LossScaleOptimizer}
X = np.linspace(-1, 1, 12, dtype="f").reshape(4, 3)
Y = np.linspace(0, 1, 8, dtype="f").reshape(4, 2)


def make_model(library, optimizer):
    model = library.Sequential(
        [library.layers.Input((3,)), library.layers.Dense(2, name="out")]
    )
    model.compile(optimizer, "mse")
    return model


def train(model, steps):
    for _ in range(steps):
        model.train_on_batch(X, Y)
    return model


def state(model):
    scale = getattr(model.optimizer, "loss_scale", 0.0)
    return [*model.optimizer.get_weights(), np.asarray(scale)]


def assert_equal(arrays, others):
    for array, other in zip(arrays, others, strict=True):
        np.testing.assert_array_equal(array, other)


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("suffix", [".weights.h5", ".keras", ".h5"])
@pytest.mark.parametrize("steps", [0, 1])
def test_load_weights(library, suffix, wrapper, steps, tmp_path):
    """Trained before or not; the whole model, or `restore`, has all of it."""
    library, wrap = LIBRARIES[library], WRAPPERS[wrapper]
    path = str(tmp_path / f"m{suffix}")
    model = train(make_model(library, wrap(klo.Adam(0.1))), 3)
    if wrap is klo.LossScaleOptimizer:
        model.optimizer._loss_scale.current_loss_scale.assign(64.0)
    if suffix == ".weights.h5":
        model.save_weights(path)
    else:
        model.save(path)

    other = train(make_model(library, wrap(klo.Adam(0.25))), steps)
    _ = other.optimizer.iterations  # Looking at it creates it.
    before = state(other)
    if suffix == ".h5":
        other.load_weights(path)  # These never brought any.
    else:
        with pytest.warns(UserWarning, match="skipped, as legacy.*restore"):
            other.load_weights(path)
    assert_equal(other.get_weights(), model.get_weights())
    assert_equal(state(other), before)
    assert float(other.optimizer.learning_rate) == 0.25

    if suffix == ".weights.h5" or library is keras and suffix == ".keras":
        report = checkpoints.restore(path, other)
        assert not report.problems
        assert_equal(state(other), state(model))
        assert float(other.optimizer.learning_rate) == float(np.float32(0.1))
    if suffix != ".weights.h5" and not (library is keras and suffix == ".h5"):
        loaded = library.models.load_model(path)
        loaded.optimizer.build(loaded.trainable_variables)
        assert int(loaded.optimizer.iterations) == 3
        assert_equal(
            loaded.optimizer.get_weights(), model.optimizer.get_weights()
        )


def test_legacy_does_the_same(tmp_path):
    """In the formats that it has, with its own optimizers and with ours."""
    for module in (tf_keras.optimizers.legacy, klo):
        model = train(make_model(tf_keras, module.Adam(0.1)), 3)
        for suffix, restored in (
            (".weights.h5", 0),
            (".keras", 0),
            (".h5", 0),
            ("", 3),  # TensorFlow's format is a checkpoint of all.
        ):
            path = str(tmp_path / f"{module.__name__}{suffix}")
            (model.save if suffix == ".keras" else model.save_weights)(path)
            other = make_model(tf_keras, module.Adam(0.1))
            if module is klo and suffix in (".weights.h5", ".keras"):
                with pytest.warns(UserWarning, match="skipped, as legacy"):
                    other.load_weights(path)
            else:
                other.load_weights(path)
            other.optimizer._create_all_weights(other.trainable_variables)
            assert int(other.optimizer.iterations) == restored
            assert_equal(other.get_weights(), model.get_weights())


@pytest.mark.parametrize("library", LIBRARIES)
def test_weights_without_an_optimizer(library, tmp_path):
    """Nothing was skipped: not a word."""
    library = LIBRARIES[library]
    path = str(tmp_path / "m.weights.h5")
    model = library.Sequential(
        [library.layers.Input((3,)), library.layers.Dense(2)]
    )
    model.save_weights(path)
    other = make_model(library, klo.Adam(0.1))
    other.optimizer.build(other.trainable_variables)
    before = state(other)
    other.load_weights(path)
    assert_equal(state(other), before)


@pytest.mark.parametrize("suffix", [".weights.h5", ".keras", ".h5"])
def test_restore_around_which_keras_scales_the_loss(suffix, tmp_path):
    """In mixed precision, Keras 3 wraps the optimizer in one of its own."""

    def make():
        model = keras.Sequential([keras.layers.Input((3,))])
        model.add(keras.layers.Dense(2, dtype="mixed_float16"))
        wrapper = keras.optimizers.LossScaleOptimizer(klo.Adam(0.1))
        model.compile(wrapper, "mse", run_eagerly=True)
        return model

    model = train(make(), 3)
    model.optimizer.dynamic_scale.assign(64.0)
    path = str(tmp_path / f"m{suffix}")
    model.save_weights(path) if "weights" in suffix else model.save(path)
    other = make()
    report = checkpoints.restore(path, other)
    assert not report.problems
    restored = {entry.target.rpartition("/")[2] for entry in report.restored}
    assert {"kernel", "m", "v", "iter"} <= restored
    inner, same = (
        other.optimizer.inner_optimizer,
        model.optimizer.inner_optimizer,
    )
    assert_equal(inner.get_weights(), same.get_weights())
    assert int(inner.iterations) == 3
    if suffix != ".h5":  # Legacy's format has no place for Keras 3's.
        assert float(other.optimizer.dynamic_scale) == 64.0
    assert_equal(train(other, 2).get_weights(), train(model, 2).get_weights())
