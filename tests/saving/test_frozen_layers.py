"""Models whose layers are frozen or thawed between training and saving."""

import contextlib

import h5py
import keras
import numpy as np
import pytest
import tf_keras

import keras_legacy_opt
from keras_legacy_opt import checkpoints
from keras_legacy_opt.checkpoints.conversion import convert

X, Y = np.ones((4, 3), "float32"), np.ones((4, 2), "float32")


def make_model(host, optimizer):
    model = host.Sequential(
        [
            host.layers.Input((3,)),
            # Slots of equal shapes could be swapped in silence.
            host.layers.Dense(3, name="first"),
            host.layers.Dense(3, name="second"),
            host.layers.Dense(2, name="third"),
        ]
    )
    # Of a loss by name, Keras 3 cannot load an HDF5 file.
    loss = host.losses.MeanSquaredError()
    model.compile(optimizer, loss, run_eagerly=True)
    return model


def freeze(model, *names):
    """Freezes the layers of these names, and no others."""
    for layer in model.layers:
        layer.trainable = layer.name not in names
    model.compile(model.optimizer, model.loss, run_eagerly=True)


def train(model):
    model.fit(X, Y, epochs=2, shuffle=False, verbose=0)


def slots(model):
    """{name: slots} of the variables that have any."""
    found = {}
    for layer in model.layers:
        for variable in layer.weights:
            try:
                found[layer.name, variable.name.rpartition("/")[2]] = [
                    model.optimizer.get_slot(variable, name).numpy()
                    for name in model.optimizer.get_slot_names()
                ]
            except KeyError:
                pass
    return found


def assert_same(model, loaded, lacking=()):
    ours, theirs = slots(model), slots(loaded)
    assert ours.keys() <= theirs.keys()
    for name, values in theirs.items():
        wanted = ours.get(name, [np.zeros_like(v) for v in values])
        np.testing.assert_array_equal(values, wanted, str(name))
    assert int(loaded.optimizer.iterations) == int(model.optimizer.iterations)


def assert_trains_alike(model, loaded):
    for each in (model, loaded):
        each.run_eagerly = True
        train(each)
    for ours, theirs in zip(
        model.get_weights(), loaded.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    assert_same(model, loaded)


HISTORIES = {
    "frozen after training": [(), ["first"]],
    "frozen, and trained on": [(), ["first"], None, ["first"]],
    "thawed, and not trained": [["first"], ()],
    "another one is frozen": [["first"], ["second"]],
    "all but one are frozen": [(), ["second", "third"]],
    "thawed and trained": [["second"], (), None],
}


@pytest.mark.filterwarnings("ignore:.*HDF5 file via")
@pytest.mark.filterwarnings("ignore:.*were not trained before it was")
@pytest.mark.parametrize("host", [keras, tf_keras], ids=["keras3", "tf_keras"])
@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("history", HISTORIES.values(), ids=HISTORIES)
def test_each_slot_finds_its_variable(history, suffix, host, tmp_path):
    model = make_model(host, keras_legacy_opt.Nadam(0.1))
    for i, frozen in enumerate(history):
        if frozen is not None:
            freeze(model, *frozen)
        if frozen is None or i == 0:
            train(model)
    path = str(tmp_path / f"model{suffix}")
    model.save(path)
    loaded = host.models.load_model(path)
    assert_same(model, loaded)
    loaded.save(path)  # Nothing is lost by way of another process.
    again = host.models.load_model(path)
    assert_same(model, again)
    assert_trains_alike(model, again)
    for each in (model, again):
        freeze(each)
    assert_trains_alike(model, again)


def thawed(host, optimizer):
    """A model whose first layer was trained last."""
    model = make_model(host, optimizer)
    freeze(model, "first")
    train(model)
    freeze(model)
    train(model)
    return model


@pytest.mark.filterwarnings("ignore:.*HDF5 file via")
@pytest.mark.parametrize("host", [keras, tf_keras], ids=["keras3", "tf_keras"])
@pytest.mark.parametrize(
    "wrap",
    [
        keras_legacy_opt.LossScaleOptimizer,
        keras_legacy_opt.addons.MovingAverage,
        lambda opt: keras_legacy_opt.addons.GradientAccumulation(opt, 2),
    ],
    ids=["LossScaleOptimizer", "MovingAverage", "GradientAccumulation"],
)
def test_hdf5_files_of_wrappers_go_by_names(wrap, host, tmp_path):
    model = thawed(host, wrap(keras_legacy_opt.Adam(0.1)))
    model.save(tmp_path / "model.h5")
    loaded = host.models.load_model(tmp_path / "model.h5")
    # It counts from the loss scale that it began with, as legacy's does.
    assert_trains_alike(model, loaded)


@pytest.mark.filterwarnings("ignore:.*HDF5 file via")
@pytest.mark.parametrize("host", [keras, tf_keras], ids=["keras3", "tf_keras"])
def test_hdf5_files_whose_names_do_not_tell(host, tmp_path):
    """Where the order cannot be right, nothing is restored, with a warning."""
    model = thawed(host, keras_legacy_opt.Adam(0.1))
    path = tmp_path / "model.h5"
    model.save(path)
    with h5py.File(path, "r+") as file:
        group = file["optimizer_weights"]
        names = list(group.attrs["weight_names"].astype(str))
        others = [name.replace("first", "renamed") for name in names]
        for name, other in zip(names, others, strict=True):
            if name != other:
                group.move(name, other)
        group.attrs["weight_names"] = [name.encode() for name in others]
    with pytest.warns(UserWarning, match="in another order than here"):
        loaded = host.models.load_model(path)
    assert int(loaded.optimizer.iterations) == 0
    for values in slots(loaded).values():
        assert not np.any([np.any(value) for value in values])


def test_slots_wait_for_variables_that_come_later(tmp_path):
    """State may reach the optimizer without the model around it."""
    model = make_model(keras, keras_legacy_opt.Adam(0.1))
    train(model)
    store = {}
    model.optimizer.save_own_variables(store)
    other = make_model(keras, keras_legacy_opt.Adam(0.1))
    other.set_weights(model.get_weights())
    freeze(other, "first", "third")
    other.optimizer.build(other.trainable_variables)
    other.optimizer.load_own_variables(store)
    assert set(slots(other)) == {("second", "kernel"), ("second", "bias")}
    kept = {}
    other.optimizer.save_own_variables(kept)
    assert kept.keys() == store.keys()
    freeze(other)
    assert_trains_alike(model, other)


def test_waiting_slots_that_do_not_fit_are_refused():
    model = make_model(keras, keras_legacy_opt.Adam(0.1))
    train(model)
    store = {}
    model.optimizer.save_own_variables(store)
    (name,) = [n for n, v in store.items() if n[0] == "m" and v.size == 6]
    store[name] = store[name].T
    freeze(model, "third")
    model.compile(keras_legacy_opt.Adam(0.1), "mse", run_eagerly=True)
    model.optimizer.build(model.trainable_variables)
    model.optimizer.load_own_variables(store)
    freeze(model)
    before = model.get_weights()
    for _ in range(2):  # No later step trains without it, either.
        with pytest.raises(ValueError, match="do not fit 'sequential.*third"):
            train(model)
    for value, old in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(value, old)


@pytest.mark.parametrize("target", ["checkpoint", "model.h5"])
def test_conversion_of_a_model_that_was_frozen(target, tmp_path):
    model = make_model(keras, keras_legacy_opt.Adam(0.1))
    train(model)
    freeze(model, "second")
    model.save(tmp_path / "model.keras")
    convert(str(tmp_path / "model.keras"), str(tmp_path / target))
    other = make_model(keras, keras_legacy_opt.Adam(0.1))
    checkpoints.restore(str(tmp_path / target), other)
    assert_same(model, other)


def test_state_of_other_layers_is_refused():
    """Where not all names are known, equal numbers could be a coincidence."""
    model = make_model(keras, keras_legacy_opt.Adam(0.1))
    freeze(model, "first")
    train(model)
    store = {}
    model.optimizer.save_own_variables(store)
    freeze(model, "second")
    model.compile(keras_legacy_opt.Adam(0.1), "mse")
    model.optimizer.build(model.trainable_variables)
    with pytest.raises(ValueError, match="of other variables than those"):
        model.optimizer.load_own_variables(store)


def counted(*, frozen=()):
    """A model whose layers Keras names: each has another number."""
    model = keras.Sequential([keras.layers.Input((3,))])
    model.add(keras.layers.Dense(3))
    model.add(keras.Sequential([keras.layers.Dense(3), keras.layers.Dense(3)]))
    model.add(keras.layers.Dense(3))
    model.build((None, 3))
    model.compile(keras_legacy_opt.Nadam(0.1), "mse", run_eagerly=True)
    freeze_numbers(model, frozen)
    return model


def dense_layers(model):
    return [model.layers[0], *model.layers[1].layers, model.layers[2]]


def freeze_numbers(model, numbers):
    for i, layer in enumerate(dense_layers(model)):
        layer.trainable = i not in numbers
    model.compile(model.optimizer, "mse", run_eagerly=True)


def counted_slots(model):
    result = {}
    for i, layer in enumerate(dense_layers(model)):
        for kind in ("kernel", "bias"):
            variable = getattr(layer, kind)
            for slot in ("m", "v"):
                with contextlib.suppress(KeyError):
                    value = model.optimizer.get_slot(variable, slot).numpy()
                    result[i, kind, slot] = value
    return result


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
@pytest.mark.parametrize("generation", [1, 2])
@pytest.mark.parametrize(
    ("history", "frozen"),
    [
        ([(), (1,), None], (1,)),  # Frozen after training.
        ([(0,), (), None], ()),  # Thawed: slots come in another order.
        ([(0,), None], (2,)),  # Another one is frozen here.
        ([(0, 1), (), None], (3,)),
    ],
)
def test_models_that_are_made_once_more(
    history, frozen, generation, suffix, tmp_path
):
    """Keras counts on: names are others, and some may be those of others."""
    model = counted()
    for step, numbers in enumerate(history):
        if numbers is not None:
            freeze_numbers(model, numbers)
        if numbers is None or step == 0:
            model.fit(X, X[:, :3], verbose=0)
    if generation == 2:
        model.save(tmp_path / "first.keras")
        model = keras.models.load_model(tmp_path / "first.keras")
    path = str(tmp_path / f"model{suffix}")
    model.save(path) if suffix == ".keras" else model.save_weights(path)
    other = counted(frozen=frozen)
    keras.layers.Dense(1)  # Keras counts.
    checkpoints.restore(path, other)
    freeze_numbers(other, ())
    other.optimizer.build(other.trainable_variables)
    ours, theirs = counted_slots(model), counted_slots(other)
    for name, value in theirs.items():
        wanted = ours.get(name, np.zeros_like(value))
        np.testing.assert_array_equal(value, wanted, str(name))


@keras.saving.register_keras_serializable("test_frozen_layers")
class Unnamed(keras.layers.Layer):
    """Two weights of one name, and layers that Keras names."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = [keras.layers.Dense(3), keras.layers.Dense(3)]

    def build(self, shape):
        self.scales = [
            self.add_weight(shape=(3,), initializer="ones") for _ in range(2)
        ]
        for layer in self.inner:
            layer.build(shape)

    def call(self, x):
        x = self.inner[0](x * self.scales[0])
        return self.inner[1](x) * self.scales[1]


@keras.saving.register_keras_serializable("test_frozen_layers")
class Subclassed(keras.Model):
    """Layers of equal shapes: one kind of each name, and twins."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.all = [
            Unnamed(),
            keras.layers.Dense(3, name="twin"),
            keras.layers.Dense(3, name="twin"),
            keras.layers.Dense(3),
        ]

    def build(self, shape):
        for layer in self.all:
            layer.build(shape)

    def call(self, x):
        for layer in self.all:
            x = layer(x)
        return x


def nested():
    """Functional models with layers of equal names."""

    def part():
        inputs = keras.Input((3,))
        return keras.Model(inputs, keras.layers.Dense(3, name="q")(inputs))

    inputs = keras.Input((3,))
    return keras.Model(inputs, part()(part()(part()(part()(inputs)))))


def freeze_layers(model, numbers):
    layers = model.all if isinstance(model, Subclassed) else model.layers[1:]
    for i, layer in enumerate(layers):
        layer.trainable = i not in numbers
    model.compile(model.optimizer, "mse", run_eagerly=True)


def assert_same_slots(model, other):
    pairs = zip(model.weights, other.weights, strict=True)
    for i, (ours, theirs) in enumerate(pairs):
        for slot in ("m", "v"):
            try:
                wanted = model.optimizer.get_slot(ours, slot)
            except KeyError:
                wanted = np.zeros(ours.shape)
            value = other.optimizer.get_slot(theirs, slot)
            np.testing.assert_array_equal(value, wanted, f"{slot} of {i}")


@pytest.mark.parametrize(
    ("way", "clear"),
    [
        ("load_model", False),
        ("load_model", True),
        ("restore", False),
        (".weights.h5", False),
    ],
)
@pytest.mark.parametrize(
    "history",
    [[()], [(), (1,)], [(0,), (), None], [(1, 2), (), None, (0,)]],
    ids=str,
)
@pytest.mark.parametrize("make", [Subclassed, nested])
def test_names_do_not_matter(make, history, clear, way, tmp_path):
    """Layers may have one name, or another one in each process."""
    keras.utils.clear_session()
    keras.layers.Dense(1)  # Keras counts.
    model = make()
    model.build((None, 3))
    model.compile(keras_legacy_opt.Nadam(0.1), "mse", run_eagerly=True)
    for step, numbers in enumerate(history):
        if numbers is not None:
            freeze_layers(model, numbers)
        if numbers is None or step == 0:
            model.fit(X, X, verbose=0)
    path = str(tmp_path / f"m{'.weights.h5' if 'h5' in way else '.keras'}")
    model.save_weights(path) if "h5" in way else model.save(path)
    if clear:
        keras.utils.clear_session()
    if way == "load_model":
        other = keras.models.load_model(path)
    else:
        other = make()
        other.build((None, 3))
        other.compile(keras_legacy_opt.Nadam(0.1), "mse", run_eagerly=True)
        freeze_layers(other, (0,))
        checkpoints.restore(path, other)
    freeze_layers(other, ())
    other.optimizer.build(other.trainable_variables)
    assert_same_slots(model, other)
    assert int(other.optimizer.iterations) == int(model.optimizer.iterations)


def test_slots_that_the_file_has_not_begin_anew(tmp_path):
    """As they would in the process that wrote it; the report tells which."""
    model = counted(frozen=(0,))
    model.fit(X, X, verbose=0)
    path = str(tmp_path / "m.weights.h5")
    model.save_weights(path)
    for epochs in (0, 2):
        other = counted()
        other.fit(X, X, epochs=epochs, verbose=0)
        report = checkpoints.restore(path, other)
        np.testing.assert_array_equal(counted_slots(other)[0, "kernel", "m"], 0)
        lacking = [e for e in report.entries if "not in the file" in e.reason]
        assert len(lacking) == 4
        assert all("/dense" in e.target for e in lacking)


def in_order_of(attributes, named):
    """A subclassed model whose attributes are made in some order."""

    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            for name in attributes:
                layer = keras.layers.Dense(3, name=name if named else None)
                setattr(self, name, layer)

        def build(self, shape):
            for name in "abc":
                getattr(self, name).build(shape)

        def call(self, x):
            return self.c(self.b(self.a(x)))

    model = Model()
    model.build((None, 3))
    model.compile(keras_legacy_opt.Nadam(0.1), "mse", run_eagerly=True)
    return model


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("frozen", [None, "a", "b"])
def test_the_order_of_attributes_does_not_matter(frozen, named, tmp_path):
    """Keras finds weights by attributes, too."""
    model = in_order_of("abc", named)
    if frozen:
        getattr(model, frozen).trainable = False
    model.fit(X, X, verbose=0)
    path = str(tmp_path / "m.weights.h5")
    model.save_weights(path)
    other = in_order_of("cab", named)
    if frozen:
        getattr(other, frozen).trainable = False
    checkpoints.restore(path, other)
    for name in {*"abc"} - {frozen}:
        for ours, theirs in zip(
            getattr(model, name).weights,
            getattr(other, name).weights,
            strict=True,
        ):
            np.testing.assert_array_equal(ours, theirs)
            np.testing.assert_array_equal(
                model.optimizer.get_slot(ours, "m"),
                other.optimizer.get_slot(theirs, "m"),
            )
