"""What people build on these optimizers computes what it does on legacy's.

Each optimizer of the kit is made twice, of the same source, and both train side
by side: all bits agree, those of the variables and of the weights.
"""

import keras
import numpy as np
import pytest
import subclass_kit
import tensorflow as tf
import tf_keras

import keras_legacy_opt

# Its bits are legacy's also where TensorFlow rewrites a graph.
pytestmark = pytest.mark.usefixtures("plain_path")

LIBRARIES = (keras_legacy_opt, tf_keras.optimizers.legacy)
every_pattern = pytest.mark.parametrize("make", subclass_kit.KIT)
every_traced_pattern = pytest.mark.parametrize(
    "make",
    [m for m in subclass_kit.KIT if m is not subclass_kit.updates_in_functions],
)

# The loss is a mean of eight squares: to divide by a power of two is exact, in
# whatever order a Keras has TensorFlow do it.
TOKENS = np.array([[0, 2], [2, 3], [5, 0], [2, 2]] * 2, "int32")
LABELS = np.arange(8.0, dtype="float32").reshape(8, 1) / 4 - 1
STEPS = 4
INITIAL = {
    "embedding": np.arange(12.0).reshape(6, 2) / 8 - 0.75,
    "kernel": np.arange(4.0).reshape(4, 1) / 4 - 0.5,
    "bias": np.array([0.25]),
}


def make_variables():
    return [
        tf.Variable(value.astype("float32"), name=name)
        for name, value in INITIAL.items()
    ]


def loss(variables):
    table, kernel, bias = variables
    rows = tf.reshape(tf.gather(table, TOKENS), (len(TOKENS), 4))
    return tf.reduce_mean((tf.tanh(rows @ kernel + bias) - LABELS) ** 2)


class Training:
    """An optimizer and the variables that it trains."""

    def __init__(self, make, library, wrap=lambda step: step):
        self.optimizer = make(library)
        self.variables = make_variables()
        self.step = wrap(self._step)
        self.checkpoint = tf.train.Checkpoint(
            optimizer=self.optimizer, variables=self.variables
        )

    def _step(self):
        self.optimizer.minimize(lambda: loss(self.variables), self.variables)

    def state(self):
        return {
            **{v.name: v.numpy() for v in self.variables},
            **{
                f"weight {i}": weight.numpy()
                for i, weight in enumerate(self.optimizer.weights)
            },
            "iterations": self.optimizer.iterations.numpy(),
        }

    def values_by_name(self):
        """In any order: legacy lists slots as they are restored.

        What it has restored has no scope in its name.
        """
        variables = [*self.variables, *self.optimizer.weights]
        return sorted(
            (v.name.rpartition("/")[2], str(v.numpy().tolist()))
            for v in variables
        )


def assert_equal(ours, legacy):
    assert list(ours) == list(legacy)
    for name, value in legacy.items():
        np.testing.assert_array_equal(ours[name], value, err_msg=name)
        assert np.isfinite(value).all()


@every_pattern
def test_eager_steps(make):
    ours, legacy = (Training(make, library) for library in LIBRARIES)
    for _ in range(STEPS):
        ours.step()
        legacy.step()
        assert_equal(ours.state(), legacy.state())


@pytest.mark.parametrize("library", LIBRARIES)
def test_nothing_returned_in_a_function(library):
    make = subclass_kit.updates_in_functions
    with pytest.raises(TypeError, match="None"):
        Training(make, library, tf.function).step()


@every_traced_pattern
def test_steps_of_a_function(make):
    """The learning rate is changed between two steps."""
    ours, legacy = (
        Training(make, library, tf.function) for library in LIBRARIES
    )
    for step in range(STEPS):
        for training in (ours, legacy):
            if step == 2:
                optimizer = training.optimizer
                parts = getattr(optimizer, "optimizers_of_parts", [optimizer])
                parts[-1].learning_rate = 0.5
            training.step()
        assert_equal(ours.state(), legacy.state())


# Whose hyperparameters are flags or integers, legacy cannot read, nor its own.
UNREADABLE = (
    subclass_kit.accumulating,
    subclass_kit.hyperparameters_of_all_kinds,
)


@pytest.mark.parametrize("make", UNREADABLE)
def test_unreadable_for_legacy(make, tmp_path):
    writer, reader = (Training(make, LIBRARIES[1]) for _ in range(2))
    writer.step()
    reader.checkpoint.restore(writer.checkpoint.save(tmp_path / "checkpoint"))
    with pytest.raises(ValueError, match="conversion requested dtype float32"):
        reader.step()


@pytest.mark.parametrize(
    ("make", "is_back"),
    [
        (make, is_back)
        for make in subclass_kit.KIT
        for is_back in ([False] if make in UNREADABLE else [False, True])
    ],
)
def test_checkpoints(make, is_back, tmp_path):
    """Those of one are read by the other, which goes on with the same bits."""
    libraries = LIBRARIES if is_back else LIBRARIES[::-1]
    writer, reader = (Training(make, library) for library in libraries)
    for _ in range(2):
        writer.step()
    path = writer.checkpoint.save(tmp_path / "checkpoint")
    # Before the first step: slots and all are restored as they are created.
    status = reader.checkpoint.restore(path)
    for training in (writer, reader):
        training.step()
        training.step()
    status.assert_consumed()
    assert sorted(name for name, _ in tf.train.list_variables(path)) == sorted(
        name
        for name, _ in tf.train.list_variables(
            reader.checkpoint.save(tmp_path / "again")
        )
    )
    written, read = writer.values_by_name(), reader.values_by_name()
    assert read == written


@every_pattern
def test_configurations(make):
    """They are equal, and so is an optimizer that is made of them."""
    ours, legacy = (make(library) for library in LIBRARIES)
    try:
        config = legacy.get_config()
    except NotImplementedError:
        pytest.raises(NotImplementedError, ours.get_config)
        return
    assert ours.get_config() == config
    copy = type(ours).from_config(ours.get_config())
    assert copy.get_config() == config


def fit(host, make, library):
    """Returns the weights of a model and of its optimizer after `fit`."""
    layers = host.layers
    model = host.Sequential(
        [
            layers.Input((2,), dtype="int32"),
            layers.Embedding(6, 2),
            layers.Flatten(),
            layers.Dense(1, "tanh"),
        ]
    )
    model.set_weights(list(INITIAL.values()))
    if host is keras and make in OVERRIDING_MINIMIZE:
        model = keras_legacy_opt.with_minimize(model)
    optimizer = make(library)
    model.compile(
        optimizer,
        lambda y, p: tf.reduce_mean((y - p) ** 2),
        run_eagerly=make is subclass_kit.updates_in_functions,
    )
    model.fit(TOKENS, LABELS, 4, epochs=2, shuffle=False, verbose=0)
    return [*model.get_weights(), *(w.numpy() for w in optimizer.weights)]


# Of the gradients that they compute, Keras 3's own `fit` would know nothing.
OVERRIDING_MINIMIZE = (
    subclass_kit.delegating_wrapper,
    subclass_kit.patched_instance,
    subclass_kit.private_gradients,
    subclass_kit.sharpness_aware,
)


@every_pattern
def test_fit(make):
    """In Keras 3, as legacy's in tf_keras."""
    ours = fit(keras, make, keras_legacy_opt)
    legacy = fit(tf_keras, make, tf_keras.optimizers.legacy)
    for our, their in zip(ours, legacy, strict=True):
        np.testing.assert_array_equal(our, their)


@pytest.mark.parametrize(
    "make",
    [
        subclass_kit.extra_entries_of_the_state,
        subclass_kit.own_aggregation,
        subclass_kit.private_gradients,
    ],
)
def test_updates_in_graphs(make):
    """`get_updates`, which asks `get_gradients`."""
    results = []
    for library in LIBRARIES:
        with tf.Graph().as_default(), tf.compat.v1.Session() as session:
            variables, optimizer = make_variables(), make(library)
            updates = optimizer.get_updates(loss(variables), variables)
            weights = [*variables, *optimizer.weights]
            session.run([v.initializer for v in variables])
            session.run(tf.compat.v1.global_variables_initializer())
            for _ in range(STEPS):
                session.run(updates)
            results.append(session.run(weights))
    for ours, legacy in zip(*results, strict=True):
        np.testing.assert_array_equal(ours, legacy)
