"""The judge: which backend updates a variable, and what it is handed."""

import numpy as np
import pytest
import tensorflow as tf

import keras_legacy_opt
from keras_legacy_opt import addons, backends, fused
from keras_legacy_opt.backends.base import Backend
from keras_legacy_opt.backends.explain import Explanation


class Toy(Backend):
    """Records the dense updates of variables whose names say so."""

    name = "toy"

    def __init__(self):
        self.handed = []

    def refuses(self, step, update):
        if "toy" not in update.variable.name:
            return "it is not called toy"
        return "it takes no rows" if update.is_sparse else None

    def group(self, update):
        return update.variable.dtype

    def run(self, step, updates):
        self.handed.append(updates)
        rate = step.coefficients(updates[0].variable)["lr_t"]
        return tf.group(
            *(
                u.variable.assign_sub(2.0 * rate * u.gradient, read_value=False)
                for u in updates
            )
        )


@pytest.fixture
def toy(monkeypatch):
    """A backend that is asked first."""
    toy = Toy()
    monkeypatch.setattr(backends, "BACKENDS", [toy, *backends.BACKENDS])
    return toy


def one_for_all(optimizer, pairs):
    return lambda: optimizer.apply_gradients(pairs)


def in_function(optimizer, pairs):
    @tf.function
    def step():
        optimizer.apply_gradients(pairs)

    return step


def on_one_device(optimizer, pairs):
    strategy = tf.distribute.get_strategy()
    return lambda: strategy.run(lambda: optimizer.apply_gradients(pairs))


@pytest.mark.parametrize("wrap", [one_for_all, in_function, on_one_device])
def test_a_backend_plugs_in(toy, wrap):
    first, second = tf.Variable([1.0], name="toy"), tf.Variable(1.0, name="toy")
    table = tf.Variable(tf.ones([2, 1]), name="toy_table")
    other = tf.Variable([1.0], name="other")
    rows = tf.IndexedSlices(tf.ones([1, 1]), tf.constant([1]))
    opt = keras_legacy_opt.SGD(0.125, clipvalue=1.0)
    step = wrap(
        opt,
        [
            (tf.constant([4.0]), first),
            (rows, table),
            (tf.constant([1.0]), other),
            (tf.constant(-4.0), second),
        ],
    )
    for _ in range(3):
        step()
    np.testing.assert_array_equal(first, [0.25])
    np.testing.assert_array_equal(second, 1.75)
    np.testing.assert_array_equal(other, [0.625])
    np.testing.assert_array_equal(table, [[1.0], [0.625]])
    assert opt.iterations == 3
    assert toy.handed
    for updates in toy.handed:
        assert [update.variable.name for update in updates] == ["toy:0"] * 2
        # It does not fold: its gradients are clipped.
        assert all(u.transform is u.condition is None for u in updates)


def test_a_gate_stands_around_a_backend_that_cannot_skip(toy):
    var = tf.Variable([1.0], name="toy")
    opt = keras_legacy_opt.LossScaleOptimizer(keras_legacy_opt.SGD(0.125))

    @tf.function
    def step(gradient):
        opt.apply_gradients([(gradient, var)])

    opt.get_scaled_loss(tf.ones([])), opt.get_unscaled_gradients([])
    step(tf.constant([np.inf]))
    np.testing.assert_array_equal(var, [1.0])
    step(tf.constant([2.0]))
    np.testing.assert_array_equal(var, [0.5])
    assert opt.iterations == 2
    assert all(updates[0].condition is None for updates in toy.handed)


class Override(keras_legacy_opt.Adam):
    def _resource_apply_dense(self, grad, var, apply_state=None):
        return super()._resource_apply_dense(grad, var, apply_state)


class Whole(keras_legacy_opt.Optimizer):
    """Declares nothing."""


NATIVE, _, TENSORFLOW, COMPOSED, METHODS = (b.name for b in backends.BACKENDS)
EXPLANATIONS = [
    (keras_legacy_opt.Adam, {}, NATIVE, NATIVE, ""),
    (keras_legacy_opt.Adam, {"dtype": tf.complex64},
     TENSORFLOW, COMPOSED, "complex64"),
    (keras_legacy_opt.Adam, {"constraint": tf.nn.relu},
     TENSORFLOW, NATIVE, "constraint"),
    (keras_legacy_opt.Nadam, {"dtype": tf.complex64},
     COMPOSED, COMPOSED, "complex64"),
    (keras_legacy_opt.Adagrad, {"dtype": tf.complex64},
     TENSORFLOW, TENSORFLOW, "complex64"),
    (Override, {}, METHODS, NATIVE, "Override has its own"),
    (Whole, {}, METHODS, METHODS, "declares no"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("cls", "options", "dense", "sparse", "reason"),
    EXPLANATIONS,
    ids=lambda value: getattr(value, "__name__", None),
)
def test_explain(native_ops, cls, options, dense, sparse, reason):
    dtype = options.get("dtype", tf.float32)
    var = tf.Variable(tf.zeros([2], dtype), name="x", **options)
    opt = cls() if cls is not Whole else Whole("whole")
    told = keras_legacy_opt.explain(opt, [var, tf.Variable(0.0, name="y")])
    assert [(e.variable, e.gradient) for e in told] == [
        ("x", "dense"), ("x", "sparse"), ("y", "dense")
    ]  # fmt: skip
    assert [e.backend for e in told[:2]] == [dense, sparse]
    assert reason in str(told).splitlines()[0]
    # What it says is what happens.
    if dense == NATIVE:
        assert told[0] == Explanation("x", "dense", NATIVE, {})


def test_explain_says_it_of_where_it_is_called(native_ops):
    var, opt = tf.Variable([0.0]), keras_legacy_opt.Adam(amsgrad=True)
    told = []

    @tf.function(jit_compile=True)
    def function():
        told.append(keras_legacy_opt.explain(opt, [var]))

    function.get_concrete_function()
    with fused.disabled():
        told.append(keras_legacy_opt.explain(opt, [var]))
    told.append(
        keras_legacy_opt.explain(
            keras_legacy_opt.LossScaleOptimizer(opt), [var]
        )
    )
    in_xla, switched_off, here = (str(each) for each in told)
    assert "XLA compiles the function" in in_xla
    assert "XLA cannot compile ResourceApplyAdamWithAmsgrad" in in_xla
    assert "switched off" in switched_off
    assert TENSORFLOW in switched_off
    assert here.count(NATIVE) == 2
    assert "not" not in here


def test_explain_wants_an_optimizer_and_variables():
    var = tf.Variable([0.0], name="x")
    (dense, sparse) = keras_legacy_opt.explain(keras_legacy_opt.SGD(), var)
    assert dense.variable == sparse.variable == "x"
    with pytest.raises(TypeError, match="must be an optimizer of keras_leg"):
        keras_legacy_opt.explain("adam", [var])
    with pytest.raises(TypeError, match="must be a variable"):
        keras_legacy_opt.explain(keras_legacy_opt.SGD(), [var, 3])


def test_adamax_takes_bfloat16_without_native_ops():
    """Whatever TensorFlow has no op for is composed."""
    var = tf.Variable(tf.ones([3], tf.bfloat16))
    opt = keras_legacy_opt.Adamax(0.25)
    with fused.disabled():
        opt.apply_gradients([(tf.ones([3], tf.bfloat16), var)])
    np.testing.assert_array_equal(var, tf.cast([0.75] * 3, tf.bfloat16))


def test_explain_what_is_inside(native_ops):
    """And what each wrapper adds, from inside to outside."""
    var = tf.Variable([1.0], name="x")
    complex_var = tf.Variable([1j], name="z")
    held = tf.Variable([1.0], name="h", constraint=tf.abs)
    average = addons.MovingAverage(keras_legacy_opt.Adam(), clipnorm=1.0)
    optimizer = addons.GradientAccumulation(average, 2)
    told = keras_legacy_opt.explain(optimizer, [var, complex_var, held])
    assert list(map(str, told[::2])) == [
        "x, dense gradients: native ops; MovingAverage moves the average in the"
        " same pass, and clips or transforms gradients before, by plain ops;"
        " GradientAccumulation adds up the gradients of `steps` batches first,"
        " by plain ops",
        str(keras_legacy_opt.explain(keras_legacy_opt.Adam(), complex_var)[0])
        + "; MovingAverage moves the average after the step, by plain ops, and"
        " clips or transforms gradients before, by plain ops;"
        " GradientAccumulation adds up the gradients of `steps` batches first,"
        " by plain ops",
        str(keras_legacy_opt.explain(keras_legacy_opt.Adam(), held)[0])
        + "; MovingAverage moves the average after the step, by plain ops, and"
        " clips or transforms gradients before, by plain ops;"
        " GradientAccumulation adds up the gradients of `steps` batches first,"
        " by plain ops",
    ]
    other = tf.Variable([1.0], name="y")
    multi = addons.MultiOptimizer(
        [
            (addons.Lookahead("adam"), var),
            (addons.SWA("sgd"), other),
        ]
    )
    told = keras_legacy_opt.explain(multi, [other, var])
    assert [each.variable for each in told] == ["y", "y", "x", "x"]
    assert told[0].around == (
        "SWA averages after every `average_period` steps, by plain ops",
        "MultiOptimizer leaves it to optimizers[1], SWA",
    )
    assert told[3].around[0].startswith("Lookahead goes back")
    assert not multi.weights
    with pytest.raises(ValueError, match="under none"):
        keras_legacy_opt.explain(multi, held)
