"""HDF5 files of a MultiOptimizer: each weight goes where its name says."""

import zlib

import h5py
import keras
import numpy as np
import pytest
import test_frozen_layers as layers
import tf_keras

import keras_legacy_opt as klo
from keras_legacy_opt import SGD, Adam, Nadam, addons, checkpoints
from keras_legacy_opt.checkpoints import conversion

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*HDF5 file via"),
    pytest.mark.filterwarnings("ignore:.*were not trained before it was"),
]
HOSTS = pytest.mark.parametrize(
    "host", [keras, tf_keras], ids=["keras3", "tf_keras"]
)


def of_all_kinds(first, second, third):
    """Of one class, in a wrapper, with a scalar of its own."""
    wrapped = addons.MovingAverage(Adam(0.02))
    return addons.MultiOptimizer(
        [(Nadam(0.1), [third]), (wrapped, first), (Adam(0.03), [second])]
    )


MAKERS = {
    "bare": of_all_kinds,
    "GradientAccumulation": lambda *a: addons.GradientAccumulation(
        of_all_kinds(*a), 2
    ),
    "MovingAverage": lambda a, b, c: addons.MovingAverage(
        addons.MultiOptimizer([(Adam(0.1), [c, a]), (Nadam(0.2), b)])
    ),
    "LossScaleOptimizer": lambda *a: klo.LossScaleOptimizer(of_all_kinds(*a)),
}
# Something is frozen, or is first trained when all else was.
HISTORIES = {
    name: history
    for name, history in layers.HISTORIES.items()
    if name != "all but one are frozen"
}


def make_model(host, make=of_all_kinds):
    model = layers.make_model(host, "sgd")
    model.compile(make(*model.layers), model.loss, run_eagerly=True)
    return model


def with_history(host, make, history):
    model = make_model(host, make)
    for i, frozen in enumerate(history):
        if frozen is not None:
            layers.freeze(model, *frozen)
        if frozen is None or i == 0:
            layers.train(model)
    return model


def everyone(optimizer):
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    inside = getattr(optimizer, "optimizers", [])
    if hasattr(optimizer, "_optimizer"):
        inside = [optimizer._optimizer]
    return [optimizer, *(o for each in inside for o in everyone(each))]


def state(model):
    """{(which optimizer, weight of the model or scalar, slot): value}."""
    found = {}
    for i, each in enumerate(everyone(model.optimizer)):
        found[i, "iter", ""] = int(each.iterations)
        for name in each._hyper:
            found[i, name, ""] = float(getattr(each, name))
        for name in ("_m_cache",):
            if hasattr(each, name):
                found[i, name, ""] = float(getattr(each, name))
        for j, weight in enumerate(model.weights):
            for name in each.get_slot_names():
                try:
                    value = each.get_slot(weight, name).numpy()
                except KeyError:
                    continue
                found[i, j, name] = value
    return found


def assert_same_state(model, other):
    ours, theirs = state(model), state(other)
    assert ours.keys() <= theirs.keys()
    for key, value in ours.items():
        np.testing.assert_array_equal(theirs[key], value, str(key))


@HOSTS
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize("history", HISTORIES.values(), ids=HISTORIES)
def test_load_model(history, make, host, tmp_path):
    model = with_history(host, make, history)
    model.save(tmp_path / "m.h5")
    loaded = host.models.load_model(tmp_path / "m.h5")
    assert_same_state(model, loaded)
    for each in (model, loaded):
        each.run_eagerly = True
        layers.train(each)
    for a, b in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@HOSTS
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize("history", HISTORIES.values(), ids=HISTORIES)
def test_restore(history, make, host, tmp_path):
    """Into a new model, of which nothing or something is frozen."""
    model = with_history(host, make, history)
    model.save(tmp_path / "m.h5")
    for frozen in ((), ("first",)):
        other = make_model(host, make)
        layers.freeze(other, *frozen)
        checkpoints.restore(tmp_path / "m.h5", other, strict=False)
        assert_same_state(model, other)


@HOSTS
def test_another_order_of_pairs_is_refused(host, tmp_path):
    """Slots would go by their variables, all else by numbers."""

    def other_order(a, b, c):
        return addons.MultiOptimizer([(Adam(0.1), b), (Adam(0.2), [a, c])])

    model = with_history(
        host,
        lambda a, b, c: addons.MultiOptimizer(
            [(Adam(0.1), a), (Adam(0.2), [b, c])]
        ),
        [()],
    )
    model.save(tmp_path / "m.h5")
    checkpoints.save(tmp_path / "c", model)
    for name, words in (
        ("m.h5", "first/kernel .*is under optimizer_1 here"),
        ("c", "of optimizer_0 in the file, but its .*optimizer_1 here"),
    ):
        other = make_model(host, other_order)
        before = state(other)
        with pytest.raises(checkpoints.MismatchError, match=words):
            checkpoints.restore(tmp_path / name, other)
        report = checkpoints.restore(tmp_path / name, other, strict=False)
        assert not [e for e in report.restored if e.target.endswith("first/m")]
        assert report.of("mismatch")
        assert before.keys() <= state(other).keys()


def rename_weights(path, change):
    """Renames weights of the optimizer in a file."""
    with h5py.File(path, "r+") as file:
        group = file["optimizer_weights"]
        names = list(group.attrs["weight_names"].astype(str))
        others = [change(name) for name in names]
        for name, other in zip(names, others, strict=True):
            if name != other:
                group.move(name, other)
        group.attrs["weight_names"] = [name.encode() for name in others]


@HOSTS
@pytest.mark.parametrize(
    "change",
    [
        lambda name: name.replace("first", "renamed"),
        lambda name: name.replace("Nadam", "Other"),
        lambda name: f"w{zlib.crc32(name.encode())}",
    ],
)
def test_names_that_do_not_tell(change, host, tmp_path):
    """Nothing is restored by order, which is a matter of chance."""
    model = with_history(host, of_all_kinds, [()])
    model.save(tmp_path / "m.h5")
    rename_weights(tmp_path / "m.h5", change)
    with pytest.warns(UserWarning, match="do not say which optimizer's"):
        loaded = host.models.load_model(tmp_path / "m.h5")
    assert not any(int(o.iterations) for o in loaded.optimizer.optimizers)
    other = make_model(host)
    with pytest.raises(checkpoints.MismatchError, match="name does not say"):
        checkpoints.restore(tmp_path / "m.h5", other)
    assert int(other.optimizer.iterations) == 0


def test_optimizers_of_one_name(tmp_path):
    """A user may have called the one around like one inside."""

    def make(a, b, c):
        inside = addons.MultiOptimizer([(Adam(0.1), a), (SGD(0.2), [b, c])])
        return addons.GradientAccumulation(inside, 2, name="Adam")

    model = with_history(tf_keras, make, [()])
    model.save(tmp_path / "m.h5")
    with pytest.raises(checkpoints.MismatchError, match="name does not say"):
        checkpoints.restore(tmp_path / "m.h5", make_model(tf_keras, make))


def test_sgd_without_slots(tmp_path):
    """Its iterations and learning rate are all that it has."""

    def make(a, b, c):
        return addons.MultiOptimizer([(SGD(0.1), [a, b]), (Adam(0.2), c)])

    model = with_history(keras, make, [()])
    model.optimizer.optimizers[0].learning_rate = 0.7
    model.optimizer.optimizers[0].iterations.assign(11)
    model.save(tmp_path / "m.h5")
    other = make_model(keras, make)
    assert not checkpoints.restore(tmp_path / "m.h5", other).problems
    assert_same_state(model, other)


OF_REPEATED_NAMES = {
    "Nadam": lambda *_: Nadam(0.1),
    "MovingAverage": lambda *_: addons.MovingAverage(Adam(0.1)),
    "MultiOptimizer": lambda a, b, c, d: addons.MultiOptimizer(
        [(Adam(0.1), [b, d]), (addons.Lookahead(Nadam(0.2)), [a, c])]
    ),
}


@pytest.mark.parametrize("way", ["load_model", "restore", "convert"])
@pytest.mark.parametrize("history", [[(), (1,)], [(2,), (0,), None]], ids=str)
@pytest.mark.parametrize("make", OF_REPEATED_NAMES.values())
def test_names_may_repeat(make, history, way, tmp_path):
    """Layers of Keras 3 inside models of their own are called alike."""

    def compiled():
        model = layers.nested()
        loss = keras.losses.MeanSquaredError()
        model.compile(make(*model.layers[1:]), loss, run_eagerly=True)
        return model

    def freeze(model, numbers):
        layers.freeze_layers(model, numbers)
        model.compile(
            model.optimizer, keras.losses.MeanSquaredError(), run_eagerly=True
        )

    model = compiled()
    names = [weight.path for weight in model.weights]
    assert len({*names}) < len(names)
    for i, numbers in enumerate(history):
        if numbers is not None:
            freeze(model, numbers)
        if numbers is None or i == 0:
            model.fit(layers.X, layers.X, verbose=0)
    path = str(tmp_path / "m.h5")
    model.save(path)
    if way == "load_model" and make is not OF_REPEATED_NAMES["MultiOptimizer"]:
        assert_same_state(model, keras.models.load_model(path))
        return
    if way == "convert":
        conversion.convert(path, str(tmp_path / "c.h5"))
        path = str(tmp_path / "c.h5")
    other = compiled()
    freeze(other, (0,))
    checkpoints.restore(path, other, strict=False)
    assert_same_state(model, other)
