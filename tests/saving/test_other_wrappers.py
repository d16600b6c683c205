"""Files of an optimizer restored into a wrapper around it, and the reverse."""

import keras
import numpy as np
import pytest
import test_converted_wrappers as files
import test_tf1 as tf1
import tf_keras
from test_hdf5_of_several import everyone, state

from keras_legacy_opt import (
    SGD,
    Adam,
    LossScaleOptimizer,
    addons,
    checkpoints,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5"),
    pytest.mark.filterwarnings("ignore:.*HDF5 file via"),
]


def several(first, second):
    return lambda a, b, c: addons.MultiOptimizer(
        [(first(Adam(0.1)), [a, c]), (second(SGD(0.2, momentum=0.9)), b)]
    )


MAKERS = {
    "Adam": lambda *_: Adam(0.1),
    "Lookahead": lambda *_: addons.Lookahead(Adam(0.1), 2),
    "MovingAverage": lambda *_: addons.MovingAverage(Adam(0.1), 0.8),
    "GradientAccumulation": lambda *_: addons.GradientAccumulation(
        Adam(0.1), 2
    ),
    "nested": lambda *_: addons.GradientAccumulation(
        addons.MovingAverage(addons.Lookahead(Adam(0.1), 2), 0.8), 2
    ),
    "loss scale": lambda *_: LossScaleOptimizer(Adam(0.1)),
    "SGD": lambda *_: SGD(0.1),
    "Lookahead of SGD": lambda *_: addons.Lookahead(SGD(0.1), 2),
    "several": several(lambda o: o, lambda o: o),
    "several wrapped": several(addons.MovingAverage, addons.Lookahead),
}
PAIRS = [
    ("Adam", "Lookahead"),
    ("Adam", "nested"),
    ("MovingAverage", "Adam"),
    ("GradientAccumulation", "Adam"),
    ("nested", "Adam"),
    ("nested", "MovingAverage"),
    ("Lookahead", "MovingAverage"),
    ("SGD", "Lookahead of SGD"),
    ("Lookahead of SGD", "SGD"),
    ("several", "several wrapped"),
    ("several wrapped", "several"),
]


def as_weights(model, folder):
    model.save_weights(folder / "m.weights.h5")
    return folder / "m.weights.h5"


def trained(host, name, steps, rate):
    model = files.make_model(host, "SWA(SGD)")
    optimizer = MAKERS[name](*model.layers)
    model.compile(optimizer, host.losses.MeanSquaredError(), run_eagerly=True)
    rng = np.random.default_rng(steps)
    for _ in range(steps):
        gradients = [
            rng.normal(size=v.shape).astype("float32")
            for v in model.trainable_variables
        ]
        optimizer.apply_gradients(
            list(zip(gradients, model.trainable_variables, strict=True))
        )
    for each in everyone(optimizer):
        if "learning_rate" in each._hyper:
            each.learning_rate = rate
    return model


def innermost(model):
    """{slot or hyperparameter of the optimizers in all wrappers: value}."""
    found = {}
    leaves = [
        each
        for each in everyone(model.optimizer)
        if not hasattr(each, "_optimizer") and not hasattr(each, "optimizers")
    ]
    for i, each in enumerate(leaves):
        found[i, "iterations"] = int(each.iterations)
        found[i, "learning_rate"] = float(each.learning_rate)
        for j, weight in enumerate(model.weights):
            for slot in each.get_slot_names():
                if any(weight is v for v in each._known_variables.all()):
                    found[i, j, slot] = each.get_slot(weight, slot).numpy()
    return found


def assert_has_what_both_have(model, other):
    """The weights, and the state of the optimizer inside all wrappers."""
    for a, b in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    ours, theirs = innermost(model), innermost(other)
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        np.testing.assert_array_equal(ours[key], value, str(key))


@pytest.mark.parametrize("host", [keras, tf_keras], ids=["keras3", "tf_keras"])
@pytest.mark.parametrize(
    "write", [files.as_checkpoint, files.as_h5, files.as_keras, as_weights]
)
@pytest.mark.parametrize(("stored", "name"), PAIRS)
def test_what_they_have_in_common(stored, name, write, host, tmp_path):
    """It is restored; of all else, the report tells."""
    model = trained(host, stored, 4, 0.05)
    path = write(model, tmp_path)
    other = trained(host, name, 2, 0.5)
    weights, before = other.get_weights(), state(other)
    with pytest.raises(checkpoints.MismatchError):
        checkpoints.restore(path, other)
    for a, b in zip(other.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(a, b)
    after = state(other)
    assert after.keys() == before.keys()
    for key, value in after.items():
        np.testing.assert_array_equal(value, before[key], str(key))

    report = checkpoints.restore(path, other, strict=False)
    assert_has_what_both_have(other, model)
    slots = {
        each: sorted(
            slot
            for o in everyone(which.optimizer)
            for slot in getattr(o, "_SLOTS", ())
        )
        for each, which in (("file", model), ("here", other))
    }
    missing = {e.target.rpartition("/")[2] for e in report.of("missing")}
    unused = {e.source for e in report.of("unused")}
    assert missing - {"accumulated"} == {*slots["here"]} - {*slots["file"]}
    for slot in {*slots["file"]} - {*slots["here"]}:
        assert any(slot in source for source in unused)
    restored = {entry.target for entry in report.restored}
    assert restored.isdisjoint(e.target for e in report.of("missing"))


@pytest.mark.parametrize("host", [keras, tf_keras], ids=["keras3", "tf_keras"])
@pytest.mark.parametrize(
    "write", [files.as_checkpoint, files.as_h5, files.as_keras, as_weights]
)
@pytest.mark.parametrize(
    ("stored", "name"), [("loss scale", "Adam"), ("Adam", "loss scale")]
)
def test_a_loss_scale_more_or_less(stored, name, write, host, tmp_path):
    """Of the one that the file has too much, the report tells."""
    model = trained(host, stored, 4, 0.05)
    other = trained(host, name, 2, 0.5)
    report = checkpoints.restore(write(model, tmp_path), other, strict=False)
    assert_has_what_both_have(other, model)
    for entry in report.problems:
        assert entry.reason == "the optimizer has no loss scale"


@pytest.mark.parametrize("host", [keras, tf_keras], ids=["keras3", "tf_keras"])
@pytest.mark.parametrize(
    "write", [files.as_checkpoint, files.as_h5, files.as_keras, as_weights]
)
@pytest.mark.parametrize("name", ["Lookahead", "MovingAverage"])
def test_copies_begin_as_what_was_restored(name, write, host, tmp_path):
    """Not as the weights that the model had when they were made."""
    model = trained(host, "Adam", 3, 0.1)
    other = trained(host, name, 0, 0.1)
    path = write(model, tmp_path)
    report = checkpoints.restore(path, other, strict=False)
    (slot,) = other.optimizer.get_slot_names()
    for variable in other.trainable_variables:
        np.testing.assert_array_equal(
            other.optimizer.get_slot(variable, slot), variable
        )
    assert all(
        "begins as its variable" in e.reason for e in report.of("missing")
    )


@pytest.mark.parametrize("name", ["Adam", "MovingAverage"])
def test_slots_that_names_tell_never_go_by_order(name, tmp_path):
    """Of an option that has one more, or of a variable that is not here."""
    model = trained(tf_keras, name, 3, 0.1)
    wrap = {"Adam": lambda o: o, "MovingAverage": addons.MovingAverage}[name]
    model.compile(wrap(Adam(0.1, amsgrad=True)), "mse")
    model.fit(np.ones((4, 3)), np.ones((4, 3)), verbose=0)
    model.save(tmp_path / "m.h5")
    other = trained(tf_keras, name, 0, 0.1)
    report = checkpoints.restore(tmp_path / "m.h5", other, strict=False)
    ours, theirs = innermost(model), innermost(other)
    for key, value in theirs.items():
        np.testing.assert_array_equal(ours[key], value, str(key))
    assert all("vhat" in entry.source for entry in report.of("unused"))
    assert len(report.of("unused")) == 6


@pytest.mark.parametrize("name", ["adam", "momentum", "rmsprop_centered"])
@pytest.mark.parametrize(
    "wrap", [addons.Lookahead, addons.MovingAverage], ids=["Lookahead", "Mean"]
)
def test_a_checkpoint_of_tf1(wrap, name, tmp_path):
    """Whose optimizers had no wrappers."""
    make_tf1, make, _ = tf1.PAIRS[name]
    tf1.train_in_tf1(make_tf1, tmp_path / "m")
    weights, expected = tf1.build_model().weights, make()
    plain = dict(zip(["dense/kernel", "dense/bias"], weights, strict=True))
    checkpoints.restore(tmp_path / "m", plain, expected)
    others = tf1.build_model().weights
    optimizer = wrap(make())
    report = checkpoints.restore(
        tmp_path / "m",
        dict(zip(plain, others, strict=True)),
        optimizer,
        strict=False,
    )
    inner = optimizer._optimizer
    assert int(inner.iterations) == tf1.SAVE_AT
    for ours, theirs in zip(others, weights, strict=True):
        for slot in expected.get_slot_names():
            np.testing.assert_array_equal(
                inner.get_slot(ours, slot), expected.get_slot(theirs, slot)
            )
    (slot,) = optimizer.get_slot_names()
    assert [e.target.rpartition("/")[2] for e in report.problems] == [slot] * 2
