"""A callback that saves averages, in both Kerases."""

import numpy as np
import pytest
import tf_keras

from keras_legacy_opt import SGD, LossScaleOptimizer, addons

from .conftest import fit, make_model


def averages_of(model):
    optimizer = model.optimizer
    while not hasattr(optimizer, "assign_average_vars"):
        optimizer = getattr(optimizer, "_optimizer", None)
    return [
        np.array(optimizer.get_slot(v, "average"))
        for v in model.trainable_variables
    ]


@pytest.mark.parametrize("update_weights", [True, False])
@pytest.mark.parametrize("weights_only", [True, False])
def test_saves_averages(host, update_weights, weights_only, tmp_path):
    is_keras_3 = host is not tf_keras
    suffix = ".weights.h5" if weights_only else ".keras"
    path = str(tmp_path / f"m{suffix}")
    model = make_model(host, addons.MovingAverage(SGD(0.5), 0.5))
    callback = addons.AverageModelCheckpoint(
        update_weights, path, save_weights_only=weights_only
    )
    fit(model, callbacks=[callback])
    averages = averages_of(model)
    if weights_only:
        saved = make_model(host)
        saved.load_weights(path)
    else:
        saved = host.models.load_model(path)
    for a, b in zip(saved.get_weights(), averages, strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(model.get_weights(), averages, strict=True):
        assert np.array_equal(a, b) == update_weights
    assert is_keras_3 == (host.__name__ == "keras")


def test_best_only_and_every_batch(host, tmp_path):
    """All else is a ModelCheckpoint's."""
    model = make_model(host, addons.SWA(SGD(0.01), 0, 1))
    model.compile(LossScaleOptimizer(addons.SWA(SGD(0.01), 0, 1)), "mse")
    callbacks = [
        addons.AverageModelCheckpoint(
            False,
            str(tmp_path / "best-{epoch}.keras"),
            monitor="loss",
            save_best_only=True,
        ),
        addons.AverageModelCheckpoint(
            False,
            str(tmp_path / "batch-{batch}.keras"),
            save_freq=2,
        ),
    ]
    fit(model, epochs=2, callbacks=callbacks)
    names = {path.name for path in tmp_path.iterdir()}
    assert {"best-1.keras", "best-2.keras"} <= names
    assert sum(name.startswith("batch") for name in names) >= 2
    assert callbacks[0].monitor == "loss"


def test_other_optimizers(host, tmp_path):
    model = make_model(host, addons.Lookahead(SGD(0.5)))
    callback = addons.AverageModelCheckpoint(True, str(tmp_path / "m.keras"))
    with pytest.raises(TypeError, match="MovingAverage, an SWA"):
        fit(model, callbacks=[callback])
    with pytest.raises(AttributeError, match="once `fit`"):
        _ = callback.monitor
