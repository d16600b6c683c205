"""Lists of weights as Keras 1 had them: one slot more, or no iterations."""

import shutil

import golden_sets
import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_legacy_opt as klo
from keras_legacy_opt import checkpoints
from keras_legacy_opt.checkpoints.conversion import convert


def make_variables():
    return [tf.Variable(tf.ones([2])), tf.Variable(tf.ones([3]))]


@pytest.mark.parametrize("built", [False, True])
@pytest.mark.parametrize("unused_shape", [(1,), None])
def test_adam_of_three_slots(built, unused_shape):
    """Keras 1 kept the third without amsgrad, too; as a placeholder at last."""
    variables, optimizer = make_variables(), klo.Adam(0.1)
    expected = [np.int64(5)] + [
        np.full(v.shape, 1.0 + slot, "f")
        for slot in range(2)
        for v in variables
    ]
    unused = [np.ones(unused_shape or v.shape, "f") for v in variables]
    if built:
        optimizer.build(variables)
    optimizer.set_weights([*expected, *unused])
    optimizer.build(variables)
    for array, other in zip(optimizer.get_weights(), expected, strict=True):
        np.testing.assert_array_equal(array, other)


@pytest.mark.parametrize("built", [False, True])
def test_rmsprop_without_iterations(built):
    variables, optimizer = make_variables(), klo.RMSprop(0.1)
    slots = [np.full(v.shape, 3.0, "f") for v in variables]
    if built:
        optimizer.build(variables)
    optimizer.set_weights(slots)
    optimizer.build(variables)
    for array, other in zip(
        optimizer.get_weights(), [np.int64(0), *slots], strict=True
    ):
        np.testing.assert_array_equal(array, other)


@pytest.mark.parametrize("surplus", [False, True])
def test_hdf5_with_nameless_slots(golden, tmp_path, surplus):
    """TF1 called them Variable_12: their order has to do."""
    case = golden_sets.Case(golden / "tf-2.4" / "model" / "adam")
    shutil.copy(case.unzipped("model.h5"), tmp_path / "m.h5")
    with h5py.File(tmp_path / "m.h5", "r+") as file:
        group = file["optimizer_weights"]
        names = [n.decode() for n in group.attrs["weight_names"]]
        values = [group[name][()] for name in names]
        if surplus:
            values += [np.zeros(1, "f")] * ((len(values) - 1) // 2)
        group.attrs["weight_names"] = [
            f"training/Adam/Variable_{i}:0".encode() for i in range(len(values))
        ]
        for i, value in enumerate(values):
            group[f"training/Adam/Variable_{i}:0"] = value
    model, optimizer = golden_sets.build_model(keras), case.optimizer()
    report = checkpoints.restore(tmp_path / "m.h5", model, optimizer)
    assert len(report.of("ignored")) == (5 if surplus else 0)
    for array, expected in zip(
        optimizer.get_weights(),
        case.expected("opt", golden_sets.SAVED_AT),
        strict=True,
    ):
        np.testing.assert_array_equal(array, expected)
    with pytest.raises(checkpoints.CheckpointError, match="their order tells"):
        convert(f"{tmp_path}/m.h5", f"{tmp_path}/a")
