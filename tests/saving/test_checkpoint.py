"""`tf.train.Checkpoint` and `CheckpointManager` with our optimizers."""

import os

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

import keras_legacy_opt as klo
from keras_legacy_opt import checkpoints

# One of each set of slots, with the options that add some.
OPTIMIZERS = {
    "sgd": lambda module: module.SGD(0.1),
    "momentum": lambda module: module.SGD(0.1, momentum=0.9),
    "adam": lambda module: module.Adam(0.1),
    "amsgrad": lambda module: module.Adam(0.1, amsgrad=True),
    "adadelta": lambda module: module.Adadelta(0.5),
    "adagrad": lambda module: module.Adagrad(0.1),
    "adamax": lambda module: module.Adamax(0.1),
    "nadam": lambda module: module.Nadam(0.1),
    "ftrl": lambda module: module.Ftrl(0.1),
    "rmsprop": lambda module: module.RMSprop(0.1, momentum=0.5, centered=True),
}
LIBRARIES = {"keras": keras, "tf_keras": tf_keras}


def make_variables():
    return [
        tf.Variable(np.linspace(-1, 1, 6, dtype="f").reshape(2, 3), name="a"),
        tf.Variable(np.ones(3, "f"), name="b"),
    ]


def step(optimizer, variables, seed):
    rng = np.random.default_rng(seed)
    optimizer.apply_gradients(
        [
            (tf.constant(rng.normal(0, 0.5, v.shape), tf.float32), v)
            for v in variables
        ]
    )


def trained(make, module=klo, steps=3):
    variables, optimizer = make_variables(), make(module)
    for seed in range(steps):
        step(optimizer, variables, seed)
    return variables, optimizer


def assert_equal(arrays, others):
    for array, other in zip(arrays, others, strict=True):
        np.testing.assert_array_equal(array, other)


def values(variables):
    return [v.numpy() for v in variables]


def make_checkpoint(variables, optimizer):
    return tf.train.Checkpoint(v=variables, optimizer=optimizer)


@pytest.mark.parametrize("build_first", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_bare_variables(name, build_first, tmp_path):
    make = OPTIMIZERS[name]
    variables, optimizer = trained(make)
    path = make_checkpoint(variables, optimizer).save(str(tmp_path / "c"))
    others, restored = make_variables(), make(klo)
    if build_first:
        restored.build(others)
    status = make_checkpoint(others, restored).restore(path)
    status.assert_existing_objects_matched()
    restored.build(others)
    status.assert_consumed()
    assert [w.name for w in restored.weights] == [
        w.name for w in optimizer.weights
    ]
    assert_equal(restored.get_weights(), optimizer.get_weights())
    for seed in (3, 4):
        step(optimizer, variables, seed)
        step(restored, others, seed)
    assert_equal(values(others), values(variables))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_keys_are_those_of_tf_keras(name, tmp_path):
    make = OPTIMIZERS[name]
    written = {}
    for library, module in (
        ("ours", klo),
        ("theirs", tf_keras.optimizers.legacy),
    ):
        variables, optimizer = trained(make, module)
        path = make_checkpoint(variables, optimizer).save(
            str(tmp_path / library)
        )
        written[library] = path, tf.train.list_variables(path)
    assert written["ours"][1] == written["theirs"][1]
    # And each reads what the other wrote, in the other's order of weights.
    for library, module in (
        ("theirs", klo),
        ("ours", tf_keras.optimizers.legacy),
    ):
        variables, optimizer = make_variables(), make(module)
        status = make_checkpoint(variables, optimizer).restore(
            written[library][0]
        )
        step(optimizer, variables, 3)
        status.assert_consumed()
        expected, reference = trained(make, steps=4)
        for array, other in zip(
            values(variables), values(expected), strict=True
        ):
            np.testing.assert_allclose(array, other, rtol=3e-7)
        assert int(optimizer.iterations) == int(reference.iterations)


def build_model(library):
    return library.Sequential(
        [
            library.layers.Input((3,)),
            library.layers.Dense(4, activation="relu"),
            library.layers.BatchNormalization(),
            library.layers.Dense(2),
        ]
    )


def train(model, steps, start=0):
    for seed in range(start, start + steps):
        rng = np.random.default_rng(seed)
        model.train_on_batch(
            rng.normal(size=(4, 3)).astype("f"),
            rng.normal(size=(4, 2)).astype("f"),
        )


@pytest.mark.parametrize("build_first", [False, True])
@pytest.mark.parametrize("library", LIBRARIES)
def test_models(library, build_first, tmp_path):
    library = LIBRARIES[library]
    model = build_model(library)
    model.compile(klo.Adam(0.1, amsgrad=True), "mse")
    train(model, 3)
    path = tf.train.Checkpoint(model=model, optimizer=model.optimizer).save(
        str(tmp_path / "c")
    )
    other = build_model(library)
    other.compile(klo.Adam(0.1, amsgrad=True), "mse")
    if build_first:
        other.optimizer.build(other.trainable_variables)
    status = tf.train.Checkpoint(
        model=other, optimizer=other.optimizer
    ).restore(path)
    train(model, 2, start=3)
    train(other, 2, start=3)
    status.assert_existing_objects_matched()
    status.assert_consumed()
    assert_equal(other.get_weights(), model.get_weights())
    assert_equal(other.optimizer.get_weights(), model.optimizer.get_weights())


def test_a_model_that_grew_and_shrank(tmp_path):
    """New variables get fresh slots; what is left of the old is reported."""
    variables, optimizer = trained(OPTIMIZERS["adam"])
    path = make_checkpoint(variables[:1], optimizer).save(str(tmp_path / "c"))
    others, restored = make_variables(), klo.Adam(0.1)
    status = make_checkpoint(others, restored).restore(path)
    restored.build(others)
    with pytest.raises(AssertionError, match="not bound to"):
        status.assert_existing_objects_matched()
    assert_equal(
        [restored.get_slot(others[0], "m")],
        [optimizer.get_slot(variables[0], "m")],
    )
    assert not restored.get_slot(others[1], "m").numpy().any()
    step(restored, others, 3)

    path = make_checkpoint(variables, optimizer).save(str(tmp_path / "c"))
    status = make_checkpoint(make_variables()[:1], klo.Adam(0.1)).restore(path)
    with pytest.raises(AssertionError, match="Unresolved object"):
        status.assert_consumed()
    status.expect_partial()

    # The same, in words: our restore.
    fewer = {"v": [make_variables()[0]]}
    with pytest.raises(checkpoints.MismatchError) as raised:
        checkpoints.restore(path, fewer, klo.Adam(0.1))
    unused = {e.source for e in raised.value.report.problems}
    assert unused == {
        "v/1",
        "v/1/.OPTIMIZER_SLOT/optimizer/m",
        "v/1/.OPTIMIZER_SLOT/optimizer/v",
    }
    report = checkpoints.restore(path, fewer, klo.Adam(0.1), strict=False)
    assert {e.source for e in report.of("unused")} == unused


def test_checkpoint_manager_keeps_and_restores(tmp_path):
    variables, optimizer = trained(OPTIMIZERS["nadam"])
    checkpoint = make_checkpoint(variables, optimizer)
    manager = tf.train.CheckpointManager(checkpoint, tmp_path, max_to_keep=2)
    saved = []
    for seed in (3, 4, 5):
        step(optimizer, variables, seed)
        manager.save()
        saved.append((optimizer.get_weights(), values(variables)))
    assert len(manager.checkpoints) == 2
    for path, (weights, arrays) in zip(
        manager.checkpoints, saved[1:], strict=True
    ):
        checkpoint.restore(path).assert_consumed()
        assert_equal(optimizer.get_weights(), weights)
        assert_equal(values(variables), arrays)


def test_asynchronous_checkpoint(tmp_path):
    variables, optimizer = trained(OPTIMIZERS["adam"])
    checkpoint = make_checkpoint(variables, optimizer)
    options = tf.train.CheckpointOptions(
        experimental_enable_async_checkpoint=True
    )
    path = checkpoint.save(str(tmp_path / "c"), options=options)
    saved = optimizer.get_weights()
    step(optimizer, variables, 3)  # While it may still be writing.
    checkpoint.sync()
    others, restored = make_variables(), klo.Adam(0.1)
    status = make_checkpoint(others, restored).restore(path)
    restored.build(others)
    status.assert_consumed()
    assert_equal(restored.get_weights(), saved)


def test_sharded_checkpoint(tmp_path):
    """A large variable's value and its slots, in several data files."""
    variables = [tf.Variable(tf.random.stateless_normal([700, 500], [1, 2]))]
    optimizer = klo.Adam(0.1)
    step(optimizer, variables, 0)
    checkpoint = tf.train.Checkpoint(v=variables, optimizer=optimizer)
    options = tf.train.CheckpointOptions(
        experimental_sharding_callback=(
            tf.train.experimental.MaxShardSizePolicy(300_000)
        )
    )
    path = checkpoint.save(str(tmp_path / "c"), options=options)
    assert sum(".data-" in name for name in os.listdir(tmp_path)) > 10
    expected = optimizer.get_weights(), values(variables)
    for v in (*variables, *optimizer.weights[1:]):
        v.assign(tf.zeros_like(v))
    checkpoint.restore(path).assert_consumed()
    assert_equal(optimizer.get_weights(), expected[0])
    assert_equal(values(variables), expected[1])
    for v in (*variables, *optimizer.weights[1:]):
        v.assign(tf.zeros_like(v))
    checkpoints.restore(path, {"v": variables}, optimizer)
    assert_equal(optimizer.get_weights(), expected[0])


def test_slots_of_restored_variables_line_up_after_a_second_restore(tmp_path):
    variables, optimizer = trained(OPTIMIZERS["ftrl"])
    checkpoint = make_checkpoint(variables, optimizer)
    path = checkpoint.save(str(tmp_path / "c"))
    others, restored = make_variables(), klo.Ftrl(0.1)
    other = make_checkpoint(others, restored)
    other.restore(path)
    other.restore(path)
    restored.build(others)
    assert_equal(restored.get_weights(), optimizer.get_weights())
    assert [w.name for w in restored.weights] == [
        w.name for w in optimizer.weights
    ]


def test_saved_model_restores_as_an_object_with_slots(tmp_path):
    class Trainer(tf.Module):
        def __init__(self):
            self.w = tf.Variable([1.0, 2.0])
            self.optimizer = klo.Adam(0.1)

        @tf.function(input_signature=[tf.TensorSpec([2], tf.float32)])
        def step(self, gradient):
            self.optimizer.apply_gradients([(gradient, self.w)])
            return self.w.read_value()

    trainer = Trainer()
    trainer.step(tf.constant([0.1, -0.2]))
    tf.saved_model.save(trainer, str(tmp_path))
    loaded = tf.saved_model.load(str(tmp_path))
    for gradient in ([0.3, 0.1], [0.2, -0.5]):
        assert_equal(
            [loaded.step(tf.constant(gradient))],
            [trainer.step(tf.constant(gradient))],
        )
    # Its variables, into an optimizer that can be used.
    others = {"w": tf.Variable([0.0, 0.0])}
    optimizer = klo.Adam(0.1)
    report = checkpoints.restore(tmp_path, others, optimizer)
    assert not report.problems
    assert int(optimizer.iterations) == 1


class Module(tf.Module):
    """Variables in a list, and in a module."""

    def __init__(self):
        super().__init__()
        self.table = tf.Variable([1.0, 2.0], name="table")
        self.parts = [tf.Variable(3.0, name="part")]
        self.inside = tf.Module()
        self.inside.bias = tf.Variable([4.0], name="bias")

    def loss(self):
        return tf.add_n([tf.reduce_sum(v**2) for v in self.variables])


@pytest.mark.parametrize("write", ["save", "tf.train.Checkpoint"])
@pytest.mark.parametrize(
    "wrap",
    [lambda module: module, lambda module: {"model": module}],
    ids=["bare", "in a dictionary"],
)
def test_a_module(wrap, write, tmp_path):
    module, optimizer = Module(), klo.Adam(0.1)
    for _ in range(3):
        optimizer.minimize(module.loss, module.trainable_variables)
    path = str(tmp_path / "c")
    if write == "save":
        checkpoints.save(path, wrap(module), optimizer)
    else:
        tf.train.Checkpoint(model=module, optimizer=optimizer).write(path)
    other, restored = Module(), klo.Adam(0.5)
    assert not checkpoints.restore(path, wrap(other), restored).problems
    assert_equal(module.variables, other.variables)
    assert_equal(optimizer.get_weights(), restored.get_weights())


@pytest.mark.parametrize(
    "model",
    ["model", {"table": [1.0]}, tf.train.Checkpoint()],
    ids=["str", "numbers", "Checkpoint"],
)
def test_what_is_no_model(model, tmp_path):
    optimizer = klo.Adam()
    path = checkpoints.save(tmp_path / "c", Module(), optimizer)
    words = "must be a built model .*, a tf.Module, a variable.*Received"
    with pytest.raises(TypeError, match=words):
        checkpoints.restore(path, model, optimizer)
