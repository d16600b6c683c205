"""The callbacks that read, set or save an optimizer, in both Kerases."""

import glob

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

import keras_legacy_opt
from hosts.conftest import dense_model, embedding_model, fit


def test_learning_rate_scheduler(host, data):
    optimizer = keras_legacy_opt.Adam(0.1)
    callback = host.callbacks.LearningRateScheduler(lambda epoch, lr: lr / 2)
    history = fit(
        dense_model(host),
        optimizer,
        data[0],
        data[2],
        epochs=3,
        callbacks=[callback],
    ).history

    name = "learning_rate" if host is keras else "lr"
    np.testing.assert_array_equal(
        np.float32(history[name]), np.float32([0.1]) / [2, 4, 8]
    )
    assert float(optimizer.lr) == np.float32(0.1) / 8


def test_learning_rate_scheduler_replaces_a_schedule(host, data):
    """As in legacy; the value takes effect in the next trace."""
    schedule = keras_legacy_opt.schedules.ExponentialDecay(0.1, 2, 0.5)
    optimizer = keras_legacy_opt.SGD(schedule)
    assert float(optimizer.learning_rate) == np.float32(0.1)

    optimizer.learning_rate = 0.25

    assert float(optimizer.learning_rate) == 0.25


def test_reduce_lr_on_plateau(host, data):
    optimizer = keras_legacy_opt.SGD(0.5)
    callback = host.callbacks.ReduceLROnPlateau(
        monitor="loss", factor=0.5, patience=1, min_delta=1e6
    )
    fit(
        dense_model(host),
        optimizer,
        data[0],
        data[2],
        epochs=4,
        callbacks=[callback],
    )
    assert float(optimizer.learning_rate) == 0.0625


@pytest.mark.parametrize("scheduled", [False, True])
def test_tensorboard(scheduled, host, data, tmp_path):
    """The real one, which takes the learning rate for a number."""
    learning_rate = 0.1
    if scheduled:
        learning_rate = host.optimizers.schedules.ExponentialDecay(0.2, 3, 0.5)
    fit(
        dense_model(host),
        keras_legacy_opt.Adam(learning_rate),
        data[0],
        data[2],
        callbacks=[host.callbacks.TensorBoard(tmp_path)],
    )

    (file,) = glob.glob(f"{tmp_path}/train/*.v2")
    logged = [
        float(tf.make_ndarray(value.tensor))
        for event in tf.compat.v1.train.summary_iterator(file)
        for value in event.summary.value
        if value.tag == "epoch_learning_rate"
    ]
    expected = [0.1, 0.05] if scheduled else [0.1, 0.1]
    if host is tf_keras and not scheduled:
        expected = []  # It logs schedules only.
    np.testing.assert_allclose(logged, expected, rtol=1e-6)


def test_early_stopping(host, data):
    history = fit(
        dense_model(host),
        keras_legacy_opt.Adagrad(0.01),
        data[0],
        data[2],
        epochs=5,
        callbacks=[
            host.callbacks.EarlyStopping(
                "loss", min_delta=1e6, restore_best_weights=True
            )
        ],
    )
    assert len(history.epoch) == 2


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5")
@pytest.mark.parametrize("name", ["SGD", "RMSprop", "Adam", "Nadam", "Ftrl"])
def test_model_checkpoint_continues(name, host, data, tmp_path):
    """A model loaded from a checkpoint trains on, bit for bit."""
    # tf_keras' own .keras files leave out legacy optimizers' state.
    path = str(tmp_path / ("model.keras" if host is keras else "model.h5"))
    _, tokens, y = data
    model = embedding_model(host)
    optimizer = getattr(keras_legacy_opt, name)(0.05)
    callback = host.callbacks.ModelCheckpoint(path)
    fit(model, optimizer, tokens, y, callbacks=[callback])

    loaded = host.models.load_model(path)

    assert type(loaded.optimizer) is type(optimizer)
    states = []
    for each in (model, loaded):
        each.fit(tokens, y, 16, epochs=2, shuffle=False, verbose=0)
        states.append([*each.get_weights(), *each.optimizer.get_weights()])
    for a, e in zip(*states, strict=True):
        np.testing.assert_array_equal(a, e)


def test_backup_and_restore_resumes(host, data, tmp_path):
    """A run that broke off in epoch 3 ends as the undisturbed run does."""

    class Break(host.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    x, _, y = data
    undisturbed = dense_model(host)
    fit(undisturbed, keras_legacy_opt.Adam(0.05), x, y, epochs=4)

    def train(*callbacks, **options):
        model = dense_model(host)
        fit(
            model,
            keras_legacy_opt.Adam(0.05),
            x,
            y,
            epochs=4,
            callbacks=[
                host.callbacks.BackupAndRestore(str(tmp_path / "backup")),
                *callbacks,
            ],
            **options,
        )
        return model

    with pytest.raises(KeyboardInterrupt):
        train(Break())
    # Keras 3.0 restores the state, but forgets the epoch.
    resumed = train(initial_epoch=2 * host.__version__.startswith("3.0."))

    assert int(resumed.optimizer.iterations) == 12
    for a, e in zip(
        resumed.get_weights(), undisturbed.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(a, e)
