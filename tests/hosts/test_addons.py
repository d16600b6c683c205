"""Optimizers that legacy did not have, in both Kerases and in files."""

import numpy as np
import pytest
import tensorflow as tf
from registry import ADDONS, SUBJECT, WRAPPERS, Case

import keras_legacy_opt
from keras_legacy_opt import fused

from .conftest import embedding_model

CASES = [
    *(Case(row, name) for row in ADDONS for name in row.options),
    *(Case(row, "plain") for row in WRAPPERS),
]
every_case = pytest.mark.parametrize("case", CASES, ids=str)


def fitted(model, data, epochs=1):
    _, tokens, y = data
    model.fit(tokens, y, epochs=epochs, batch_size=16, shuffle=False, verbose=0)
    return model


def compiled(case, host):
    model = embedding_model(host)
    model.compile(case.build(SUBJECT), "mse")
    return model


@every_case
def test_fit_goes_on_from_a_file(case, host, data, tmp_path):
    """Trains in each Keras, alike without native ops, and after loading."""
    path = str(tmp_path / "model.keras")
    saved = fitted(compiled(case, host), data)
    saved.save(path)
    fitted(saved, data)
    with fused.disabled():
        plain = fitted(compiled(case, host), data, epochs=2)
    loaded = host.models.load_model(path)
    assert type(loaded.optimizer) is type(saved.optimizer)
    for model in (plain, fitted(loaded, data)):
        for ours, expected in zip(
            model.get_weights(), saved.get_weights(), strict=True
        ):
            np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)


@every_case
def test_checkpoint_and_configuration(case, tmp_path):
    def make():
        optimizer = case.build(SUBJECT)
        copy = keras_legacy_opt.get(keras_legacy_opt.serialize(optimizer))
        assert copy.get_config() == optimizer.get_config()
        return copy, tf.Variable([1.0, 2.0], name="vector")

    def train(optimizer, variable):
        optimizer.apply_gradients([(tf.constant([0.5, -1.0]), variable)])

    optimizer, variable = make()
    train(optimizer, variable)
    path = tf.train.Checkpoint(o=optimizer, v=variable).save(tmp_path / "c")
    other, restored = make()
    status = tf.train.Checkpoint(o=other, v=restored).restore(path)
    train(other, restored)
    status.assert_consumed()
    train(optimizer, variable)
    for ours, expected in zip(
        [restored, *other.weights], [variable, *optimizer.weights], strict=True
    ):
        np.testing.assert_array_equal(ours, expected)
