"""Our LossScaleOptimizer in `compile` and `fit` of both Kerases."""

import numpy as np
import pytest
import registry
import tensorflow as tf
import tf_keras

import keras_legacy_opt
from hosts.conftest import dense_model, embedding_model, fit
from keras_legacy_opt import LossScaleOptimizer

POLICIES = ("float32", "mixed_float16")


@pytest.fixture
def policy(host, request):
    host.mixed_precision.set_global_policy(request.param)
    yield request.param
    host.mixed_precision.set_global_policy("float32")


both_policies = pytest.mark.parametrize("policy", POLICIES, indirect=True)


ADAM = next(row for row in registry.BUILT_IN if row.name == "Adam")
with_wrappers = pytest.mark.parametrize(
    "case",
    [registry.Case(row, "plain") for row in (ADAM, *registry.WRAPPERS)],
    ids=str,
)


def scaled(**options):
    return LossScaleOptimizer(keras_legacy_opt.Adam(0.05), **options)


@both_policies
@pytest.mark.parametrize("jit_compile", [False, True])
def test_fit(host, policy, data, jit_compile):
    """It is not wrapped again, and all steps are taken."""
    model, optimizer = dense_model(host), scaled()
    history = fit(
        model,
        optimizer,
        data[0],
        data[2],
        epochs=4,
        compile_options={"jit_compile": jit_compile},
    ).history["loss"]
    assert model.optimizer is optimizer
    assert history[-1] < history[0]
    assert int(optimizer.iterations) == int(optimizer.dynamic_counter) == 12
    slot = optimizer.get_slot(model.trainable_variables[0], "m")
    assert slot.dtype == tf.float32
    assert np.any(slot.numpy())


@pytest.mark.parametrize(
    "options",
    [{}, {"initial_scale": 7.0, "dynamic": False}, {"dynamic_growth_steps": 2}],
    ids=str,
)
def test_fit_equals_legacy(host, data, options):
    """Both Kerases end where tf_keras ends with its own."""
    _, tokens, y = data
    legacy = tf_keras.mixed_precision.LossScaleOptimizer(
        tf_keras.optimizers.legacy.Adam(0.05), **options
    )
    expected, model, optimizer = (
        embedding_model(tf_keras),
        embedding_model(host),
        scaled(**options),
    )
    fit(expected, legacy, tokens, y)
    fit(model, optimizer, tokens, y)
    for a, e in zip(model.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-6)
    assert optimizer.loss_scale == legacy.loss_scale


@with_wrappers
def test_fit_of_wrappers_equals_legacy(host, data, case):
    """Around whatever: tf_keras' own takes our wrappers, too."""
    _, tokens, y = data
    legacy, optimizer = (
        make(case.build(library), dynamic_growth_steps=4)
        for make, library in (
            (tf_keras.mixed_precision.LossScaleOptimizer, registry.LEGACY),
            (LossScaleOptimizer, registry.SUBJECT),
        )
    )
    expected, model = embedding_model(tf_keras), embedding_model(host)
    fit(expected, legacy, tokens, y, epochs=3)
    fit(model, optimizer, tokens, y, epochs=3)
    for a, e in zip(model.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-4, atol=1e-5)
    assert optimizer.loss_scale == legacy.loss_scale == 2.0**17
    assert int(optimizer.iterations) == 9 // case.row.accumulates


@both_policies
def test_steps_that_overflow_are_skipped(host, policy, data):
    x, _, y = data
    x = np.where(np.arange(48)[:, np.newaxis] == 20, np.inf, x)
    model, optimizer = dense_model(host), scaled(initial_scale=1024.0)
    fit(model, optimizer, x, y, epochs=2)
    assert int(optimizer.iterations) == 6
    assert float(optimizer.loss_scale) == 256.0  # Two of six were skipped.
    assert int(optimizer.dynamic_counter) == 1
    assert np.all(np.isfinite(model.get_weights()[0]))


def test_scale_falls_until_gradients_of_float16_are_finite(host, data):
    host.mixed_precision.set_global_policy("mixed_float16")
    try:
        model, optimizer = dense_model(host), scaled(initial_scale=2.0**24)
        before = model.get_weights()
        fit(model, optimizer, data[0], data[2], epochs=1)
        for weight, old in zip(model.get_weights(), before, strict=True):
            np.testing.assert_array_equal(weight, old)
        assert float(optimizer.loss_scale) == 2.0**21
        fit(model, optimizer, data[0], data[2], epochs=8)
    finally:
        host.mixed_precision.set_global_policy("float32")
    assert float(optimizer.loss_scale) < 2.0**21
    assert np.any(model.get_weights()[0] != before[0])


def test_callbacks_set_the_learning_rate(host, data):
    model, optimizer = dense_model(host), scaled()
    callback = host.callbacks.LearningRateScheduler(lambda epoch, rate: 0.25)
    fit(model, optimizer, data[0], data[2], callbacks=[callback])
    assert float(optimizer.inner_optimizer.learning_rate) == 0.25


def test_host_serializes_it(host):
    config = host.optimizers.serialize(scaled(initial_scale=4.0))
    again = host.optimizers.deserialize(config)
    assert type(again) is LossScaleOptimizer
    assert again.get_config() == scaled(initial_scale=4.0).get_config()
    assert isinstance(again, host.mixed_precision.LossScaleOptimizer)


@with_wrappers
def test_saved_models_continue(host, data, tmp_path, case):
    x, _, y = data
    model = dense_model(host)
    optimizer = case.build(registry.SUBJECT)
    fit(model, LossScaleOptimizer(optimizer, dynamic_growth_steps=4), x, y)
    path = str(tmp_path / "model.keras")
    model.save(path)
    loaded = host.models.load_model(path)
    assert type(loaded.optimizer) is LossScaleOptimizer
    results = []
    for each in (model, loaded):
        each.fit(x, y, batch_size=16, shuffle=False, verbose=0)
        results.append(
            [
                *each.get_weights(),
                *each.optimizer.get_weights(),
                each.optimizer.loss_scale.numpy(),
                each.optimizer.dynamic_counter.numpy(),
            ]
        )
    for a, e in zip(*results, strict=True):
        np.testing.assert_array_equal(a, e)


@pytest.mark.parametrize("wrapped", [True, False])
def test_checkpoints_of_keras_2(host, data, tmp_path, wrapped):
    """Read with the loss scale, if the optimizer is wrapped."""
    old = dense_model(tf_keras)
    legacy = tf_keras.mixed_precision.LossScaleOptimizer(
        tf_keras.optimizers.legacy.Adam(0.05), dynamic_growth_steps=4
    )
    fit(old, legacy, data[0], data[2])
    path = tf.train.Checkpoint(model=old, optimizer=legacy).save(
        tmp_path / "old"
    )
    model = dense_model(host)
    optimizer = scaled() if wrapped else keras_legacy_opt.Adam(0.05)
    model.compile(optimizer, "mse")
    report = keras_legacy_opt.checkpoints.restore(path, model, strict=wrapped)
    assert len(report.problems) == (0 if wrapped else 2)
    for ours, theirs in zip(
        optimizer.get_weights(), legacy.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    if wrapped:
        assert float(optimizer.loss_scale) == 2.0**16
        assert int(optimizer.dynamic_counter) == 2
