"""`convert`: hyperparameters have the dtypes of the optimizer's variables."""

import pytest
import registry
import tensorflow as tf
import test_frozen_layers as layers
import tf_keras

from keras_legacy_opt import SGD, Adam, Nadam, addons, checkpoints
from keras_legacy_opt.checkpoints import conversion
from keras_legacy_opt.state.weights import dtype_of_value

ROWS = (*registry.BUILT_IN, *registry.ADDONS, *registry.WRAPPERS)
# What a configuration does not tell from a number, and whose class is unknown.
_UNTOLD = ("SGD-callable_momentum", "DecayingRMSprop-plain")
MAKERS = {
    "learning_rate=1": lambda: SGD(1),
    "learning_rate=2**31": lambda: SGD(2**31),
    "momentum=0": lambda: SGD(0.1, momentum=0),
    "beta_1=0": lambda: Adam(1, beta_1=0),
    "schedule_decay=0": lambda: Nadam(0.1, schedule_decay=0),
    # It makes a float of the one, and of the other not.
    "total_steps=9": lambda: addons.RectifiedAdam(
        0.1, total_steps=9, warmup_proportion=0
    ),
    "in a wrapper": lambda: addons.MovingAverage(SGD(1)),
    "side by side": lambda: addons.MultiOptimizer(
        optimizer_specs=[
            {"optimizer": SGD(1), "weights": ["kernel"]},
            {"optimizer": SGD(0.1, momentum=0), "weights": ["bias"]},
        ]
    ),
    **{
        str(case): lambda case=case: case.build(registry.SUBJECT)
        for case in registry.own_cases(ROWS)
        if str(case) not in _UNTOLD
    },
}


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5")
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_convert(make, tmp_path):
    model, other = (layers.make_model(tf_keras, make()) for _ in range(2))
    for each in (model, other):
        each.optimizer.build(each.trainable_variables)
    model.save(tmp_path / "m.h5")
    conversion.convert(str(tmp_path / "m.h5"), str(tmp_path / "c"))
    checkpoint = tf.train.Checkpoint(model=other, optimizer=other.optimizer)
    checkpoint.read(str(tmp_path / "c")).assert_existing_objects_matched()
    assert not checkpoints.restore(tmp_path / "c", other).problems
    checkpoint.write(tmp_path / "e")
    expected, found = (
        tf.train.load_checkpoint(str(tmp_path / name)) for name in "ec"
    )
    assert (
        expected.get_variable_to_dtype_map().items()
        <= found.get_variable_to_dtype_map().items()
    )


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        (2**31 - 1, tf.int32),
        (-(2**31), tf.int32),
        (2**31, tf.int64),
        (-(2**31) - 1, tf.int64),
        (True, tf.bool),
    ],
)
def test_dtype_of_value(value, dtype):
    """As TensorFlow makes a tensor of it."""
    assert dtype_of_value(value) == tf.constant(value).dtype == dtype
