"""Several optimizers, each for some layers."""

import copy
import pickle
import warnings

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

import keras_legacy_opt
from keras_legacy_opt import SGD, Adam, addons, checkpoints

from .conftest import assert_same, fit, make_model


def by_layers(model):
    """Steps of Adam in the embedding, of SGD in all else."""
    embedding, *others = model.layers
    optimizer = addons.MultiOptimizer(
        [(Adam(0.1), embedding), (SGD(0.5), others)]
    )
    model.compile(optimizer, "mse")
    return model


def test_each_trains_its_layers(host):
    both = fit(by_layers(make_model(host)))
    for optimizer, trained in ((Adam(0.1), 0), (SGD(0.5), 2)):
        # One step of both, then each layer alone.
        model = make_model(host)
        expected = make_model(host)
        by_layers(model)
        expected.compile(optimizer, "mse")
        for each in (model, expected):
            each.train_on_batch(*first_batch())
        for a, b in zip(
            model.layers[trained].get_weights(),
            expected.layers[trained].get_weights(),
            strict=True,
        ):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    counts = [both.optimizer, *both.optimizer.optimizers]
    assert [int(each.iterations) for each in counts] == [3, 3, 3]


def first_batch():
    from .conftest import LABELS, TOKENS

    return TOKENS[:8], LABELS[:8]


def test_names_may_repeat(traced):
    """Variables are known by identity."""
    first, second = (tf.Variable(0.0, name="w") for _ in range(2))
    optimizer = addons.MultiOptimizer([(SGD(1.0), first), (SGD(2.0), second)])
    one = tf.constant(1.0)

    @traced
    def step():
        optimizer.apply_gradients([(one, second), (one, first)])

    step()
    assert (float(first), float(second)) == (-1.0, -2.0)
    assert int(optimizer.iterations) == 1


def test_wrappers_inside_and_around(traced):
    first, second = tf.Variable(0.0), tf.Variable(0.0)
    multi = addons.MultiOptimizer(
        [(addons.Lookahead(SGD(1.0), 1), first), (SGD(2.0), second)]
    )
    optimizer = addons.GradientAccumulation(addons.MovingAverage(multi, 0.5), 2)
    one = tf.constant(1.0)

    @traced
    def step():
        optimizer.apply_gradients([(one, first), (one, second)])

    step()
    step()
    assert (float(first), float(second)) == (-0.5, -2.0)
    average = optimizer._optimizer.get_slot(second, "average")
    assert float(average) == -1.0


def test_clips_the_gradients_of_all(traced):
    first, second = tf.Variable(0.0), tf.Variable(0.0)
    optimizer = addons.MultiOptimizer(
        [(SGD(1.0), first), (SGD(1.0), second)], global_clipnorm=1.0
    )

    @traced
    def step():
        optimizer.apply_gradients(
            [(tf.constant(3.0), first), (tf.constant(4.0), second)]
        )

    step()
    np.testing.assert_allclose([first, second], [-0.6, -0.8], rtol=1e-6)


def test_keras_file(host, tmp_path):
    model = fit(by_layers(make_model(host)))
    model.save(tmp_path / "m.keras")
    loaded = host.models.load_model(tmp_path / "m.keras")
    for each in (model, loaded):
        fit(each)
    assert_same(loaded.optimizer, model.optimizer)
    for a, b in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5")
def test_hdf5_file(tmp_path):
    """Where no two weights may have one name."""
    import tf_keras

    model = make_model(tf_keras)
    embedding, *others = model.layers
    optimizer = addons.MultiOptimizer(
        [(Adam(0.1), embedding), (Adam(0.2), others)]
    )
    model.compile(optimizer, "mse")
    fit(model).save(tmp_path / "m.h5")
    loaded = tf_keras.models.load_model(tmp_path / "m.h5")
    for each in (model, loaded):
        fit(each)
    assert_same(loaded.optimizer, model.optimizer)
    names = [weight.name for weight in model.optimizer.weights]
    assert len({*names}) == len(names)


def test_checkpoint_pickle_and_copy(host, tmp_path):
    model = fit(by_layers(make_model(host)))
    checkpoint = tf.train.Checkpoint(model=model, o=model.optimizer)
    path = checkpoint.save(tmp_path / "c")
    other = by_layers(make_model(host))
    status = tf.train.Checkpoint(model=other, o=other.optimizer).restore(path)
    again = copy.deepcopy(model.optimizer)
    pickled = pickle.loads(pickle.dumps(model.optimizer))
    third = make_model(host)
    third.set_weights(model.get_weights())
    third.compile(pickled, "mse")
    for each in (model, other):
        fit(each)
    status.assert_existing_objects_matched()
    assert_same(other.optimizer, model.optimizer)
    assert [int(o.iterations) for o in again.optimizers] == [3, 3]
    if host.__name__ == "keras":
        return  # Names of layers are of this model only.


def test_configuration():
    layers = [tf.Variable(0.0, name=name) for name in "ab"]
    optimizer = addons.MultiOptimizer(
        [(Adam(0.5), layers[0]), (SGD(0.25), [layers[1]])], clipnorm=1.0
    )
    config = keras_legacy_opt.serialize(optimizer)
    specs = config["config"]["optimizer_specs"]
    assert [spec["weights"] for spec in specs] == [["a"], ["b"]]
    other = keras_legacy_opt.deserialize(config)
    assert other.get_config() == optimizer.get_config()
    same = [tf.Variable(0.0, name=name) for name in "ab"]
    other.apply_gradients([(tf.constant(1.0), v) for v in same])
    assert float(same[1]) == -0.25
    assert repr(other) == "<MultiOptimizer of 2 optimizers>"


def test_configuration_of_tensorflow_addons():
    specs = [
        {
            "optimizer": {"class_name": "SGD", "config": {"lr": 0.5}},
            "weights": ["dense/kernel:0"],
        }
    ]
    optimizer = keras_legacy_opt.deserialize(
        {
            "class_name": "Addons>MultiOptimizer",
            "config": {"name": "MultiOptimizer", "optimizer_specs": specs},
        }
    )
    var = tf.Variable(0.0, name="dense/kernel")
    optimizer.apply_gradients([(tf.constant(1.0), var)])
    assert float(var) == -0.5
    with pytest.raises(ValueError, match="under none"):
        optimizer.apply_gradients([(tf.constant(1.0), tf.Variable(0.0))])


def test_layers_that_are_built_later(host):
    layer = host.layers.Dense(1)
    model = host.Sequential([layer])
    model.compile(addons.MultiOptimizer([(SGD(0.1), layer)]), "mse")
    fit(model)
    assert int(model.optimizer.optimizers[0].iterations) == 3


def of_all_kinds(host):
    """Two of a class, one of them inside a wrapper, and one more."""
    model = make_model(host)
    embedding, _, dense = model.layers
    optimizer = addons.MultiOptimizer(
        [
            (addons.MovingAverage(Adam(0.1)), embedding),
            (Adam(0.01), dense.kernel),
            (SGD(0.5, momentum=0.9), dense.bias),
        ]
    )
    model.compile(optimizer, host.losses.MeanSquaredError())
    return model


def assert_goes_on(model, loaded):
    """With the same weights, for another two epochs."""
    assert_same(loaded.optimizer, model.optimizer)
    for each in (model, loaded):
        fit(each)
    for a, b in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert_same(loaded.optimizer, model.optimizer)


@pytest.mark.filterwarnings("ignore:.*HDF5 file via")
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5")
def test_hdf5_file_of_all_kinds(host, tmp_path):
    model = fit(of_all_kinds(host))
    model.save(tmp_path / "m.h5")
    loaded = host.models.load_model(tmp_path / "m.h5")
    assert_goes_on(model, loaded)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda o: o,
        keras_legacy_opt.LossScaleOptimizer,
        lambda o: addons.GradientAccumulation(o, 2),
    ],
    ids=["bare", "LossScaleOptimizer", "GradientAccumulation"],
)
def test_saved_model(wrap, tmp_path):
    model = of_all_kinds(tf_keras)
    model.compile(wrap(model.optimizer), tf_keras.losses.MeanSquaredError())
    fit(model)
    model.save(tmp_path / "m", save_format="tf")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = tf_keras.models.load_model(tmp_path / "m")
    assert_goes_on(model, loaded)


def test_checkpoint_restores_all(host, tmp_path):
    model = fit(of_all_kinds(host))
    model.optimizer.optimizers[1].learning_rate = 0.25
    path = checkpoints.save(tmp_path / "ckpt", model)
    other = of_all_kinds(host)
    report = checkpoints.restore(path, other)
    assert not report.problems
    assert float(other.optimizer.optimizers[1].learning_rate) == 0.25
    assert_goes_on(model, other)


def test_names_are_told_apart():
    variables = [tf.Variable(0.0) for _ in range(3)]
    optimizer = addons.MultiOptimizer(
        list(zip([SGD(), SGD(), SGD(name="SGD_1")], variables, strict=True))
    )
    names = [each.get_config()["name"] for each in optimizer.optimizers]
    assert names == ["SGD", "SGD_1", "SGD_1_1"]
    copied = addons.MultiOptimizer.from_config(optimizer.get_config())
    assert copied.get_config() == optimizer.get_config()


def test_what_one_refuses_changes_nothing():
    first, second = tf.Variable(0.0), tf.Variable(0j)
    optimizer = addons.MultiOptimizer(
        [(SGD(1.0), first), (addons.Lookahead(addons.Yogi()), second)]
    )
    with pytest.raises(ValueError, match="Invalid type complex128"):
        optimizer.apply_gradients([(tf.ones([]), first), (second + 1, second)])
    assert (float(first), optimizer.weights) == (0.0, [])
