"""`compile`, `fit` and all around it, in Keras 3 and in tf_keras."""

import copy
import pickle

import keras
import numpy as np
import pytest
import registry
import tensorflow as tf
import tf_keras

import keras_legacy_opt
from hosts.conftest import dense_model, embedding_model, fit

PLAIN = [registry.Case(row, "plain") for row in registry.ROWS]
MODES = {
    "eager": {"run_eagerly": True},
    "several steps at once": {"steps_per_execution": 3},
    "xla": {"jit_compile": True},
    "no xla": {"jit_compile": False},
}


def _assert_near(actual, expected, steps):
    """Equal within two units in the last place of an array, per step."""
    for a, e in zip(actual, expected, strict=True):
        ulp = np.spacing(np.max(np.abs(e)).astype(e.dtype))
        np.testing.assert_allclose(a, e, rtol=0, atol=2 * steps * ulp)


@pytest.mark.parametrize("case", PLAIN, ids=str)
def test_fit_equals_legacy(case, host, data):
    """Both Kerases end where tf_keras ends with its own legacy optimizer."""
    _, tokens, y = data
    legacy = embedding_model(tf_keras)
    expected = fit(legacy, case.build(registry.LEGACY), tokens, y)
    model = embedding_model(host)
    optimizer = case.build(registry.SUBJECT)

    history = fit(model, optimizer, tokens, y)

    assert model.optimizer is optimizer
    assert int(optimizer.iterations) == 6
    _assert_near(model.get_weights(), legacy.get_weights(), steps=6)
    np.testing.assert_allclose(
        history.history["loss"], expected.history["loss"], rtol=1e-6
    )
    assert model.evaluate(tokens, y, verbose=0) < history.history["loss"][0]
    assert model.predict(tokens, verbose=0).shape == (48, 1)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("make_model", [dense_model, embedding_model])
def test_modes_agree(mode, make_model, host, data):
    inputs = data[make_model is embedding_model]
    plain, other = make_model(host), make_model(host)
    fit(plain, keras_legacy_opt.Adam(0.05), inputs, data[2])

    fit(
        other,
        keras_legacy_opt.Adam(0.05),
        inputs,
        data[2],
        compile_options=MODES[mode],
    )

    # XLA's matrix products round differently: a bound on their propagation.
    for a, e in zip(other.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-4, atol=1e-5)


def test_by_name_of_ours_in_compile(host, data):
    model = dense_model(host)
    fit(model, keras_legacy_opt.get("rmsprop"), data[0], data[2])
    assert type(model.optimizer) is keras_legacy_opt.RMSprop


@pytest.mark.parametrize("jit_compile", [False, True])
def test_embedding_gradients_stay_sparse(jit_compile, host, data):
    seen = []

    class Recorder(keras_legacy_opt.SGD):
        def _transform_gradients(self, grads_and_vars):
            seen.extend(type(g) for g, _ in grads_and_vars)
            return super()._transform_gradients(grads_and_vars)

    fit(
        embedding_model(host),
        Recorder(),
        data[1],
        data[2],
        compile_options={"jit_compile": jit_compile},
    )

    assert seen.count(tf.IndexedSlices) == len(seen) // 3 > 0


@pytest.mark.parametrize(
    ("name", "jit_compile"),
    [("SGD", False), ("Adam", False), ("Ftrl", False), ("Adam", True)],
)
def test_constraints(name, jit_compile, host, data):
    """They hold after every step, for dense and for sparse gradients."""
    non_negative = host.constraints.NonNeg()
    models = {
        0: dense_model(host, kernel_constraint=non_negative),
        1: embedding_model(host, embeddings_constraint=non_negative),
    }
    for i, model in models.items():
        constrained, *_ = model.trainable_variables
        if constrained.constraint is None:  # Forgotten by Keras 3.0's Dense.
            constrained.constraint = non_negative
        fit(
            model,
            getattr(keras_legacy_opt, name)(0.5),
            data[i],
            data[2],
            compile_options={"jit_compile": jit_compile},
        )
        constrained, *others = model.get_weights()
        assert constrained.min() >= 0
        assert min(w.min() for w in others) < 0


def test_custom_train_step(host, data):
    class Model(host.Model):
        def __init__(self):
            super().__init__()
            self.layer = host.layers.Dense(1)

        def call(self, inputs):
            return self.layer(inputs)

        def train_step(self, batch):
            x, y = batch
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean((self(x, training=True) - y) ** 2)
            variables = self.trainable_variables
            grads = tape.gradient(loss, variables)
            self.optimizer.apply_gradients(zip(grads, variables, strict=True))
            return {"squares": loss}

    model = Model()
    model.compile(optimizer=keras_legacy_opt.RMSprop(0.1))
    history = []
    # Not of the result of `fit`: Keras 3.0 puts nothing but metrics there.
    recorder = host.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: history.append(logs["squares"])
    )
    model.fit(data[0], data[2], epochs=3, verbose=0, callbacks=[recorder])

    assert history[-1] < history[0]
    assert len(model.optimizer.get_weights()) == 3


def test_unfreezing_layers(host, data):
    """Variables that come late get slots, the others keep theirs."""
    model, optimizer = dense_model(host), keras_legacy_opt.Adam(0.05)
    model.layers[0].trainable = False
    frozen = model.layers[0].get_weights()
    fit(model, optimizer, data[0], data[2])
    np.testing.assert_array_equal(model.layers[0].get_weights()[0], frozen[0])
    head = model.layers[-1].trainable_variables[0]
    momentum = optimizer.get_slot(head, "m")
    before = momentum.numpy()

    model.layers[0].trainable = True
    fit(model, optimizer, data[0], data[2], epochs=1)

    assert optimizer.get_slot(head, "m") is momentum
    assert np.any(momentum.numpy() != before)
    assert np.any(model.layers[0].get_weights()[0] != frozen[0])
    assert int(optimizer.iterations) == 9
    assert len(optimizer.get_weights()) == 1 + 2 * 4


def test_two_models_share_an_optimizer(host, data):
    """As in GANs: new variables at any time, one count of iterations."""
    optimizer = keras_legacy_opt.Adam(0.05)
    first, second = dense_model(host), dense_model(host)
    fit(first, optimizer, data[0], data[2])
    fit(second, optimizer, data[0], data[2])

    assert int(optimizer.iterations) == 12
    assert len(optimizer.get_weights()) == 1 + 2 * 8


COPIED = [
    *PLAIN,
    *(
        registry.Case(row, "plain")
        for row in registry.WRAPPERS
        if row.name in ("Nested", "MultiOptimizer", "DecayingRMSprop")
    ),
]


def _pickled(value):
    return pickle.loads(pickle.dumps(value))


@pytest.mark.parametrize(
    ("case", "copied"),
    [pytest.param(case, copy.deepcopy, id=f"{case}-copied") for case in COPIED]
    + [
        pytest.param(case, _pickled, id=f"{case}-pickled")
        for case in COPIED
        # A class made in a function, as the doubles are, cannot be pickled.
        if not case.row.double
    ],
)
def test_copy_continues(case, copied, host, data):
    """A copy trains on as the original does, bit for bit."""
    x, _, y = data
    model, original = dense_model(host), case.build(registry.SUBJECT)
    fit(model, original, x, y)
    weights = model.get_weights()
    states = []
    for optimizer in (copied(original), original):
        model.set_weights(weights)
        fit(model, optimizer, x, y, epochs=1)
        states.append([*model.get_weights(), *optimizer.get_weights()])

    assert int(original.iterations) == 9 // case.row.accumulates
    for actual, expected in zip(*states, strict=True):
        np.testing.assert_array_equal(actual, expected)


def test_clone_model_and_from_config(host, data):
    model = dense_model(host)
    fit(model, keras_legacy_opt.Adam(0.05, beta_1=0.5), data[0], data[2])
    clone = host.models.clone_model(model)
    optimizer = type(model.optimizer).from_config(model.optimizer.get_config())

    fit(clone, optimizer, data[0], data[2])

    assert optimizer.get_config() == model.optimizer.get_config()
    assert int(optimizer.iterations) == 6


def test_summary(host, data):
    model = dense_model(host)
    fit(model, keras_legacy_opt.Adam(), data[0], data[2])
    lines = []
    model.summary(print_fn=lambda line, **_: lines.append(line))
    text = "\n".join(lines)
    assert "Total params" in text
    if host is keras:
        # Twice the 37 parameters, and the iterations.
        assert "Optimizer params: 75" in text


def test_mixed_precision(host, data):
    """float16 layers, with the host's own LossScaleOptimizer around ours."""
    host.mixed_precision.set_global_policy("mixed_float16")
    try:
        model = dense_model(host)
        inner = keras_legacy_opt.Adam(0.05)
        history = fit(model, inner, data[0], data[2], epochs=4).history["loss"]
    finally:
        host.mixed_precision.set_global_policy("float32")

    assert type(model.optimizer).__name__ == "LossScaleOptimizer"
    assert model.optimizer.inner_optimizer is inner
    assert history[-1] < history[0]
    assert int(inner.iterations) == 12
    assert inner.get_slot(model.trainable_variables[0], "m").dtype == tf.float32


def test_loss_scale_optimizer_skips_infinite_gradients(host):
    inner = keras_legacy_opt.SGD(1.0)
    wrapper = host.mixed_precision.LossScaleOptimizer(inner, initial_scale=4.0)
    variable = tf.Variable([1.0, 2.0])
    if host is keras:
        variable = keras.Variable(variable)
        wrapper.build([variable])

    def step(*scaled):
        grads = [tf.constant(scaled)]
        if host is keras:
            wrapper.apply(grads, [variable])
        else:
            grads = wrapper.get_unscaled_gradients(grads)
            wrapper.apply_gradients(zip(grads, [variable], strict=True))
        return variable.numpy().tolist()

    assert step(4.0, 0.0) == [0.0, 2.0]
    assert step(np.inf, 0.0) == [0.0, 2.0]  # Skipped; the scale halves.
    # tf_keras counts skipped steps, too.
    assert int(inner.iterations) == (1 if host is keras else 2)
    assert step(0.0, 2.0) == [0.0, 1.0]


def test_loss_scale_factor(data):
    """Keras 3 scales the loss by this attribute; we unscale the gradients."""
    weights = []
    for factor in (None, 1024.0):
        model, optimizer = embedding_model(keras), keras_legacy_opt.SGD(0.1)
        optimizer.loss_scale_factor = factor
        fit(model, optimizer, data[1], data[2])
        weights.append(model.get_weights())
    for plain, scaled in zip(*weights, strict=True):
        np.testing.assert_array_equal(plain, scaled)  # A power of 2 is exact.


@pytest.mark.skipif(
    not hasattr(keras.optimizers, "MultiOptimizer"),
    reason="came after Keras 3.12",
)
def test_multi_optimizer(data):
    """Keras 3's MultiOptimizer: each variable by its own optimizer."""
    kernels, biases = keras_legacy_opt.Adam(0.05), keras_legacy_opt.SGD(0.1)
    model = dense_model(keras)
    mapping = keras.optimizers.OptimizerMap(kernels, {".*/bias": biases})
    fit(model, keras.optimizers.MultiOptimizer(mapping), data[0], data[2])

    expected = dense_model(keras)
    kernel_part, bias_part = (
        keras_legacy_opt.Adam(0.05),
        keras_legacy_opt.SGD(0.1),
    )
    x, _, y = data
    for start in list(range(0, 48, 16)) * 2:
        batch = slice(start, start + 16)
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((expected(x[batch]) - y[batch]) ** 2)
        variables = expected.trainable_variables
        pairs = list(
            zip(tape.gradient(loss, variables), variables, strict=True)
        )
        kernel_part.apply_gradients(pairs[::2])
        bias_part.apply_gradients(pairs[1::2])

    assert int(kernels.iterations) == int(biases.iterations) == 6
    _assert_near(model.get_weights(), expected.get_weights(), steps=12)


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("name", ["SGD", "Adam", "Nadam"])
def test_state_is_there_right_after_loading(
    name, wrapped, host, data, tmp_path
):
    """Without a step, and without `build`."""
    model, optimizer = dense_model(host), getattr(keras_legacy_opt, name)()
    if wrapped:
        optimizer = keras_legacy_opt.LossScaleOptimizer(optimizer)
    fit(model, optimizer, data[0], data[2])
    path = str(tmp_path / "model.keras")
    model.save(path)

    loaded = host.models.load_model(path).optimizer

    assert int(loaded.iterations) == 6
    for a, e in zip(loaded.get_weights(), optimizer.get_weights(), strict=True):
        np.testing.assert_array_equal(a, e)
