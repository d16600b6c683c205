"""The native ops are ordinary citizens of TensorFlow."""

import concurrent.futures
import contextlib

import numpy as np
import preforked
import pytest
import tensorflow as tf

import keras_legacy_opt
from keras_legacy_opt import fused
from keras_legacy_opt.fused import places

pytestmark = pytest.mark.usefixtures("native_ops")


def rows(values, indices, dtype=np.int64):
    return tf.IndexedSlices(
        tf.constant(values), tf.constant(np.array(indices, dtype))
    )


# Copies and order.


@pytest.mark.parametrize("wrap", [lambda f: f, tf.function])
@pytest.mark.parametrize("sparse", [False, True])
def test_values_read_before_a_step_stay(calls, wrap, sparse):
    var = tf.Variable(tf.ones([8, 4]))
    opt = keras_legacy_opt.SGD(1.0, momentum=0.5)
    grad = rows(np.ones((1, 4), np.float32), [3]) if sparse else tf.ones([8, 4])

    @wrap
    def step():
        before = var.read_value()
        opt.apply_gradients([(grad, var)])
        return before, var.read_value()

    held = []
    for _ in range(3):
        held.append(step())
    expected = [(1, 0), (0, -1.5), (-1.5, -3.25)]
    for (before, after), (b, a) in zip(held, expected, strict=True):
        np.testing.assert_array_equal(before[3], [b] * 4)
        np.testing.assert_array_equal(after[3], [a] * 4)
        if sparse:
            np.testing.assert_array_equal(after[4], [1] * 4)
    assert calls


def test_a_gradient_may_be_the_variables_own_buffer():
    var = tf.Variable(tf.range(6, dtype=tf.float32))
    opt = keras_legacy_opt.SGD(0.5)
    for _ in range(2):
        opt.apply_gradients([(var.read_value(), var)])
    np.testing.assert_array_equal(var, np.arange(6) / 4)


def test_a_variable_may_come_twice():
    var, other = tf.Variable([1.0, 2.0]), tf.Variable(3.0)
    opt = keras_legacy_opt.SGD(0.5, momentum=0.5)
    one = tf.ones([2])
    opt.apply_gradients([(one, var), (tf.ones([]), other), (2 * one, var)])
    # Momentum: -0.5, then -0.25 - 1.
    np.testing.assert_array_equal(var, [1 - 0.5 - 1.25, 2 - 0.5 - 1.25])
    assert opt.iterations == 1


def test_the_op_itself_takes_a_variable_twice(native_ops):
    var = tf.Variable(tf.ones([40000]))
    native_ops.sgd(
        [var.handle] * 3, [tf.fill([40000], g) for g in (1.0, 2.0, 4.0)],
        tf.constant(0.5), *[[]] * 5,
    )  # fmt: skip
    np.testing.assert_array_equal(var, np.full(40000, 1 - 3.5))


def test_control_flow(calls):
    var = tf.Variable([1.0, 2.0])
    opt = keras_legacy_opt.Adam(0.1)
    twin, plain = tf.Variable([1.0, 2.0]), keras_legacy_opt.Adam(0.1)
    opt.build([var])

    @tf.function
    def train(steps, update):
        for _ in tf.range(steps):
            if update:
                opt.apply_gradients([(var * 2.0, var)])

    train(tf.constant(3), tf.constant(False))
    np.testing.assert_array_equal(var, twin)
    train(tf.constant(3), tf.constant(True))
    with fused.disabled():
        for _ in range(3):
            plain.apply_gradients([(twin * 2.0, twin)])
    np.testing.assert_array_equal(var, twin)
    assert opt.iterations == 3
    assert calls


def test_tf1_graph(calls):
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        var = tf.compat.v1.get_variable(
            "v", initializer=[[1.0], [2.0]], use_resource=True
        )
        opt = keras_legacy_opt.SGD(0.5)
        dense = opt.apply_gradients([(tf.ones([2, 1]), var)])
        sparse = opt.apply_gradients([(rows([[2.0]], [1]), var)])
        session.run(tf.compat.v1.global_variables_initializer())
        session.run(dense)
        session.run(sparse)
        np.testing.assert_array_equal(session.run(var), [[0.5], [0.5]])
    assert calls == ["update_dense", "update_sparse"]


def test_uninitialized_variable(native_ops):
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        var = tf.compat.v1.get_variable("v", shape=[2], use_resource=True)
        step = native_ops.sgd([var.handle], [tf.ones([2])], 0.5, *[[]] * 5)
        with pytest.raises(tf.errors.FailedPreconditionError, match="'v'"):
            session.run(step)


# Errors change nothing.


@pytest.mark.parametrize("bad", [-1, 5, 2**40])
@pytest.mark.parametrize("name", ["SGD", "Adam", "Adagrad"])
def test_index_out_of_range(name, bad):
    var = tf.Variable(tf.ones([5, 2]), name="table")
    opt = getattr(keras_legacy_opt, name)()
    opt.build([var])
    before = [w.numpy() for w in [var, *opt.weights[1:]]]
    grad = rows(np.ones((3, 2), np.float32), [0, bad, 1])
    with pytest.raises(
        tf.errors.InvalidArgumentError,
        match=rf"'table'.* index {bad} at position 1.* \[0, 5\)",
    ):
        opt.apply_gradients([(grad, var)])
    for old, new in zip(before, [var, *opt.weights[1:]], strict=True):
        np.testing.assert_array_equal(old, new)


def test_no_indices():
    var = tf.Variable(tf.ones([5, 2]))
    grad = rows(np.ones((0, 2), np.float32), [])
    keras_legacy_opt.Adagrad().apply_gradients([(grad, var)])
    np.testing.assert_array_equal(var, np.ones([5, 2]))


def test_shapes_are_checked_when_traced_and_when_run(native_ops):
    var, slot = tf.Variable(tf.ones([2])), tf.Variable(tf.ones([3]))

    def step(handles, grad):
        native_ops.adagrad(*handles, [grad], 0.1, 1e-7, *[[]] * 5)

    @tf.function
    def traced():
        step(([var.handle], [slot.handle]), tf.ones([2]))

    with pytest.raises(ValueError, match="must be equal"):
        traced()
    with pytest.raises(tf.errors.InvalidArgumentError, match="its slot has"):
        step(([var.handle], [slot.handle]), tf.ones([2]))
    with pytest.raises(tf.errors.InvalidArgumentError, match="its gradient"):
        step(([var.handle], [var.handle]), tf.ones([4]))
    np.testing.assert_array_equal(var, [1, 1])


# Threads.


def test_concurrent_steps_lose_nothing(native_ops):
    """Sums of whole numbers are exact: a lost update would show."""
    variables = [tf.Variable(tf.zeros([n])) for n in (1, 100, 30000)]
    table = tf.Variable(tf.zeros([50, 8]))
    handles = [v.handle for v in variables]
    grads = [tf.fill(v.shape, -1.0) for v in variables]
    lr = tf.constant(1.0)

    def train(thread):
        order = slice(None, None, 1 if thread % 2 else -1)
        for step in range(100):
            native_ops.sgd(handles[order], grads[order], lr, *[[]] * 5)
            native_ops.sparse_sgd(
                table.handle,
                tf.fill([3, 8], -1.0),
                tf.constant([step % 50, 7, 7]),
                lr,
                *[[]] * 5,
            )

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(train, range(4)))
    for var in variables:
        np.testing.assert_array_equal(var, np.full(var.shape, 400))
    expected = np.full([50, 8], 8.0)
    expected[7] += 800
    np.testing.assert_array_equal(table, expected)


def test_concurrent_readers_see_whole_steps(native_ops):
    """Both variables of a step change under one lock."""
    size = 200_000
    var, twin = tf.Variable(tf.zeros([size])), tf.Variable(tf.zeros([size]))
    grad, lr = tf.fill([size], -1.0), tf.constant(1.0)
    done = False

    def read():
        while not done:
            value = var.read_value().numpy()
            assert value[0] == value[-1] == value[size // 2]

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        reading = pool.submit(read)
        for _ in range(100):
            native_ops.sgd([twin.handle, var.handle], [grad] * 2, lr, *[[]] * 5)
        done = True
        reading.result()
    np.testing.assert_array_equal(var, np.full(size, 100))


def test_results_do_not_depend_on_threads(native_ops):
    """The same bits at any split of the work."""
    rng = np.random.default_rng(1)
    grads = [rng.standard_normal(n).astype("f") for n in (3, 70_001, 40_000)]

    def run():
        variables = [tf.Variable(tf.ones(g.shape)) for g in grads]
        opt = keras_legacy_opt.Adam(0.1, global_clipnorm=0.5)
        for _ in range(3):
            opt.apply_gradients(
                [
                    (tf.constant(g), v)
                    for g, v in zip(grads, variables, strict=True)
                ]
            )
        return [v.numpy() for v in variables]

    first = run()
    for _ in range(5):
        for a, b in zip(first, run(), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("use_locking", [True, False])
def test_locking_changes_no_bit(calls, use_locking):
    def run():
        opt = keras_legacy_opt.Adagrad(0.1)
        opt._use_locking = use_locking
        var, table = tf.Variable(tf.ones([7])), tf.Variable(tf.ones([9, 3]))
        for step in range(3):
            grads = var * 2.0, rows(np.ones((3, 3), np.float32), [step, 8, 8])
            opt.apply_gradients(zip(grads, [var, table], strict=True))
        return var.numpy(), table.numpy()

    ours = run()
    assert calls
    with fused.disabled():
        plain = run()
    for a, b in zip(ours, plain, strict=True):
        np.testing.assert_array_equal(a, b)


STEPS_WITH_DETERMINISM = """
import numpy as np, tensorflow as tf, keras_legacy_opt
tf.keras.utils.set_random_seed(1)
tf.config.experimental.enable_op_determinism()
opt = keras_legacy_opt.Adam(0.1)
var, table = tf.Variable(tf.ones([5])), tf.Variable(tf.ones([1000, 64]))
rng = np.random.default_rng(0)

@tf.function
def step(values, indices):
    rows = tf.IndexedSlices(values, indices)
    opt.apply_gradients([(var * 2.0, var), (rows, table)])

for _ in range(5):
    step(rng.standard_normal((4096, 64), np.float32), rng.integers(0, 50, 4096))
assert keras_legacy_opt.fused.is_available()
print(hash(table.numpy().tobytes()), hash(var.numpy().tobytes()))
"""


@pytest.mark.processes
def test_op_determinism(tmp_path):
    """Duplicate rows are summed in the same order in every process."""
    script, log = tmp_path / "script.py", tmp_path / "log"
    script.write_text(STEPS_WITH_DETERMINISM)
    (status, first), (_, second) = (
        preforked.run(script, env={}, log=log) for _ in range(2)
    )
    assert status == 0, first
    assert first.splitlines()[-1] == second.splitlines()[-1]


FORK_WHILE_ANOTHER_THREAD_LOADS = """
import os, signal, threading
from keras_legacy_opt.fused import loader

loads, may_end = threading.Event(), threading.Event()
original = loader._first_that_loads

def slowly():
    loads.set()
    may_end.wait()
    return original()

loader._first_that_loads = slowly
thread = threading.Thread(target=loader.load)
thread.start()
loads.wait()
child = os.fork()
if child == 0:
    loader._first_that_loads = original
    signal.alarm(60)
    os._exit(0 if loader.is_available() else 1)
assert os.waitpid(child, 0)[1] == 0
may_end.set()
thread.join()
assert loader.is_available()
"""


@pytest.mark.processes
def test_a_forked_child_waits_for_no_load_of_its_parent(native_ops, tmp_path):
    script, log = tmp_path / "script.py", tmp_path / "log"
    script.write_text(FORK_WHILE_ANOTHER_THREAD_LOADS)
    status, output = preforked.run(script, env={}, log=log)
    assert status == 0, output


# The rest of the step.


def test_transform_and_condition(native_ops):
    var = tf.Variable([1.0, 1.0, 1.0])
    grad = tf.constant([8.0, -80.0, 0.5])
    transform = tf.constant([0.5, 2.0, 3.0, 4.0])

    def step(finite):
        native_ops.sgd(
            [var.handle],
            [grad],
            1.0,
            [transform],
            [tf.constant(finite, tf.bool)],
            *[[]] * 3,
        )

    step(False)
    np.testing.assert_array_equal(var, [1, 1, 1])
    step(True)
    np.testing.assert_array_equal(var, [1 - 1.5, 1 + 1.5, 1 - 0.1875])
    with pytest.raises(tf.errors.InvalidArgumentError, match="condition"):
        step([])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_all_finite(native_ops, dtype, bad):
    values = [tf.cast([3.0, 4.0], dtype), tf.zeros([0]), tf.ones([])]
    values.append(tf.cast(tf.fill([100_000], 0.5), dtype))
    assert native_ops.all_finite(values, 1.0)
    assert not native_ops.all_finite(values, np.inf)
    values[3] = tf.concat([values[3], tf.cast([bad], dtype)], 0)
    for factor in (1.0, 0.0):
        assert not native_ops.all_finite(values, factor)
    assert not native_ops.all_finite(values[::-1], 1.0)


@pytest.mark.parametrize("option", ["clipnorm", "global_clipnorm", "clipvalue"])
def test_clipping_is_fused_for_all_gradients(calls, option):
    def run(opt):
        var, table = tf.Variable([3.0, 4.0]), tf.Variable(tf.ones([5, 2]))
        for _ in range(3):
            grads = var * 2.0, rows(np.ones((3, 2), np.float32), [1, 4, 1])
            opt.apply_gradients(zip(grads, [var, table], strict=True))
        return var.numpy(), table.numpy()

    ours = run(keras_legacy_opt.SGD(0.1, **{option: 0.5}))
    assert calls == ["update_dense", "update_sparse"] * 3
    with fused.disabled():
        plain = run(keras_legacy_opt.SGD(0.1, **{option: 0.5}))
    for a, b in zip(ours, plain, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_clip_limits_change_without_a_new_trace(calls):
    var = tf.Variable([0.0])
    opt = keras_legacy_opt.SGD(1.0, global_clipnorm=2.0)

    @tf.function
    def step():
        opt.apply_gradients([(tf.constant([10.0]), var)])

    step()
    traced = list(calls)
    opt.global_clipnorm = 1.0
    step()
    np.testing.assert_allclose(var, [-3.0], rtol=1e-6)
    assert calls == traced != []


# Which path is taken.


def test_groups_by_dtype(calls):
    variables = [tf.Variable(tf.ones([2], d)) for d in places.DTYPES]
    opt = keras_legacy_opt.SGD(0.5)
    for _ in range(3):
        opt.apply_gradients([(tf.ones_like(v), v) for v in variables])
    assert len(calls) == 3 * len(places.DTYPES)
    for var in variables:
        np.testing.assert_array_equal(var, [-0.5, -0.5])


def test_plain_where_native_ops_do_not_apply(calls):
    class Own(keras_legacy_opt.SGD):
        def _resource_apply_dense(self, grad, var, apply_state=None):
            return super()._resource_apply_dense(-grad, var, apply_state)

    var = tf.Variable([1.0])
    Own(0.5).apply_gradients([(tf.ones([1]), var)])
    np.testing.assert_array_equal(var, [1.5])
    positive = tf.Variable([1.0], constraint=tf.nn.relu)
    for _ in range(3):
        keras_legacy_opt.SGD(2.0).apply_gradients([(tf.ones([1]), positive)])
    np.testing.assert_array_equal(positive, [0])
    number = tf.Variable([1 + 1j])
    keras_legacy_opt.SGD(0.5).apply_gradients([(tf.constant([1 + 1j]), number)])
    np.testing.assert_array_equal(number, [0.5 + 0.5j])
    opt = keras_legacy_opt.SGD(0.5)

    @tf.function(jit_compile=True)
    def compiled():
        opt.apply_gradients([(tf.ones([1]), var)])

    compiled()
    np.testing.assert_array_equal(var, [1])
    with fused.disabled():
        opt.apply_gradients([(tf.ones([1]), var)])
    np.testing.assert_array_equal(var, [0.5])
    assert calls == []
    opt.apply_gradients([(tf.ones([1]), var)])
    assert calls == ["update_dense"]


@pytest.mark.parametrize("wrap", [lambda f: f, tf.function])
def test_strategy(calls, wrap):
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    with strategy.scope():
        variables = [tf.Variable([[1.0]]) for _ in range(3)]
        opt = keras_legacy_opt.SGD(0.5, momentum=0.5)
        opt.build(variables)

    def replica_step(inside):
        grads = [tf.ones([1, 1]), tf.ones([1, 1]), rows([[1.0]], [0])]
        with inside():
            opt.apply_gradients(list(zip(grads, variables, strict=True)))

    def train(outside=contextlib.nullcontext, inside=contextlib.nullcontext):
        with outside():
            wrap(lambda: strategy.run(replica_step, (inside,)))()

    train()
    assert calls == ["update_dense", "update_sparse"]
    # Replicas run in threads of their own.
    train(outside=fused.disabled)
    train(inside=fused.disabled)
    assert len(calls) == 2
    train()
    assert calls == ["update_dense", "update_sparse"] * 2
    expected = 1.0 - 0.5 - 0.75 - 0.875 - 0.9375
    assert [v.numpy().item() for v in variables] == [expected] * 3
