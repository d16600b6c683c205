"""Files of releases that lacked a hyperparameter or a slot."""

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from tf_keras.src.optimizers import optimizer_v1

import keras_legacy_opt as klo
from keras_legacy_opt import checkpoints
from keras_legacy_opt.checkpoints import releases
from keras_legacy_opt.checkpoints.conversion import convert

STEPS = 3
# {name: (options of Keras 1, ours)}
KERAS_1 = {
    "SGD": ({}, {}),
    "momentum": ({"momentum": 0.5}, {"momentum": 0.5}),
    "RMSprop": ({}, {}),
    "Adagrad": ({"decay": 0.25}, {"decay": 0.25}),
    "Adadelta": ({}, {}),
    "Adam": ({}, {}),
    "amsgrad": ({"amsgrad": True}, {"amsgrad": True}),
    "Adamax": ({}, {}),
    "Nadam": ({"schedule_decay": 0.25}, {"schedule_decay": 0.25}),
}
CLASSES = {"momentum": "SGD", "amsgrad": "Adam"}
CAME_LATER = [
    (cls, name) for cls, names in releases._CAME_LATER.items() for name in names
]


def make_model(library):
    return library.Sequential(
        [library.layers.Input((3,)), library.layers.Dense(2, name="out")]
    )


@pytest.fixture(params=KERAS_1)
def written_by_keras_1(request, tmp_path):
    """(path of an HDF5 file, arguments of an equal optimizer of ours)."""
    options, ours = KERAS_1[request.param]
    name = CLASSES.get(request.param, request.param)
    path = tmp_path / "keras_1.h5"
    with tf.Graph().as_default(), tf.compat.v1.Session().as_default():
        model = make_model(tf_keras)
        model.compile(getattr(optimizer_v1, name)(lr=0.5, **options), "mse")
        x, y = np.ones((STEPS, 3)), np.ones((STEPS, 2))
        model.fit(x, y, batch_size=1, verbose=0)
        tf_keras.models.save_model(model, path, save_format="h5")
    return path, getattr(klo, name)(0.5, **ours)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_hdf5_of_keras_1(written_by_keras_1, tmp_path):
    """Its configurations are those of today's defaults where they are silent.

    That goes for the optimizer it is restored into, and for conversions.
    """
    path, expected = written_by_keras_1
    config = checkpoints.optimizer_of(path).get_config()
    for name, option in expected.get_config().items():
        assert config[name] == pytest.approx(option)
    with h5py.File(path) as file:
        group = file["optimizer_weights"]
        stored = [group[name][()] for name in group.attrs["weight_names"]]

    model = make_model(keras)
    optimizer = type(expected)(**_options_without_slots(expected, 0.125))
    assert not checkpoints.restore(path, model, optimizer).problems
    for name in optimizer._hyper:
        np.testing.assert_allclose(
            getattr(optimizer, name), config[name], rtol=1e-6
        )
    weights = optimizer.get_weights()
    if type(optimizer).__name__ in ("Adadelta", "Adagrad", "RMSprop"):
        stored.insert(0, np.int64(0))  # These saved no iterations.
    assert int(weights[0]) == stored[0]
    for array, other in zip(weights, stored, strict=False):
        np.testing.assert_array_equal(array, other)


def _options_without_slots(optimizer, number):
    """The optimizer's arguments, with other numbers where that changes none."""
    options = {
        name: number
        for name in ("learning_rate", "beta_1", "beta_2", "rho")
        if name in optimizer._hyper
    }
    for name in ("momentum", "amsgrad"):
        if name in optimizer.get_config():
            options[name] = optimizer.get_config()[name]
    is_nadam = isinstance(optimizer, klo.Nadam)
    options["schedule_decay" if is_nadam else "decay"] = 0.5
    return options


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("written_by_keras_1", ["Nadam"], indirect=True)
def test_the_momentum_cache_of_nadam(written_by_keras_1):
    """At first, it was not saved: it is the product of all momentums."""
    path, optimizer = written_by_keras_1
    with h5py.File(path, "r+") as file:
        group = file["optimizer_weights"]
        iterations, cache, *slots = list(group.attrs["weight_names"])
        group.attrs["weight_names"] = [iterations, *slots]
        expected = group[cache][()]
    report = checkpoints.restore(path, make_model(keras), optimizer)
    assert not report.problems
    np.testing.assert_allclose(optimizer.get_weights()[1], expected, rtol=3e-7)
    assert int(optimizer.iterations) == STEPS
    # As ours go on: no value is left at its start.
    assert expected < 0.2


def checkpoint_without(cls, name, folder, variable):
    """A checkpoint as if `cls` had no hyperparameter `name`."""
    optimizer = getattr(klo, cls)(0.5)
    del optimizer._hyper[name]
    optimizer.build([variable])
    for weight in optimizer.weights[1:]:
        weight.assign(tf.fill(weight.shape, 3.0))
    path = tf.train.Checkpoint(v=variable, optimizer=optimizer).write(
        str(folder / "c")
    )
    assert not any(name in key for key, _ in tf.train.list_variables(path))
    return path


@pytest.mark.parametrize(("cls", "name"), CAME_LATER)
def test_checkpoint_without_a_hyperparameter(cls, name, tmp_path):
    variable = tf.Variable([1.0, 2.0], name="v")
    path = checkpoint_without(cls, name, tmp_path, variable)

    optimizer = getattr(klo, cls)(0.25)
    default = float(np.float32(optimizer._hyper[name]))
    report = checkpoints.restore(path, {"v": variable}, optimizer)
    assert not report.problems
    (entry,) = [e for e in report.restored if e.target == f"optimizer/{name}"]
    assert "releases without it computed as with" in entry.reason
    assert float(getattr(optimizer, name)) == default
    assert float(optimizer.learning_rate) == 0.5
    for weight in optimizer.get_weights()[1:]:
        assert np.all(weight == 3)

    # It may as well have been a tensor: another value is not overwritten.
    optimizer = getattr(klo, cls)(0.25)
    optimizer._set_hyper(name, 0.5)
    with pytest.raises(checkpoints.MismatchError, match="0.5 here, but rel"):
        checkpoints.restore(path, {"v": variable}, optimizer)
    checkpoints.restore(path, {"v": variable}, optimizer, strict=False)
    assert float(getattr(optimizer, name)) == 0.5


def test_no_other_hyperparameter_may_be_lacking(tmp_path):
    """Whatever came with the first release was then no number."""
    variable = tf.Variable([1.0, 2.0], name="v")
    path = checkpoint_without("Adam", "beta_1", tmp_path, variable)
    with pytest.raises(checkpoints.MismatchError, match="missing.*beta_1"):
        checkpoints.restore(path, {"v": variable}, klo.Adam())


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(("cls", "name"), CAME_LATER)
def test_configuration_without_a_hyperparameter(cls, name, tmp_path):
    """Restored, it has the default, as after `load_model`; converted, too."""
    model = make_model(tf_keras)
    optimizer = getattr(klo, cls)(0.5)
    if cls == "Nadam":  # As Keras 1 called it.
        optimizer.get_config = lambda: {"learning_rate": 0.5}
    else:
        config = optimizer.get_config()
        del config[name]
        optimizer.get_config = lambda: config
    model.compile(optimizer, "mse")
    model.train_on_batch(np.ones((2, 3)), np.ones((2, 2)))
    model.save(tmp_path / "m.h5")
    convert(f"{tmp_path}/m.h5", f"{tmp_path}/c")

    default = float(np.float32(getattr(klo, cls)()._hyper[name]))
    for path in (tmp_path / "m.h5", tmp_path / "c"):
        other = getattr(klo, cls)(0.25)
        other._set_hyper(name, 0.5)
        assert not checkpoints.restore(path, make_model(keras), other).problems
        assert float(getattr(other, name)) == default


@pytest.mark.parametrize("equal", [True, False])
def test_epsilon_was_a_variable(equal, tmp_path):
    """Before TensorFlow 1.15."""
    variable = tf.Variable([1.0, 2.0], name="v")
    optimizer = klo.Adam(0.5, epsilon=1e-3)
    optimizer._set_hyper("epsilon", 1e-3)
    optimizer.build([variable])
    path = tf.train.Checkpoint(v=variable, optimizer=optimizer).write(
        str(tmp_path / "c")
    )
    other = klo.Adam(0.5, epsilon=1e-3 if equal else 1e-2)
    if equal:
        assert not checkpoints.restore(path, {"v": variable}, other).problems
    else:
        with pytest.raises(checkpoints.MismatchError, match="0.001.*0.01 here"):
            checkpoints.restore(path, {"v": variable}, other)


def test_only_the_wrapper_had_the_loss_scale(tmp_path):
    """Up to TensorFlow 2.3: the graph hangs it on the wrapper alone."""
    variable = tf.Variable([1.0, 2.0], name="v")
    inner = klo.SGD(0.5, momentum=0.5)
    inner.build([variable])
    wrapper, scale = tf.train.Checkpoint(), tf.train.Checkpoint()
    scale.current_loss_scale = tf.Variable(64.0)
    scale.good_steps = tf.Variable(7, dtype=tf.int64)
    wrapper.base_optimizer, wrapper.loss_scale = inner, scale
    path = tf.train.Checkpoint(v=variable, optimizer=wrapper).write(
        str(tmp_path / "c")
    )
    optimizer = klo.LossScaleOptimizer(klo.SGD(0.25, momentum=0.5))
    checkpoints.restore(path, {"v": variable}, optimizer)
    assert float(optimizer.loss_scale) == 64.0
    assert float(optimizer.learning_rate) == 0.5


@pytest.mark.parametrize(
    "library", [keras, tf_keras], ids=["keras", "tf_keras"]
)
@pytest.mark.parametrize("subclassed", [False, True])
def test_a_model_that_is_not_built(library, subclassed, golden):
    class Subclassed(library.Model):
        def __init__(self):
            super().__init__()
            self.dense = library.layers.Dense(2)

        def call(self, x):
            return self.dense(x)

    model = library.Sequential([library.layers.Dense(2)])
    model = Subclassed() if subclassed else model
    model.compile(klo.Adam(), "mse")
    folder = golden / "tf-2.8" / "model" / "adam"
    for path in (folder / "ckpt", folder / "weights" / "weights"):
        for target in (model, {"model": model}):
            with pytest.raises(
                checkpoints.CheckpointError, match="build the model first"
            ):
                checkpoints.restore(path, target, model.optimizer)
    assert not model.optimizer.weights


def test_a_new_optimizer_as_the_root_of_a_checkpoint(tmp_path):
    """Its node has the number 0."""
    variable = keras.Variable([1.0])
    theirs = keras.optimizers.Adam()
    theirs.build([variable])
    path = tf.train.Checkpoint(root=theirs).write(str(tmp_path / "c"))
    with pytest.raises(checkpoints.MismatchError, match="later optimizers"):
        checkpoints.restore(path, {"v": variable}, klo.Adam())
