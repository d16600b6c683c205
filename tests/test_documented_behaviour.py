"""What the documentation of `tf.keras.optimizers.Optimizer` promised users."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

import keras_legacy_opt
from keras_legacy_opt import SGD, Adam, RMSprop, schedules


@pytest.fixture(params=[keras, tf_keras], ids=["keras3", "tf_keras"])
def host(request):
    return request.param


def test_minimize_of_a_callable_in_eager_mode():
    var1, var2 = tf.Variable(2.0), tf.Variable(5.0)
    opt = SGD(learning_rate=0.1)
    opt.minimize(lambda: 3 * var1 * var1 + 2 * var2 * var2, [var1, var2])
    np.testing.assert_allclose([var1, var2], [0.8, 3.0], rtol=1e-6)


def test_minimize_returns_an_op_in_graph_mode():
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        var1 = tf.compat.v1.get_variable("var1", initializer=2.0)
        var2 = tf.compat.v1.get_variable("var2", initializer=5.0)
        opt = SGD(learning_rate=0.1)
        opt_op = opt.minimize(
            lambda: 3 * var1 * var1 + 2 * var2 * var2, var_list=[var1, var2]
        )
        session.run(tf.compat.v1.global_variables_initializer())
        opt_op.run()
        values = session.run([var1, var2, opt.iterations])
    np.testing.assert_allclose(values, [0.8, 3.0, 1], rtol=1e-6)


def test_callable_var_list_of_a_model_that_is_not_built(host):
    model = host.Sequential(
        [
            host.layers.Dense(4, activation="relu"),
            host.layers.Dense(2, activation="sigmoid"),
        ]
    )
    opt = SGD(learning_rate=0.1)
    rng = np.random.default_rng(0)
    losses = []
    x, y = rng.random((8, 3), "float32"), rng.random((8, 2), "float32")

    def loss_fn():
        loss = tf.reduce_mean((model(x) - y) ** 2)
        losses.append(float(loss))
        return loss

    for _ in range(5):
        opt.minimize(loss_fn, lambda: model.trainable_weights)
    assert losses[-1] < losses[0]
    assert int(opt.iterations) == 5


def test_processing_gradients_in_three_steps():
    variables = [tf.Variable([1.0, -2.0]), tf.Variable(3.0)]
    opt = SGD(learning_rate=0.1)
    with tf.GradientTape() as tape:
        loss = tf.add_n([tf.reduce_sum(v**2) for v in variables])
    grads = tape.gradient(loss, variables)
    capped = [tf.clip_by_value(g, -3.0, 3.0) for g in grads]
    opt.apply_gradients(zip(capped, variables, strict=True))
    np.testing.assert_allclose(variables[0], [0.8, -1.7], rtol=1e-6)
    np.testing.assert_allclose(variables[1], 2.7, rtol=1e-6)


def test_gradients_that_the_caller_aggregated():
    variable = tf.Variable([1.0, 2.0])
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(variable**2)
    grads = tape.gradient(loss, [variable])
    grads = tf.distribute.get_replica_context().all_reduce("sum", grads)

    def forbidden(grads_and_vars):
        raise AssertionError

    opt = SGD(0.5, gradient_aggregator=forbidden)
    opt.apply_gradients(
        zip(grads, [variable], strict=True),
        experimental_aggregate_gradients=False,
    )
    np.testing.assert_array_equal(variable, [0.0, 0.0])


def test_minimize_of_a_tensor_and_its_tape():
    variable = tf.Variable([1.0, 2.0])
    with tf.GradientTape() as tape:
        loss = variable**2
    SGD(0.5).minimize(
        loss, [variable], grad_loss=tf.constant([1.0, 0.5]), tape=tape
    )
    np.testing.assert_array_equal(variable, [0.0, 1.0])


def test_overwriting_a_hyperparameter():
    var1, var2 = tf.Variable(2.0), tf.Variable(5.0)
    opt = SGD(learning_rate=0.1)
    for rate in (0.1, 0.05):
        opt.learning_rate = rate
        opt.minimize(lambda: 3 * var1 + 2 * var2, var_list=[var1, var2])
    np.testing.assert_allclose([var1, var2], [1.55, 4.7], rtol=1e-6)


def test_a_schedule_is_called_with_the_iterations():
    var = tf.Variable(np.random.default_rng(0).random((1,)))
    start = var.numpy()
    schedule = schedules.ExponentialDecay(
        initial_learning_rate=0.01, decay_steps=20, decay_rate=0.1
    )
    opt = SGD(learning_rate=schedule)
    for _ in range(3):
        opt.minimize(lambda: 3 * var, var_list=[var])
    rates = 0.01 * 0.1 ** (np.arange(3) / 20)
    np.testing.assert_allclose(var, start - 3 * rates.sum(), rtol=1e-6)


def test_a_callable_is_called_at_every_step():
    var = tf.Variable(np.random.default_rng(0).random((1,)))
    start = var.numpy()
    rates = iter([0.1, 0.2])
    opt = SGD(learning_rate=lambda: next(rates))
    for _ in range(2):
        opt.minimize(lambda: 3 * var, var_list=[var])
    np.testing.assert_allclose(var, start - 3 * 0.3, rtol=1e-6)


def test_training_loop_over_a_dataset(host):
    host.utils.set_random_seed(0)
    model = host.Sequential([host.layers.Dense(3)])
    loss_fn = host.losses.SparseCategoricalCrossentropy(from_logits=True)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(30, 4)).astype("float32")
    dataset = tf.data.Dataset.from_tensor_slices((x, x[:, :3].argmax(1)))
    optimizer, losses = Adam(0.1), []
    for batch, labels in dataset.batch(10).repeat(5):
        with tf.GradientTape() as tape:
            loss_value = loss_fn(labels, model(batch))
        gradients = tape.gradient(loss_value, model.trainable_weights)
        optimizer.apply_gradients(
            zip(gradients, model.trainable_weights, strict=True)
        )
        losses.append(float(loss_value))
    assert losses[-1] < losses[0] / 2


def _trained_rmsprop(host):
    opt = RMSprop()
    model = host.Sequential([host.layers.Dense(10)])
    model.compile(opt, loss="mse")
    data = np.arange(100).reshape(5, 20)
    model.fit(data, np.zeros((5, 10)), verbose=0)
    return opt, model


def test_get_weights_of_rmsprop_on_one_dense_layer(host):
    opt, _ = _trained_rmsprop(host)
    assert len(opt.get_weights()) == 3
    assert [w.shape for w in opt.get_weights()] == [(), (20, 10), (10,)]


def test_set_weights_moves_the_iterations(host):
    opt, model = _trained_rmsprop(host)
    opt.set_weights([np.array(10), np.ones([20, 10]), np.zeros([10])])
    assert "'RMSprop/iter:0' shape=() dtype=int64, numpy=10" in repr(
        opt.iterations
    )
    kernel = model.trainable_variables[0]
    np.testing.assert_array_equal(
        opt.get_slot(kernel, "rms"), np.ones((20, 10))
    )


def test_compile_with_a_configured_optimizer(host):
    model = host.Sequential(
        [
            host.layers.Input((10,)),
            host.layers.Dense(64, kernel_initializer="random_uniform"),
            host.layers.Activation("softmax"),
        ]
    )
    opt = Adam(learning_rate=0.01)
    model.compile(loss="categorical_crossentropy", optimizer=opt)
    rng = np.random.default_rng(0)
    labels = np.eye(64)[rng.integers(0, 64, 16)]
    history = model.fit(rng.random((16, 10)), labels, epochs=5, verbose=0)
    assert history.history["loss"][-1] < history.history["loss"][0]


def test_gradient_transformers_come_after_aggregation():
    calls = []

    def aggregator(grads_and_vars):
        calls.append("aggregate")
        return grads_and_vars

    def double(grads_and_vars):
        calls.append("double")
        return [(2.0 * g, v) for g, v in grads_and_vars]

    variable = tf.Variable(1.0)
    SGD(
        0.1, gradient_aggregator=aggregator, gradient_transformers=[double]
    ).apply_gradients([(tf.constant(1.0), variable)])
    assert calls == ["aggregate", "double"]
    assert float(variable) == np.float32(0.8)


@pytest.mark.parametrize("sparse", [False, True])
def test_constraint_is_applied_after_the_update(sparse):
    """Sparse gradients, too, which legacy refused."""
    variable = tf.Variable(
        [[1.0], [2.0]], constraint=lambda v: tf.clip_by_value(v, 0.0, 1.5)
    )
    gradient = tf.constant([[10.0], [0.0]])
    if sparse:
        gradient = tf.IndexedSlices(tf.constant([[10.0]]), [0], [2, 1])
    SGD(1.0).apply_gradients([(gradient, variable)])
    np.testing.assert_array_equal(variable, [[0.0], [1.5]])


def test_slots_have_names():
    variable = tf.Variable([1.0], name="kernel")
    opt = Adam(amsgrad=True)
    opt.minimize(lambda: variable**2, [variable])
    assert opt.get_slot_names() == ["m", "v", "vhat"]
    assert opt.get_slot(variable, "vhat").name == "Adam/kernel/vhat:0"
    assert opt.iterations.name == "Adam/iter:0"
    assert opt.learning_rate.name == "Adam/learning_rate:0"
    assert [w.name for w in opt.weights] == [
        "Adam/iter:0",
        *(f"Adam/kernel/{slot}:0" for slot in ("m", "v", "vhat")),
    ]
    assert opt.variables() == opt.variables == opt.weights


def test_names_in_a_model(host):
    model = host.Sequential(
        [host.layers.Input((2,)), host.layers.Dense(1, name="dense")],
        name="model",
    )
    model.compile(Adam(), "mse")
    model.fit(np.ones((1, 2)), np.ones((1, 1)), verbose=0)
    # A Keras 3 variable's path may start with the model's name.
    names = [w.name.replace("model/", "") for w in model.optimizer.weights]
    assert names == [
        "Adam/iter:0",
        "Adam/dense/kernel/m:0",
        "Adam/dense/bias/m:0",
        "Adam/dense/kernel/v:0",
        "Adam/dense/bias/v:0",
    ]


def test_optimizers_without_a_name_get_one():
    first, second = SGD(name=None), SGD(name=None)
    base, _, number = second.get_config()["name"].rpartition("_")
    assert first.get_config()["name"] in ("sgd", f"{base}_{int(number) - 1}")
    assert base == "sgd"


def test_public_names():
    assert sorted(keras_legacy_opt.__all__) == sorted(
        [
            *("SGD", "RMSprop", "Adam", "Adadelta", "Adagrad", "Adamax"),
            *("LossScaleOptimizer", "Nadam", "Ftrl", "Optimizer", "schedules"),
            *("checkpoints", "get", "serialize", "deserialize"),
            *("install", "installed", "uninstall"),
            *("addons", "explain", "summaries", "train_step"),
            "with_minimize",
        ]
    )
