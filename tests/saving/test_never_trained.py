"""Files of Keras 3 that were saved before all variables were trained."""

import contextlib
import copy

import keras
import numpy as np
import pytest
import registry
import tensorflow as tf
import test_frozen_layers as layers
import tf_keras
from test_hdf5_of_several import everyone

from keras_legacy_opt import Adam, Nadam, addons, checkpoints
from keras_legacy_opt.state.variables import var_key

HOSTS = pytest.mark.parametrize(
    "host", [keras, tf_keras], ids=["keras3", "tf_keras"]
)
ROWS = (*registry.BUILT_IN, *registry.ADDONS, *registry.WRAPPERS)
# Which layer was frozen when the others were trained; if none, none was.
HISTORIES = [None, "first"]


def new_model(host, case, seed):
    host.utils.set_random_seed(seed)
    return layers.make_model(host, case.build(registry.SUBJECT))


def saved(host, case, frozen, suffix, folder):
    """A model, and its file."""
    model = new_model(host, case, 0)
    if frozen:
        layers.freeze(model, frozen)
        layers.train(model)
        layers.freeze(model)
    path = str(folder / f"m{suffix}")
    (model.save if suffix == ".keras" else model.save_weights)(path)
    return model, path


def state(model):
    """{(which optimizer, weight of the model or scalar, slot): value}."""
    found = {}
    for i, each in enumerate(everyone(model.optimizer)):
        for name, child in each._trackable_children().items():
            if hasattr(child, "numpy"):
                found[i, name, ""] = child.numpy()
        for j, weight in enumerate(model.weights):
            for name in each.get_slot_names():
                with contextlib.suppress(KeyError):
                    found[i, j, name] = each.get_slot(weight, name).numpy()
    return found


def assert_as_in_file(other, model, case, host):
    """What the file lacks is as in a new optimizer of the weights in it."""
    new = new_model(host, case, 2)
    new.set_weights(model.get_weights())
    new.optimizer.build(new.trainable_variables)
    for a, b in zip(other.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    expected = state(new)
    for i, each in enumerate(everyone(new.optimizer)):
        for j, weight in enumerate(new.weights):  # SWA's first are zeros.
            for name in getattr(each, "_COPIES", ()):
                expected[i, j, name] = weight.numpy()
    expected |= state(model)
    found = state(other)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_array_equal(found[key], value, str(key))


@pytest.mark.parametrize("frozen", HISTORIES)
@pytest.mark.parametrize("case", registry.own_cases(ROWS), ids=str)
def test_restore_into_a_trained_model(case, frozen, tmp_path):
    model, path = saved(keras, case, frozen, ".weights.h5", tmp_path)
    other = new_model(keras, case, 1)
    layers.train(other)
    report = checkpoints.restore(path, other)
    assert_as_in_file(other, model, case, keras)
    lacking = [e for e in report.entries if "not in the file" in e.reason]
    weights = other.get_layer(frozen).weights if frozen else other.weights
    anew = [key for key in state(other) if key[2] and key[1] < len(weights)]
    if not frozen:  # Some have scalars that come with the slots.
        scalars = {key for key in state(other) if not key[2]}
        anew += scalars - {*state(model)}
    assert len(lacking) == len(anew)


@HOSTS
@pytest.mark.parametrize("frozen", HISTORIES)
@pytest.mark.parametrize("case", registry.own_cases(registry.WRAPPERS), ids=str)
def test_load_model(case, frozen, host, tmp_path):
    """Which makes wrappers before it has the weights."""
    model, path = saved(host, case, frozen, ".keras", tmp_path)
    loaded = host.models.load_model(path)
    loaded.optimizer.build(loaded.trainable_variables)
    assert_as_in_file(loaded, model, case, host)


class LastAttribute(keras.Model):
    """Whose optimizer is loaded before its weights."""

    def __init__(self):
        super().__init__()
        self.zzz = keras.layers.Dense(3)

    def build(self, shape):
        self.zzz.build(shape)

    def call(self, x):
        return self.zzz(x)


def test_averages_begin_as_weights_that_come_later(tmp_path):
    models = []
    for seed in range(2):
        keras.utils.set_random_seed(seed)
        model = LastAttribute()
        model.build((None, 3))
        model.compile(addons.MovingAverage("sgd"), "mse")
        models.append(model)
    model, other = models
    model.save_weights(tmp_path / "m.weights.h5")
    other.optimizer.build(other.trainable_variables)
    checkpoints.restore(tmp_path / "m.weights.h5", other)
    for variable in other.trainable_variables:
        average = other.optimizer.get_slot(variable, "average")
        np.testing.assert_array_equal(average, variable)
    np.testing.assert_array_equal(other.zzz.kernel, model.zzz.kernel)


def gradients(variables):
    return [(tf.ones(v.shape), v) for v in variables]


def test_variables_beside_the_model_with_names_that_do_not_tell(tmp_path):
    """The model that wrote a file restores it, whatever it trains besides."""
    model = keras.Sequential(
        [
            keras.Input((2,)),
            keras.layers.Dense(2),
            keras.layers.BatchNormalization(),
        ]
    )
    model.compile(Adam(0.1), "mse")
    others = [tf.Variable(1.0, name=f"log_sigma_{x}") for x in "ab"]
    pairs = gradients([*model.trainable_variables, *others])
    model.optimizer.apply_gradients(pairs)
    saved_state, weights = state(model), model.get_weights()
    model.save_weights(tmp_path / "m.weights.h5")
    model.optimizer.apply_gradients(pairs)
    report = checkpoints.restore(tmp_path / "m.weights.h5", model)
    assert not [e for e in report.entries if e.reason]
    for a, b in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(a, b)
    for key, value in state(model).items():
        np.testing.assert_array_equal(value, saved_state[key])


@pytest.mark.parametrize("make", [Nadam, lambda: addons.MovingAverage("adam")])
def test_a_file_without_state_leaves_the_optimizer(make, tmp_path):
    """Not strictly, it restores the weights; the report says what is left."""
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    model.save_weights(tmp_path / "m.weights.h5")
    model.compile(make(), "mse")
    model.optimizer.apply_gradients(gradients(model.trainable_variables))
    before = state(model)
    with pytest.warns(UserWarning, match="holds no state"):
        report = checkpoints.restore(
            tmp_path / "m.weights.h5", model, strict=False
        )
    for key, value in state(model).items():
        np.testing.assert_array_equal(value, before[key])
    assert len(report.restored) == len(model.weights)
    assert len(report.of("missing")) == len(report.problems) > 4
    assert all("left as it is" in e.reason for e in report.problems)


class InStep(Adam):
    """Makes a slot in the first step, as some do."""

    def _resource_apply_dense(self, grad, var, apply_state=None):
        self.add_slot(var, "seen", "ones").assign(grad)
        return super()._resource_apply_dense(grad, var, apply_state)


class OnlyOnce(Adam):
    """Makes a slot when it is built, and asks for it no more."""

    def _create_slots(self, var_list):
        super()._create_slots(var_list)
        for var in var_list:
            if "seen" not in self._slots[var_key(var)]:
                self.add_slot(var, "seen", "ones").assign(tf.ones_like(var) * 7)


@pytest.mark.parametrize("cls", [InStep, OnlyOnce])
def test_slots_that_are_not_asked_for_again_are_told_of(cls, tmp_path):
    """Nobody knows what new ones have."""
    model = layers.make_model(keras, cls(0.1))
    path = tmp_path / "m.weights.h5"
    model.save_weights(path)
    layers.train(model)
    seen = [slot for key, slot in state(model).items() if key[2] == "seen"]
    with pytest.warns(UserWarning, match="left as they are") as caught:
        report = checkpoints.restore(path, model)
    assert all(
        f"{w.path}/seen" in str(caught[0].message)
        for w in model.trainable_variables
    )
    assert len(report.problems) == len(seen) == 6
    assert all(e.target.endswith("/seen") for e in report.problems)
    found = state(model)
    left = [slot for key, slot in found.items() if key[2] == "seen"]
    np.testing.assert_equal(left, seen)
    for key, slot in found.items():
        assert key[2] not in ("m", "v") or not slot.any()


def test_a_new_optimizer_has_new_slots_anyhow(tmp_path):
    model = layers.make_model(keras, OnlyOnce(0.1))
    model.save_weights(tmp_path / "m.weights.h5")
    model.optimizer.build(model.trainable_variables)
    report = checkpoints.restore(tmp_path / "m.weights.h5", model)
    assert not report.problems


class Refusing(Adam):
    """Cannot be asked for what it has."""

    is_asked_again = False

    def _create_slots(self, var_list):
        super()._create_slots(var_list)
        if self.is_asked_again:
            raise RuntimeError("again")


def test_nothing_changes_if_first_values_are_not_known():
    store, optimizer = {}, Refusing(0.5, beta_1=0.5)
    new, var = Adam(0.1), tf.Variable([1.0])
    new.build([])
    new.save_own_variables(store)
    optimizer.apply_gradients(gradients([var]))
    before = optimizer.get_weights()
    optimizer.is_asked_again = True
    with pytest.raises(RuntimeError, match="again"):
        optimizer.load_own_variables(store)
    np.testing.assert_equal(optimizer.get_weights(), before)
    assert float(optimizer.learning_rate) == float(optimizer.beta_1) == 0.5


class OfTenths(Adam):
    """With slots that begin as numbers."""

    def _create_slots(self, var_list):
        super()._create_slots(var_list)
        for var in var_list:
            self.add_slot(var, "tenth", 0.1, shape=[])


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_numbers_have_the_precision_of_their_slots(dtype):
    store, optimizer = {}, OfTenths(0.1)
    var = tf.Variable([1.0], dtype=dtype)
    optimizer.build([])
    optimizer.save_own_variables(store)
    optimizer.build([var])
    slot = optimizer.get_slot(var, "tenth")
    expected = slot.numpy()
    slot.assign(3.0)
    optimizer.load_own_variables(store)
    assert slot.numpy() == expected


@pytest.mark.parametrize(
    "make", [Nadam, lambda: addons.MovingAverage("adam"), lambda: OfTenths(0.1)]
)
def test_a_finalized_graph(make):
    """Loading adds nothing to a graph of TensorFlow 1."""
    store = {}
    new = make()
    new.build([])
    new.save_own_variables(store)
    with tf.Graph().as_default() as graph, tf.compat.v1.Session() as session:
        var, optimizer = tf.compat.v1.get_variable("v", [2]), make()
        op = optimizer.apply_gradients([(tf.ones([2]), var)])
        session.run(tf.compat.v1.global_variables_initializer())
        own = optimizer._weights  # Not those of the one inside.
        before = session.run(own)
        for _ in range(2):
            session.run(op)
        now = session.run(var)
        graph.finalize()
        optimizer.load_own_variables(store)
        for weight, first in zip(own, before, strict=True):
            is_average = "average" in weight.name
            expected = now if is_average else first
            np.testing.assert_array_equal(session.run(weight), expected)


class Large:
    """An initializer that has no copy."""

    def __call__(self, shape, dtype):
        return tf.fill(shape, tf.constant(7, dtype))

    def __deepcopy__(self, memo):
        raise RuntimeError("This is large.")


def test_copies_share_initializers():
    """And each has variables, and first values of them, of its own."""
    store, optimizer, var = {}, Adam(0.1), tf.Variable([1.0])
    optimizer.build([])
    optimizer.save_own_variables(store)
    seen = optimizer.add_weight("seen", [], "int32", Large())
    optimizer.build([var])
    copied = copy.deepcopy(optimizer)
    copied.add_weight("more", [], "int32", Large())
    optimizer.load_own_variables(store)
    seen.assign(0)
    optimizer.load_own_variables(store)
    assert int(seen) == 7
    assert optimizer._first_values.keys() < copied._first_values.keys()
