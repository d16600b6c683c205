"""Whoever reads a file sees the same in it: restore, convert and inspect."""

import contextlib
import io

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_legacy_opt as klo
from keras_legacy_opt import __main__ as command_line
from keras_legacy_opt import checkpoints
from keras_legacy_opt.checkpoints.conversion import convert
from keras_legacy_opt.checkpoints.formats import h5

pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__:DeprecationWarning",
    "ignore:You are saving your model as an HDF5:UserWarning",
)


def inspect(path):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert command_line.main(["inspect", str(path)]) == 0
    return out.getvalue()


def make_model(optimizer=None, name="d"):
    model = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(2, name=name)]
    )
    if optimizer is not None:
        model.compile(optimizer, "mse", jit_compile=False)
    return model


def trained(optimizer):
    model = make_model(optimizer)
    rng = np.random.default_rng(0)
    for _ in range(3):
        model.train_on_batch(rng.random((4, 3)), rng.random((4, 2)))
    return model


def write_tensors(path, tensors):
    tf.raw_ops.SaveV2(
        prefix=str(path),
        tensor_names=list(tensors),
        shape_and_slices=[""] * len(tensors),
        tensors=list(map(tf.constant, tensors.values())),
    )
    return path


def assert_same(ours, theirs):
    for array, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(array, other)


# Loss scales.

SAVE = {
    "m.keras": lambda model, path: model.save(path),
    "m.weights.h5": lambda model, path: model.save_weights(path),
    "m.h5": lambda model, path: model.save(path),
    "m": lambda model, path: checkpoints.save(path, model),
}


@pytest.mark.parametrize("to", ["out", "out.h5"])
@pytest.mark.parametrize(
    ("wrap", "name"),
    [
        *((klo.LossScaleOptimizer, name) for name in SAVE),
        *((keras.optimizers.LossScaleOptimizer, n) for n in SAVE if "." in n),
    ],
)
def test_an_optimizer_with_a_loss_scale(tmp_path, wrap, name, to):
    """Its state is found in the wrapper's, which is nothing of the model."""
    model = trained(wrap(klo.Adam(0.1)))
    SAVE[name](model, tmp_path / name)
    (tmp_path / "m.json").write_text(make_model().to_json())
    told = inspect(tmp_path / name)
    assert told.count("iterations: ") == 1
    assert "slots: 4," in told
    assert "model: 2," in told
    convert(
        f"{tmp_path}/{name}",
        f"{tmp_path}/{to}",
        model=f"{tmp_path}/m.json",
        optimizer="Adam",
    )
    optimizer = klo.LossScaleOptimizer(klo.Adam(0.1))
    inner = optimizer.inner_optimizer
    other = make_model(optimizer)
    checkpoints.restore(tmp_path / to, other, inner, strict=False)
    assert_same(other.get_weights(), model.get_weights())
    assert_same(
        inner.get_weights(), model.optimizer.inner_optimizer.get_weights()
    )
    scaled = wrap is klo.LossScaleOptimizer and name != "m.h5"
    if scaled and to == "out":
        assert int(optimizer.dynamic_counter) == 3


# Object checkpoints.


def test_a_checkpoint_with_keras_3s_names_to_hdf5(tmp_path):
    model = trained(klo.Adam(0.1))
    model.save(tmp_path / "m.keras")
    path = tf.train.Checkpoint(model=model, optimizer=model.optimizer).write(
        str(tmp_path / "c")
    )
    convert(
        path,
        f"{tmp_path}/c.h5",
        model=f"{tmp_path}/m.keras",
        optimizer="Adam",
    )
    other = make_model(klo.Adam(0.1))
    assert not checkpoints.restore(tmp_path / "c.h5", other).problems
    assert_same(
        other.get_weights() + other.optimizer.get_weights(),
        model.get_weights() + model.optimizer.get_weights(),
    )


def test_a_checkpoint_of_several_optimizers(tmp_path):
    """What is of one is not mixed with what is of another."""
    a, b = tf.Variable(tf.ones(2)), tf.Variable(tf.ones(3))
    first, second = klo.Adam(0.1), klo.SGD(0.2, momentum=0.9)
    first.build([a])
    second.build([b])
    first.iterations.assign(3)
    second.iterations.assign(5)
    path = tf.train.Checkpoint(a=a, b=b, first=first, second=second).write(
        str(tmp_path / "c")
    )
    told = inspect(path)
    assert [n for n in told.split("\n") if n.startswith("iterations")] == [
        "iterations: 3"
    ]
    assert "optimizer: Adam" in told
    assert "second/iter" in told
    for name in ("out", "out.h5"):
        with pytest.raises(checkpoints.CheckpointError, match="several optim"):
            convert(path, f"{tmp_path}/{name}")
    optimizer = klo.Adam(0.5)
    report = checkpoints.restore(path, {"a": a}, optimizer, strict=False)
    assert int(optimizer.iterations) == 3
    assert {e.source for e in report.of("unused")} == {
        "b",
        "b/.OPTIMIZER_SLOT/second/momentum",
        *(
            f"second/{n}"
            for n in ("iter", "decay", "learning_rate", "momentum")
        ),
    }


def test_a_model_that_has_something_called_iter(tmp_path):
    v, optimizer = tf.Variable(tf.ones(2)), klo.SGD(0.5)
    others = {f"x{i}": tf.Variable(float(i)) for i in range(4)}
    optimizer.build([v])
    optimizer.iterations.assign(7)
    path = tf.train.Checkpoint(
        iter=tf.Variable(1), v=v, optimizer=optimizer, **others
    ).write(str(tmp_path / "c"))
    new = klo.SGD(0.1)
    count = tf.Variable(0)
    checkpoints.restore(path, {"iter": count, "v": v, **others}, new)
    assert (int(new.iterations), int(count)) == (7, 1)
    assert "iterations: 7\n" in inspect(path)


def test_a_model_that_counts_and_no_optimizer(tmp_path):
    variables = {"iter": tf.Variable(1), "v": tf.Variable(tf.ones(2))}
    path = tf.train.Checkpoint(**variables).write(str(tmp_path / "c"))
    for v in variables.values():
        v.assign(tf.zeros_like(v))
    checkpoints.restore(path, variables)
    assert int(variables["iter"]) == 1
    assert "model: 2," in inspect(path)
    inner = tf.train.Checkpoint(inner=tf.train.Checkpoint(**variables))
    path = inner.write(str(tmp_path / "d"))
    checkpoints.restore(path, {"inner": variables})


def test_what_no_variable_holds_is_told(tmp_path):
    table = tf.lookup.experimental.MutableHashTable(tf.string, tf.int64, -1)
    table.insert(["a"], [1])
    v = tf.Variable(1.0)
    path = tf.train.Checkpoint(v=v, t=table).write(str(tmp_path / "c"))
    assert "t/table-keys" in inspect(path)
    report = checkpoints.restore(path, {"v": v})
    assert len(report.of("ignored")) == 2
    assert not report.problems


# TF1.


ONES, POWER = np.ones(3, "f"), np.float32(0.9)


def test_moving_averages_of_tf1_are_no_slots(tmp_path):
    path = write_tensors(
        tmp_path / "m",
        {
            "v": ONES,
            "v/ExponentialMovingAverage": 9 * ONES,
            "v/Momentum": 2 * ONES,
            "global_step": np.int64(4),
        },
    )
    for name in ("Momentum", "My"):
        if name == "My":
            write_tensors(
                path,
                {
                    "v": ONES,
                    "v/ExponentialMovingAverage": 9 * ONES,
                    "v/My": 2 * ONES,
                },
            )
        v, optimizer = tf.Variable(tf.zeros(3)), klo.SGD(0.5, momentum=0.9)
        report = checkpoints.restore(path, {"v": v}, optimizer, strict=False)
        (unused,) = report.of("unused")
        assert unused.source == "v/ExponentialMovingAverage"
        np.testing.assert_array_equal(optimizer.get_slot(v, "momentum"), -ONES)


@pytest.mark.parametrize("make", [klo.Ftrl, klo.Adadelta])
def test_slots_of_tf1_are_of_the_optimizer_that_they_are_called_after(
    tmp_path, make
):
    path = write_tensors(
        tmp_path / "m", {"v": ONES, "v/Adam": ONES, "v/Adam_1": ONES}
    )
    v = tf.Variable(tf.zeros(3))
    with pytest.raises(checkpoints.MismatchError, match="another optimizer"):
        checkpoints.restore(path, {"v": v}, make())


def test_powers_of_tf1_that_contradict_are_not_converted(tmp_path):
    path = write_tensors(
        tmp_path / "m",
        {
            "v": ONES,
            "v/Adam": ONES,
            "v/Adam_1": ONES,
            "beta1_power": POWER * POWER * POWER,
            "beta1_power_1": POWER * POWER,
        },
    )
    assert "iterations" not in inspect(path)
    with pytest.raises(checkpoints.CheckpointError, match="different numbers"):
        convert(str(path), f"{tmp_path}/out")
    v = tf.Variable(tf.zeros(3))
    with pytest.raises(checkpoints.MismatchError, match="other betas"):
        checkpoints.restore(path, {"v": v}, klo.Adam())


def test_a_name_of_tf1_is_found_by_its_end_in_an_architecture(tmp_path):
    path = write_tensors(
        tmp_path / "m", {"d/kernel": np.ones((3, 2), "f"), "d/bias": ONES[:2]}
    )
    inner = keras.Sequential([keras.layers.Dense(2, name="d")], name="inner")
    model = keras.Sequential([keras.Input((3,)), inner])
    (tmp_path / "m.json").write_text(model.to_json())
    convert(str(path), f"{tmp_path}/m.h5", model=f"{tmp_path}/m.json")
    checkpoints.restore(tmp_path / "m.h5", model)
    assert np.all(model.get_weights()[0] == 1)


# HDF5.


def rename(path, names):
    """Gives the optimizer's weights in an HDF5 file other names."""
    with h5py.File(path, "r+") as file:
        group = file["optimizer_weights"]
        old = h5.names(group, "weight_names")
        new = names(old)
        values = [group[name][()] for name in old]
        for name in old:
            del group[name]
        for name, value in zip(new, values, strict=True):
            group[name] = value
        group.attrs["weight_names"] = [name.encode() for name in new]


class Scale(keras.layers.Layer):
    def build(self, shape):
        self.scale = self.add_weight(shape=(), name="scale")

    def call(self, inputs):
        return inputs * self.scale


def test_nameless_scalars_are_not_taken_for_hyperparameters(tmp_path):
    def make():
        model = keras.Sequential([keras.Input((3,)), Scale(name="s")])
        model.compile(klo.Adam(0.1), "mse")
        model.optimizer.build(model.trainable_variables)
        return model

    model = make()
    model.optimizer.set_weights([np.int64(3), np.float32(4), np.float32(5)])
    model.save(tmp_path / "m.h5")
    rename(
        tmp_path / "m.h5",
        lambda old: [f"training/Adam/Variable_{i}:0" for i in range(len(old))],
    )
    other = make()
    assert not checkpoints.restore(tmp_path / "m.h5", other).problems
    assert_same(other.optimizer.get_weights(), model.optimizer.get_weights())
    with pytest.raises(checkpoints.CheckpointError, match="their order tells"):
        convert(f"{tmp_path}/m.h5", f"{tmp_path}/out")


def test_a_slot_of_either_of_two_weights_of_one_name(tmp_path):
    """Nothing tells of which it is but the order, which needs the model."""

    def make():
        model = keras.Sequential(
            [
                keras.Input((2,)),
                keras.layers.Dense(2, use_bias=False, name="a"),
                keras.layers.Dense(2, use_bias=False, name="b"),
            ]
        )
        model.layers[1].trainable = False
        model.compile(klo.SGD(0.1, momentum=0.9), "mse")
        model.optimizer.build(model.trainable_variables)
        return model

    model = make()
    model.optimizer.set_weights([np.int64(3), np.full((2, 2), 7.0)])
    model.save(tmp_path / "m.h5")
    with h5py.File(tmp_path / "m.h5", "r+") as file:
        for layer in ("a", "b"):
            group = file["model_weights"][layer]
            (name,) = group.attrs["weight_names"]
            group["k:0"] = group[name][()]
            group.attrs["weight_names"] = [b"k:0"]
        del file["optimizer_weights"]["variable_numbers"]
    rename(tmp_path / "m.h5", lambda old: [old[0], "SGD/k/momentum:0"])
    other = make()
    assert not checkpoints.restore(tmp_path / "m.h5", other).problems
    assert_same(other.optimizer.get_weights(), model.optimizer.get_weights())
    with pytest.raises(checkpoints.CheckpointError, match="their order tells"):
        convert(f"{tmp_path}/m.h5", f"{tmp_path}/out")


# Which format it is.


@pytest.mark.parametrize("name", ["m.keras", "m.weights.h5"])
def test_files_of_keras_3_under_other_names(tmp_path, name):
    model = trained(klo.Adam(0.1))
    SAVE[name](model, tmp_path / name)
    (tmp_path / name).rename(tmp_path / "renamed")
    other = make_model(klo.Adam(0.1))
    checkpoints.restore(tmp_path / "renamed", other)
    assert_same(other.optimizer.get_weights(), model.optimizer.get_weights())
    assert "iterations: 3\n" in inspect(tmp_path / "renamed")


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.first = keras.layers.Dense(2)

    def call(self, inputs):
        return self.first(inputs)


def test_weights_of_a_model_without_a_list_of_layers(tmp_path):
    model, other = Subclassed(), Subclassed()
    for each in (model, other):
        each(np.ones((1, 3)))
    model.save_weights(tmp_path / "m.weights.h5")
    with h5py.File(tmp_path / "m.weights.h5", "r+") as file:
        file.pop("layers", None)
    checkpoints.restore(tmp_path / "m.weights.h5", other)
    assert_same(other.get_weights(), model.get_weights())
    assert "model: 2," in inspect(tmp_path / "m.weights.h5")


def test_an_optimizer_that_is_in_itself(tmp_path):
    """Groups of HDF5 can be; none of them is read for ever."""
    trained(klo.Adam(0.1)).save_weights(tmp_path / "m.weights.h5")
    with h5py.File(tmp_path / "m.weights.h5", "r+") as file:
        file["optimizer/inner_optimizer"] = file["optimizer"]
    assert "model: 2," in inspect(tmp_path / "m.weights.h5")


def test_hdf5_that_was_compiled_without_an_optimizer(tmp_path):
    model = trained(klo.Adam(0.1))
    model.save(tmp_path / "m.h5")
    with h5py.File(tmp_path / "m.h5", "r+") as file:
        file.attrs["training_config"] = '{"loss": "mse"}'
    other = make_model(klo.Adam(0.1))
    checkpoints.restore(tmp_path / "m.h5", other)
    assert_same(other.optimizer.get_weights(), model.optimizer.get_weights())
    assert "slots: 4," in inspect(tmp_path / "m.h5")


def test_names_with_very_many_scopes(tmp_path):
    trained(klo.Adam(0.1)).save(tmp_path / "m.h5")
    with h5py.File(tmp_path / "m.h5", "r+") as file:
        group = file["optimizer_weights"]
        names = h5.names(group, "weight_names")
        names[-1] = "/" * 30_000 + f"optimizer_weights/{names[-1]}"
        group.attrs["weight_names"] = [name.encode() for name in names]
    assert "slots: 4," in inspect(tmp_path / "m.h5")


@pytest.mark.parametrize("name", ["m.h5", "m.weights.h5"])
def test_hdf5_that_ends_like_an_archive(tmp_path, name):
    model = trained(klo.Adam(0.1))
    SAVE[name](model, tmp_path / name)
    other = trained(klo.Adam(0.2))
    other.save(tmp_path / "other.keras")
    with open(tmp_path / name, "ab") as file:
        file.write((tmp_path / "other.keras").read_bytes())
    told = inspect(tmp_path / name)
    assert "archive" not in told
    into = make_model(klo.Adam(0.1))
    checkpoints.restore(tmp_path / name, into)
    assert_same(into.get_weights(), model.get_weights())
    if name == "m.h5":
        optimizer = checkpoints.optimizer_of(tmp_path / name)
        assert optimizer.learning_rate.numpy() == np.float32(0.1)


def test_a_value_under_many_names_counts_each_time(tmp_path):
    """Also when it is restored."""
    model = trained(klo.Adam(0.1))
    model.save(tmp_path / "m.h5")
    with h5py.File(tmp_path / "m.h5", "r+") as file:
        group = file["model_weights/d"]
        group["large"] = np.ones(1 << 20, "f")
        names = [f"d/n{i}:0" for i in range(1000)]
        for name in names:
            group[name] = group["large"]
        group.attrs["weight_names"] = [name.encode() for name in names]
    for read in (
        lambda p: checkpoints.restore(p, model, strict=False),
        lambda p: convert(p, f"{tmp_path}/out"),
    ):
        with pytest.raises(checkpoints.CheckpointError, match="max_size"):
            read(f"{tmp_path}/m.h5")
