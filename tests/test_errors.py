"""Bad input: a clear error of legacy's type, before anything was changed."""

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from absl import logging

import keras_legacy_opt
from keras_legacy_opt import SGD, Adagrad, Adam, Ftrl, Nadam, RMSprop
from keras_legacy_opt.hosts import adoption

INVALID = tf.errors.InvalidArgumentError


@dataclasses.dataclass(frozen=True)
class Mistake:
    """A call of `run(optimizer, variable, gradient)`, and what it raises."""

    run: Callable[[Any, tf.Variable, tf.Tensor], Any]
    # All of them: legacy raised the first or the second, eagerly or in graphs.
    types: tuple[type[Exception], ...]
    message: str


def _apply(pairs):
    return lambda opt, var, grad: opt.apply_gradients(pairs(var, grad))


def _sparse(values, indices, shape=None):
    return tf.IndexedSlices(
        tf.constant(values), tf.constant(indices), tf.constant(shape or [3])
    )


def _in_cross_replica_context(opt, var, grad):
    with tf.distribute.OneDeviceStrategy("/cpu:0").scope():
        opt.apply_gradients([(grad, var)])


_made = []


def _without_result():
    """An optimizer whose updates return nothing, as only eager ones may."""

    class Silent(keras_legacy_opt.Optimizer):
        def _resource_apply_dense(self, grad, var):
            var.assign_sub(grad)

        def _resource_apply_sparse(self, grad, var, indices):
            var.scatter_sub(tf.IndexedSlices(grad, indices))

    return _kept(Silent("silent"))


def _constrained(variable):
    with tf.init_scope():
        return _kept(tf.Variable(tf.ones([3]), constraint=tf.identity))


def _kept(value):
    _made.append(value)  # A function keeps no variable of its own alive.
    return value


def _on_built(run):
    def build_and_run(opt, var, grad):
        opt.build([var])
        return run(opt, var, grad)

    return build_and_run


MISTAKES = {
    "no iterable": Mistake(
        _apply(lambda v, g: 5), (TypeError,), "`grads_and_vars` must be.*5"
    ),
    "a tensor": Mistake(
        _apply(lambda v, g: g), (TypeError,), "iterable of .gradient, variable"
    ),
    "no pairs": Mistake(
        _apply(lambda v, g: [g, v]), (TypeError,), "zip.gradients, variables"
    ),
    "triples": Mistake(
        _apply(lambda v, g: [(g, v, 1)]), (TypeError,), "of type tuple"
    ),
    "a string for a variable": Mistake(
        _apply(lambda v, g: [(g, "v")]), (TypeError,), "Received: 'v' of type"
    ),
    "a tensor for a variable": Mistake(
        _apply(lambda v, g: [(g, tf.identity(v))]),
        (NotImplementedError,),
        "pass the tf.Variable itself",
    ),
    "no gradients": Mistake(
        _apply(lambda v, g: [(None, v)]),
        (ValueError,),
        r"No gradients provided for any variable: \['weights'\]",
    ),
    "no gradients in minimize": Mistake(
        lambda opt, v, g: opt.minimize(lambda: tf.constant(1.0), [v]),
        (ValueError,),
        "weights",
    ),
    "no tape": Mistake(
        lambda opt, v, g: opt.minimize(tf.constant(1.0), [v]),
        (ValueError,),
        "needs the `tape`",
    ),
    "wrong shape": Mistake(
        _apply(lambda v, g: [(tf.ones([2]), v)]),
        (INVALID, ValueError),
        r"'weights' has shape \(2,\).*shape \(3,\)",
    ),
    "wrong shape in a function": Mistake(
        tf.function(
            lambda opt, v, g: opt.apply_gradients([(tf.ones([2]), v)]),
            autograph=False,
        ),
        (INVALID, ValueError),
        "'weights'",
    ),
    "a scalar that would be broadcast": Mistake(
        _apply(lambda v, g: [(tf.constant(1.0), v)]),
        (INVALID, ValueError),
        "does not fit",
    ),
    "wrong rows": Mistake(
        _apply(lambda v, g: [(_sparse([[1.0]], [0], [3, 1]), v)]),
        (INVALID, ValueError),
        "'weights'",
    ),
    "sparse gradient of a scalar": Mistake(
        lambda opt, v, g: opt.apply_gradients(
            [(_sparse([1.0], [0]), tf.Variable(1.0, name="scalar"))]
        ),
        (INVALID, ValueError),
        "'scalar' is sparse",
    ),
    "wrong dtype of the gradient": Mistake(
        _apply(lambda v, g: [(tf.cast(g, tf.float64), v)]),
        (INVALID, TypeError),
        "dtype float64, but the variable has dtype float32: cast",
    ),
    "integer variable": Mistake(
        lambda opt, v, g: opt.apply_gradients(
            [(tf.constant([1]), tf.Variable([1], name="counts"))]
        ),
        (ValueError,),
        "Invalid type int32 for 'counts:0', expected: one of .*'float32'",
    ),
    "cross-replica context": Mistake(
        _in_cross_replica_context, (RuntimeError,), "strategy.run"
    ),
    "too few weights": Mistake(
        _on_built(lambda opt, v, g: opt.set_weights([np.array(1)])),
        (ValueError,),
        "got 1 weights, but the optimizer was expecting 3: .*Adam/iter",
    ),
    "a weight of the wrong shape": Mistake(
        _on_built(
            lambda opt, v, g: opt.set_weights(
                [np.array(1), np.ones(3), np.ones(2)]
            )
        ),
        (ValueError,),
        r"shape \(2,\) for weight 2 .*/v:0\), but it has shape \(3,\)",
    ),
    "early weights that do not fit": Mistake(
        lambda opt, v, g: (
            opt.set_weights([np.array(1), np.ones(3)]),
            opt.apply_gradients([(g, v)]),
        ),
        (ValueError,),
        "got 2 weights, but the optimizer was expecting 3",
    ),
    "iterations set late": Mistake(
        _on_built(lambda opt, v, g: setattr(opt, "iterations", v)),
        (RuntimeError,),
        "assign to it instead",
    ),
    "state of another optimizer": Mistake(
        _on_built(
            lambda opt, v, g: opt.load_own_variables({"iter": 3, "rms.0": 1.0})
        ),
        (ValueError,),
        r"lacks \['beta_1'.*has \['rms.0'\]",
    ),
    "unknown attribute": Mistake(
        lambda opt, v, g: opt.learning_rat,
        (AttributeError,),
        "'Adam' object has no attribute 'learning_rat'",
    ),
    "unknown slot": Mistake(
        _on_built(lambda opt, v, g: opt.get_slot(v, "x")), (KeyError,), "x"
    ),
    "unknown initializer": Mistake(
        lambda opt, v, g: opt.add_slot(v, "x", "orthonormal"),
        (ValueError,),
        "Unknown initializer 'orthonormal'. Use one of",
    ),
    "dense update that returns nothing": Mistake(
        tf.function(
            lambda opt, v, g: _without_result().apply_gradients([(g, v)]),
            autograph=False,
        ),
        (TypeError,),
        "`_resource_apply_dense` of Silent returned None.*'weights'",
    ),
    "sparse update that returns nothing": Mistake(
        tf.function(
            lambda opt, v, g: _without_result().apply_gradients(
                [(_sparse([1.0], [0]), v)]
            ),
            autograph=False,
        ),
        (TypeError,),
        "`_resource_apply_sparse` of Silent returned None.*'weights'",
    ),
    "update of a constrained variable that returns nothing": Mistake(
        tf.function(
            lambda opt, v, g: _without_result().apply_gradients(
                [(g, _constrained(v))]
            ),
            autograph=False,
        ),
        (TypeError,),
        "must return the operation that updates variable",
    ),
    "number of gradients": Mistake(
        lambda opt, v, g: opt.apply([g, g], [v]),
        (ValueError,),
        "got 2 gradients for 1 variables",
    ),
    "apply before build": Mistake(
        lambda opt, v, g: opt.apply([g]), (ValueError,), "call `build`"
    ),
    "Keras 3's update_step": Mistake(
        lambda opt, v, g: opt.update_step(g, v, 0.1),
        (NotImplementedError,),
        "overrides `_resource_apply_dense`",
    ),
    "Keras 3's stateless_apply": Mistake(
        lambda opt, v, g: opt.stateless_apply([], [], []),
        (NotImplementedError,),
        "use `apply_gradients`",
    ),
    "Keras 3's add_variable": Mistake(
        lambda opt, v, g: opt.add_variable([1]),
        (NotImplementedError,),
        "uses `add_weight`",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake(mistake):
    mistake = MISTAKES[mistake]
    variable = tf.Variable([1.0, 2.0, 3.0], name="weights")
    optimizer = Adam()

    with pytest.raises(mistake.types[0]) as caught:
        mistake.run(optimizer, variable, tf.ones([3]))

    assert all(isinstance(caught.value, kind) for kind in mistake.types)
    assert re.search(mistake.message, str(caught.value), re.DOTALL)
    np.testing.assert_array_equal(variable, [1.0, 2.0, 3.0])
    if optimizer.weights:
        assert int(optimizer.iterations) == 0
        for weight in optimizer.weights[1:]:
            assert not np.any(weight.numpy())


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda: SGD(rate=1), TypeError, "'rate'. Allowed are clipnorm, "),
        (lambda: Adam(weight_decay=0.1), TypeError, "Keras 3's: use a kernel"),
        (lambda: Adam(use_ema=True), TypeError, "no moving average"),
        (lambda: Adam(jit_compile=True), TypeError, "pass it to model.compile"),
        (lambda: SGD(clipnorm=-1.0), ValueError, "clipnorm >= 0, received: -1"),
        (lambda: SGD(clipvalue=-1.0), ValueError, "clipvalue >= 0"),
        (lambda: SGD(global_clipnorm=-1.0), ValueError, "global_clipnorm >= 0"),
        (lambda: SGD(decay=-1.0), ValueError, "decay >= 0"),
        (
            lambda: SGD(clipnorm=1.0, global_clipnorm=1.0),
            ValueError,
            "exclude each other",
        ),
        (
            lambda: SGD(clipnorm=1.0, gradient_transformers=[list]),
            ValueError,
            "`clipnorm` cannot be set when `gradient_transformers` is set",
        ),
        (lambda: SGD(momentum=1.5), ValueError, "momentum=1.5 .of type float"),
        (lambda: RMSprop(momentum=-1), ValueError, r"between \[0, 1\]"),
        (
            lambda: Adagrad(initial_accumulator_value=-1.0),
            ValueError,
            "must be non-negative. Received: -1.0",
        ),
        (
            lambda: Ftrl(l1_regularization_strength=-1.0),
            ValueError,
            "`l1_regularization_strength` needs to be positive or zero",
        ),
        (
            lambda: Ftrl(learning_rate_power=0.5),
            ValueError,
            "needs to be negative or zero. Received: 0.5",
        ),
        (
            lambda: Nadam(
                keras_legacy_opt.schedules.InverseTimeDecay(0.1, 1, 1)
            ),
            ValueError,
            "Nadam does not support a learning rate schedule",
        ),
        (lambda: keras_legacy_opt.get("adamm"), ValueError, "Known are .*Adam"),
        (
            lambda: keras_legacy_opt.get(5),
            ValueError,
            "identifier: 5 of type int",
        ),
        (
            lambda: keras_legacy_opt.deserialize({"config": {}}),
            ValueError,
            "keys 'class_name'",
        ),
        (
            lambda: SGD.from_config({"learning_rate": {"class_name": "Xy"}}),
            ValueError,
            "Unknown schedule 'Xy'",
        ),
    ],
)
def test_constructor(make, kind, message):
    with pytest.raises(kind, match=message):
        make()


@pytest.mark.parametrize("clip", ["clipnorm", "clipvalue", "global_clipnorm"])
def test_clip_attributes_exclude_transformers(clip):
    optimizer = SGD(gradient_transformers=[list])
    with pytest.raises(ValueError, match=clip):
        setattr(optimizer, clip, 1.0)
    assert getattr(optimizer, clip) is None


def test_eager_updates_may_return_nothing():
    variable = tf.Variable([1.0, 2.0, 3.0], constraint=tf.nn.relu)
    _without_result().apply_gradients(
        [(tf.constant([2.0, 1.0, 0.0]), variable)]
    )
    np.testing.assert_array_equal(variable, [0.0, 1.0, 3.0])


@pytest.mark.parametrize("method", ["dense", "sparse"])
def test_base_class_is_abstract(method):
    variable = tf.Variable([1.0])
    grads = {"dense": tf.ones([1]), "sparse": _sparse([1.0], [0], [1])}
    with pytest.raises(NotImplementedError, match=f"_resource_apply_{method}"):
        keras_legacy_opt.Optimizer("base").apply_gradients(
            [(grads[method], variable)]
        )


def test_some_gradients_missing_is_one_warning(caplog):
    kept = tf.Variable(1.0, name="kept")
    left = [tf.Variable(1.0, name="first"), tf.Variable(1.0, name="second")]
    logging.get_absl_logger().propagate = True
    SGD(1.0).apply_gradients([(None, left[0]), (1.0, kept), (None, left[1])])

    (record,) = [r for r in caplog.records if "Gradients do not" in r.message]
    assert "['first', 'second']" in record.getMessage()
    assert [float(v) for v in (kept, *left)] == [0.0, 1.0, 1.0]


def test_numpy_and_python_gradients_are_taken():
    dense, rows = tf.Variable([1.0, 2.0]), tf.Variable([[1.0], [2.0]])
    slices = tf.IndexedSlices(np.ones((1, 1), "float32"), np.array([1]))
    SGD(1.0).apply_gradients([([1.0, 0.0], dense), (slices, rows)])
    np.testing.assert_array_equal(dense, [0.0, 2.0])
    np.testing.assert_array_equal(rows, [[1.0], [1.0]])


def test_lr_is_an_old_name():
    with pytest.warns(UserWarning, match="use `learning_rate`"):
        optimizer = SGD(lr=0.5)
    assert float(optimizer.learning_rate) == 0.5


def test_integer_hyperparameter_warns_when_it_truncates():
    """Legacy's dtypes: 1 makes an int32 variable, in which 0.5 becomes 0."""
    optimizer = SGD(learning_rate=1)
    assert optimizer.learning_rate.dtype == tf.int32
    with pytest.warns(UserWarning, match="'learning_rate' is an int32"):
        optimizer.learning_rate = 0.5
    assert int(optimizer.learning_rate) == 0


def test_unbuilt_keras_variable():
    with keras.StatelessScope():
        variable = keras.Variable(keras.initializers.Zeros(), shape=(2,))
    variable._value = None  # As in a model that was never built.
    with pytest.raises(TypeError, match="build the model first"):
        SGD().apply_gradients([(tf.ones([2]), variable)])


def test_session_is_needed_in_graphs(monkeypatch):
    """Unless tf_keras is imported, whose session legacy takes, too."""
    monkeypatch.setattr(adoption, "_graph_backends", [])
    with tf.Graph().as_default():
        optimizer = SGD()
        optimizer.build([tf.compat.v1.get_variable("v", [2])])
        with pytest.raises(RuntimeError, match="compat.v1.Session"):
            optimizer.get_weights()


def _outside_the_scope(module):
    variable = tf.Variable([1.0])
    with tf.distribute.MirroredStrategy(["cpu:0"]).scope():
        module.Adam()._create_all_weights([variable])


def _late_iterations(module):
    optimizer = module.SGD()
    _ = optimizer.iterations
    optimizer.iterations = tf.Variable(1, dtype=tf.int64)


def _too_many_weights(module):
    optimizer = module.Adam()
    optimizer._create_all_weights([tf.Variable([1.0])])
    optimizer.set_weights([np.zeros(1)] * 7)


# What tests that were written for the legacy optimizers look for.
WORDS_OF_LEGACY = {
    "Unexpected keyword argument": lambda m: m.SGD(rate=1),
    "Expected clipnorm >= 0, received: -1": lambda m: m.SGD(clipnorm=-1),
    "Cannot accept both `clipnorm` and `global_clipnorm`": lambda m: m.SGD(
        clipnorm=1.0, global_clipnorm=1.0
    ),
    "cannot be set when `gradient_transformers` is set": lambda m: m.SGD(
        clipnorm=1.0, gradient_transformers=[list]
    ),
    "`momentum` must be between [0, 1]": lambda m: m.SGD(momentum=2.0),
    "momentum` must be between [0, 1]": lambda m: m.RMSprop(momentum=-0.5),
    "must be non-negative": lambda m: m.Adagrad(initial_accumulator_value=-1.0),
    "`learning_rate_power` needs to be negative or zero": lambda m: m.Ftrl(
        learning_rate_power=0.5
    ),
    "needs to be positive or zero": lambda m: m.Ftrl(
        l2_regularization_strength=-0.5
    ),
    "`tape` is required": lambda m: m.SGD().minimize(
        tf.constant(1.0), [tf.Variable(1.0)]
    ),
    "No gradients provided for any variable": lambda m: m.SGD().apply_gradients(
        [(None, tf.Variable(1.0))]
    ),
    "Updating a `Tensor` is not implemented": lambda m: m.SGD().apply_gradients(
        [(tf.constant(1.0), tf.constant(1.0))]
    ),
    "Invalid type": lambda m: m.SGD()._assert_valid_dtypes([tf.Variable(1)]),
    "cannot be called in cross-replica context": lambda m: (
        _in_cross_replica_context(m.SGD(), tf.Variable(1.0), tf.constant(1.0))
    ),
    "but the optimizer was": _too_many_weights,
    "Cannot set `iterations` to a new Variable": _late_iterations,
    "optimizer slot variable under the scope": _outside_the_scope,
    "`_resource_apply_dense` must be implemented in subclasses": lambda m: (
        m.Optimizer("base").apply_gradients(
            [(tf.constant(1.0), tf.Variable(1.0))]
        )
    ),
    "Could not interpret optimizer identifier": lambda m: (
        keras_legacy_opt if m is keras_legacy_opt else tf_keras.optimizers
    ).get(5),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("words", WORDS_OF_LEGACY)
def test_words_of_legacy_are_kept(words):
    for module in (tf_keras.optimizers.legacy, keras_legacy_opt):
        with pytest.raises(Exception, match=re.escape(words)):
            WORDS_OF_LEGACY[words](module)
