"""Groups: one handle for all variables and slots of an update.

In a function, TensorFlow cannot see through it: order, shapes, lifetime and
SavedModels must be as if every variable were an input.
"""

import contextlib
import gc
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

import keras_legacy_opt
from keras_legacy_opt import fused, private_api

pytestmark = pytest.mark.usefixtures("native_ops")


def ops_of(function):
    return {op.type for op in function.graph.get_operations()}


def test_a_function_captures_the_group_only():
    variables = [tf.Variable([float(i)]) for i in range(3)]
    opt = keras_legacy_opt.Adam()
    grads = [tf.ones([1])] * 3

    @tf.function
    def step():
        for _ in range(2):
            opt.apply_gradients(zip(grads, variables, strict=True))

    traced = step.get_concrete_function()
    assert "KerasLegacyOptGroupAdam" in ops_of(traced)
    resources = [t for t in traced.captured_inputs if t.dtype == tf.resource]
    hyperparameters = ["learning_rate", "decay", "beta_1", "beta_2"]
    assert len(resources) == 1 + len(["iterations", *hyperparameters])


def test_without_groups(monkeypatch, caplog):
    """As where TensorFlow's private parts have changed."""
    monkeypatch.delattr(private_api, "order_updates_of_members")
    connect = fused.groups.connect.__wrapped__
    monkeypatch.setattr(fused.groups, "connect", connect)
    var, opt = tf.Variable([1.0]), keras_legacy_opt.Adagrad(0.5)

    @tf.function
    def step():
        opt.apply_gradients([(tf.ones([1]), var)])

    assert "KerasLegacyOptAdagrad" in ops_of(step.get_concrete_function())
    assert "is not as it was" in caplog.text


# Order.  The updates are large, so that a read that ran beside them would show.


class Counted:
    """A variable from which `step` subtracts one, and its momentum."""

    def __init__(self):
        self.var = tf.Variable(tf.zeros([100_000]))
        self.opt = keras_legacy_opt.SGD(1.0, momentum=1.0)
        self.opt.build([self.var])
        self.slot = self.opt.get_slot(self.var, "momentum")
        self.ones = tf.ones([100_000])

    def step(self):
        self.opt.apply_gradients([(self.ones, self.var)])

    def read(self):
        """The one value that all elements have, of variable and slot."""
        return [
            tf.where(tf.reduce_all(v == v[0]), v[0], np.nan)
            for v in (self.var.read_value(), self.slot.read_value())
        ]


def expected(steps):
    return [[-k * (k + 1) / 2, -k] for k in range(steps + 1)]


@pytest.mark.parametrize("nested", [False, True])
def test_reads_between_updates(nested):
    counted = Counted()
    step = tf.function(counted.step) if nested else counted.step

    @tf.function
    def train():
        values = [counted.read()]
        for _ in range(4):
            step()
            values.append(counted.read())
        return values

    np.testing.assert_array_equal(train(), expected(4))


def test_reads_in_a_function_that_does_not_update():
    """Only the outer function captures both, the group and the variable."""
    counted = Counted()
    step, read = tf.function(counted.step), tf.function(counted.read)

    @tf.function
    def train():
        values = [read()]
        for _ in range(4):
            step()
            values.append(read())
        return values

    np.testing.assert_array_equal(train(), expected(4))


def test_other_updates_of_a_member():
    counted = Counted()
    step = tf.function(counted.step)

    @tf.function
    def train():
        for _ in range(3):
            counted.slot.assign_sub(counted.slot + 0.0)
            step()
        return counted.read()

    # Without momentum, each step subtracts one.
    np.testing.assert_array_equal(train(), [-3.0, -1.0])


def test_reads_around_control_flow():
    counted = Counted()

    @tf.function
    def train(steps, update):
        before = counted.read()
        for _ in tf.range(steps):
            if update:
                counted.step()
        return before, counted.read()

    for update in (False, True):
        before, after = train(tf.constant(3), tf.constant(update))
        np.testing.assert_array_equal(before, [0, 0])
        np.testing.assert_array_equal(after, expected(3)[3 * update])


def test_two_groups_share_a_variable():
    counted = Counted()
    other = tf.Variable(tf.zeros([10]))
    counted.opt.build([other])

    @tf.function
    def train():
        for _ in range(3):
            counted.step()
            counted.opt.apply_gradients(
                [(counted.ones, counted.var), (tf.ones([10]), other)]
            )
        return counted.read()

    np.testing.assert_array_equal(train(), expected(6)[6])
    np.testing.assert_array_equal(other, np.full(10, -6.0))


# Shapes.


def test_shape_functions_see_the_members(native_ops):
    variables = [tf.Variable([1.0, 2.0]), tf.Variable(3.0)]
    group = fused.groups.group_of(native_ops, variables)

    @tf.function
    def step(*grads):
        rate = tf.constant(0.5, grads[0].dtype)
        native_ops.group_sgd(group, grads, rate, *[[]] * 4)

    with pytest.raises(ValueError, match="must be equal"):
        step(tf.ones([3]), tf.ones([]))
    with pytest.raises(ValueError, match="holds float, not double"):
        step(tf.ones([2], tf.float64), tf.ones([], tf.float64))
    step(tf.ones([2]), tf.ones([]))
    np.testing.assert_array_equal(variables[0], [0.5, 1.5])


def test_a_group_knows_its_variables(native_ops):
    variables = [tf.Variable([1.0, 2.0]), tf.Variable(3.0)]
    group = native_ops.variable_group([v.handle for v in variables])

    def step(*grads):
        rate = tf.constant(0.5, grads[0].dtype)
        native_ops.group_sgd(group, grads, rate, *[[]] * 4)

    step(tf.ones([2]), tf.ones([]))
    np.testing.assert_array_equal(variables[0], [0.5, 1.5])
    np.testing.assert_array_equal(variables[1], 2.5)
    for grads in ([tf.ones([2])], [tf.ones([2]), tf.ones([2])]):
        with pytest.raises(tf.errors.InvalidArgumentError):
            step(*grads)
    with pytest.raises(tf.errors.InvalidArgumentError, match="holds float"):
        step(tf.ones([2], tf.float64), tf.ones([], tf.float64))
    np.testing.assert_array_equal(variables[0], [0.5, 1.5])
    kept = variables[0].handle
    del variables
    gc.collect()
    step(tf.ones([2]), tf.ones([]))  # As by a function that captured them.
    value = tf.raw_ops.ReadVariableOp(resource=kept, dtype=tf.float32)
    np.testing.assert_array_equal(value, [0.0, 1.0])


# Lifetime.


def test_a_function_outlives_the_optimizer():
    def make():
        var = tf.Variable([1.0])
        opt = keras_legacy_opt.SGD(0.5, momentum=1.0)

        @tf.function
        def step():
            opt.apply_gradients([(tf.ones([1]), var)])

        return var, step.get_concrete_function()

    var, step = make()
    gc.collect()
    for _ in range(2):
        step()
    np.testing.assert_array_equal(var, [1.0 - 0.5 - 1.0])


# SavedModels.


@pytest.mark.processes
def test_saved_model(tmp_path):
    opt = keras_legacy_opt.Adam(0.5)

    class Trainer(tf.Module):
        def __init__(self):
            self.var = tf.Variable([1.0, 2.0])
            opt.build([self.var])
            self.state = [*opt.weights, *opt._hyper.values()]

        @tf.function(input_signature=[])
        def train(self):
            opt.apply_gradients([(self.var * 2.0, self.var)])
            return self.var.read_value()

    trainer = Trainer()
    tf.saved_model.save(trainer, str(tmp_path))
    expected = trainer.train().numpy()
    loaded = tf.saved_model.load(str(tmp_path))
    np.testing.assert_array_equal(loaded.train(), expected)

    # Where the library is not loaded, the error names the missing op.
    code = f"import tensorflow as tf; tf.saved_model.load({str(tmp_path)!r})"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True
    )
    assert result.returncode
    assert "Op type not registered 'KerasLegacyOpt" in result.stderr


class Model(tf.Module):
    def __init__(self):
        super().__init__()
        self.var = tf.Variable([1.0, 2.0])
        self.optimizer = keras_legacy_opt.Adam(0.5)
        self.optimizer.build([self.var])

    @tf.function(input_signature=[])
    def infer(self):
        return self.var * 2.0


class Trainer(Model):
    @tf.function
    def train(self):
        self.optimizer.apply_gradients([(self.var * 2.0, self.var)])
        return self.var.read_value()


def test_a_loaded_step_trains_on_and_is_saved_again(tmp_path):
    trainer = Trainer()
    trainer.train()
    tf.saved_model.save(trainer, str(tmp_path / "once"))
    loaded = tf.saved_model.load(str(tmp_path / "once"))
    np.testing.assert_array_equal(loaded.train(), trainer.train())

    tf.saved_model.save(loaded, str(tmp_path / "twice"))
    again = tf.saved_model.load(str(tmp_path / "twice"))

    @tf.function
    def two_steps(module):
        values = [module.var.read_value()]
        for _ in range(2):
            module.train()
            values.append(module.var.read_value())
        return values

    values = two_steps(again)
    np.testing.assert_array_equal(values, two_steps(trainer))
    assert len({float(value[0]) for value in values}) == 3


def test_a_signature_serves(tmp_path):
    """What TensorFlow Serving runs: a graph, in a session."""
    trainer = Trainer()
    signatures = {"train": trainer.train.get_concrete_function()}
    tf.saved_model.save(trainer, str(tmp_path), signatures=signatures)
    expected = [trainer.train().numpy() for _ in range(2)]
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        meta_graph = tf.compat.v1.saved_model.load(
            session, ["serve"], str(tmp_path)
        )
        (output,) = meta_graph.signature_def["train"].outputs.values()
        values = [session.run(output.name) for _ in range(2)]
    np.testing.assert_array_equal(values, expected)


@pytest.mark.parametrize("where", ["graph", "replicas in a graph", "elsewhere"])
def test_where_a_step_cannot_be_loaded(tmp_path, monkeypatch, where):
    trainer = Trainer()
    trainer.train()
    tf.saved_model.save(trainer, str(tmp_path))
    scope, graph = contextlib.nullcontext, tf.Graph().as_default
    if where == "elsewhere":
        monkeypatch.setattr(fused.places, "_is_local", lambda *_: False)
        graph = contextlib.nullcontext
    elif where != "graph":
        scope = tf.distribute.MirroredStrategy(["CPU:0"]).scope
    with graph(), scope(), pytest.raises(NotImplementedError, match="Variable"):
        tf.saved_model.load(str(tmp_path))


def test_variables_of_a_strategy_are_no_group_outside_of_its_replicas(
    native_ops,
):
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        variables = [tf.Variable([1.0]), tf.Variable([2.0])]
        assert fused.groups.group_of(native_ops, variables) is None


def test_only_what_is_exported_is_saved(tmp_path):
    """A step elsewhere does not tie a model for inference to the library."""
    model = Model()

    @tf.function
    def train():
        model.optimizer.apply_gradients([(model.var * 2.0, model.var)])

    train()
    tf.saved_model.save(model, str(tmp_path))
    assert b"KerasLegacyOpt" not in _saved(tmp_path)
    model.train = train
    tf.saved_model.save(model, str(tmp_path))
    assert b"KerasLegacyOptGroupAdam" in _saved(tmp_path)


def _saved(path):
    return (path / "saved_model.pb").read_bytes()


def plainly(step):
    step()


def in_cond(step):
    tf.cond(tf.constant(True), lambda: (step(), 1)[1], lambda: 2)


def in_while(step):
    for _ in tf.range(2):
        step()


def in_another_function(step):
    tf.function(step)()


@pytest.mark.parametrize(
    "around", [plainly, in_cond, in_while, in_another_function]
)
def test_updates_of_a_shared_variable_keep_their_order(around):
    """Ftrl sets its variables, whatever they were: the last one counts."""
    variable, doubled = tf.Variable([1.0]), tf.Variable([1.0])

    ordered = [
        keras_legacy_opt.SGD(1.0, momentum=0.5),
        keras_legacy_opt.SGD(1.0, momentum=0.25),
    ]
    clip = keras_legacy_opt.Ftrl(1.0, l1_regularization_strength=0.5)

    def step():
        for optimizer in (*ordered, clip):
            optimizer.apply_gradients(
                [(tf.constant([0.25]), variable), (tf.ones([1]), doubled)]
            )

    with keras_legacy_opt.fused.disabled():
        step()  # The slots.
    start = [v.numpy() for v in (variable, doubled)]
    weights = [o.get_weights() for o in (*ordered, clip)]

    def run(call):
        for v, value in zip((variable, doubled), start, strict=True):
            v.assign(value)
        for o, values in zip((*ordered, clip), weights, strict=True):
            o.set_weights(values)
        call()
        return [v.numpy() for v in (variable, doubled)]

    times = 2 if around is in_while else 1
    expected = run(lambda: [step() for _ in range(times)])
    traced = tf.function(lambda: around(step))
    for _ in range(30):
        np.testing.assert_array_equal(run(traced), expected)
