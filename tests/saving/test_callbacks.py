"""Keras 3's callbacks and exports with our optimizers."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_legacy_opt as klo
from keras_legacy_opt import checkpoints

pytestmark = pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")


def make_model():
    keras.utils.set_random_seed(2)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile(klo.Adam(0.1, amsgrad=True), "mse")
    return model


X = np.linspace(-1, 1, 12, dtype="f").reshape(4, 3)
Y = np.linspace(0, 1, 8, dtype="f").reshape(4, 2)


def fit(model, epochs, **kwargs):
    model.fit(X, Y, epochs=epochs, shuffle=False, verbose=0, **kwargs)


def assert_same(model, other):
    for a, b in zip(
        [*model.get_weights(), *model.optimizer.get_weights()],
        [*other.get_weights(), *other.optimizer.get_weights()],
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("only_weights", [False, True])
def test_model_checkpoint(only_weights, tmp_path):
    suffix = ".weights.h5" if only_weights else ".keras"
    callback = keras.callbacks.ModelCheckpoint(
        tmp_path / f"epoch-{{epoch}}{suffix}", save_weights_only=only_weights
    )
    model = make_model()
    fit(model, 4, callbacks=[callback])
    path = tmp_path / f"epoch-2{suffix}"
    if only_weights:
        other = make_model()
        checkpoints.restore(path, other)
    else:
        other = keras.models.load_model(path)
    fit(other, 2)
    assert_same(model, other)


def test_backup_and_restore(tmp_path):
    class Interrupt(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    def backup():
        return keras.callbacks.BackupAndRestore(tmp_path / "backup")

    whole, other = make_model(), make_model()
    fit(whole, 4)
    with pytest.raises(KeyboardInterrupt):
        fit(other, 4, callbacks=[backup(), Interrupt()])
    other = make_model()
    fit(other, 4, callbacks=[backup()])
    assert_same(whole, other)


@pytest.mark.parametrize("export", [False, True])
def test_export_of_a_compiled_model(export, tmp_path):
    """A served model needs no optimizer; having one must not break it."""
    model = make_model()
    fit(model, 1)
    if export:
        model.export(tmp_path, verbose=False)
    else:
        tf.saved_model.save(model, str(tmp_path))
    loaded = tf.saved_model.load(str(tmp_path))
    serve = loaded.signatures["serving_default"]
    (result,) = serve(tf.constant(X)).values()
    np.testing.assert_allclose(result, model.predict(X, verbose=0), rtol=1e-6)


def test_a_model_saved_before_its_first_step(tmp_path):
    model = make_model()
    model.save(tmp_path / "m.keras")
    other = keras.models.load_model(tmp_path / "m.keras")
    fit(model, 1)
    fit(other, 1)
    assert_same(model, other)
