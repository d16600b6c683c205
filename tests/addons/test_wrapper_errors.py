"""Bad input of wrappers: told before anything changes."""

import keras
import pytest
import tensorflow as tf

from keras_legacy_opt import SGD, Adam, LossScaleOptimizer, addons


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: addons.MovingAverage(Adam), TypeError, "not a class.*Adam()"),
        (
            lambda: addons.MovingAverage(keras.optimizers.Adam()),
            TypeError,
            "not those of Keras 3",
        ),
        (lambda: addons.SWA("adams"), ValueError, "adams"),
        (
            lambda: addons.SWA(LossScaleOptimizer(Adam())),
            TypeError,
            "has to be outermost",
        ),
        (
            lambda: addons.SWA(addons.MovingAverage("sgd")),
            ValueError,
            "both keep slots called \\['average'\\]",
        ),
        (
            lambda: addons.Lookahead(
                addons.MovingAverage(addons.Lookahead("sgd"))
            ),
            ValueError,
            "'slow'",
        ),
        (
            lambda: addons.SWA(addons.GradientAccumulation("sgd", 2)),
            ValueError,
            "GradientAccumulation has to be around the SWA",
        ),
        (lambda: addons.Lookahead("sgd", 0), ValueError, "sync_period=0"),
        (lambda: addons.Lookahead("sgd", 2.5), TypeError, "must be an integer"),
        (lambda: addons.Lookahead("sgd", 2, 0.0), ValueError, "\\(0, 1\\]"),
        (lambda: addons.Lookahead("sgd", 2, 1.5), ValueError, "\\(0, 1\\]"),
        (lambda: addons.Lookahead("sgd", lr=0.1), TypeError, "inside.*lr=0.1"),
        (lambda: addons.SWA("sgd", -1), ValueError, "start_averaging=-1"),
        (lambda: addons.SWA("sgd", 0, 0), ValueError, "average_period=0"),
        (lambda: addons.MovingAverage("sgd", 1.5), ValueError, "\\[0, 1\\]"),
        (
            lambda: addons.MovingAverage("sgd", num_updates=tf.Variable(1.0)),
            TypeError,
            "float32",
        ),
        (
            lambda: addons.GradientAccumulation("sgd", 0),
            ValueError,
            "steps=0",
        ),
        (
            lambda: addons.GradientAccumulation("sgd", 2, "max"),
            ValueError,
            "reduction='max'",
        ),
        (
            lambda: addons.MultiOptimizer(),
            ValueError,
            "either `optimizers_and_layers`",
        ),
        (lambda: addons.MultiOptimizer([]), ValueError, "at least one"),
        (lambda: addons.MultiOptimizer([SGD()]), TypeError, "list of pairs"),
        (
            lambda: addons.MultiOptimizer([(SGD(), "layer")]),
            TypeError,
            "layer, a model, a variable",
        ),
        (
            lambda: addons.MultiOptimizer([(SGD, tf.Variable(1.0))]),
            TypeError,
            "not a class",
        ),
        (
            lambda: addons.MovingAverage(
                addons.MultiOptimizer([(addons.SWA("sgd"), tf.Variable(1.0))])
            ),
            ValueError,
            "cannot be around SWA: both keep slots called",
        ),
        (
            lambda: addons.WarmUp(1.0, 0.1, 10),
            TypeError,
            "decay_schedule_fn=0.1",
        ),
        (
            lambda: addons.TriangularCyclicalLearningRate(0.0, 1.0, 0),
            ValueError,
            "step_size=0",
        ),
        (
            lambda: addons.TriangularCyclicalLearningRate(0.0, 1.0, 1, "epoch"),
            ValueError,
            "scale_mode='epoch'",
        ),
        (
            lambda: addons.AdamWeightDecay(weight_decay_rate=-1.0),
            ValueError,
            "weight_decay_rate >= 0",
        ),
        (
            lambda: addons.AdamWeightDecay(gradient_clip_norm=-1.0),
            ValueError,
            "gradient_clip_norm=-1.0",
        ),
    ],
)
def test_constructors(make, error, words):
    with pytest.raises(error, match=words):
        make()


@pytest.mark.parametrize(
    ("make", "name", "value", "error"),
    [
        (lambda: addons.Lookahead("sgd"), "sync_period", 0, ValueError),
        (lambda: addons.Lookahead("sgd"), "sync_period", 1.5, TypeError),
        (lambda: addons.Lookahead("sgd"), "slow_step_size", 0.0, ValueError),
        (lambda: addons.MovingAverage("sgd"), "average_decay", -1, ValueError),
        (lambda: addons.SWA("sgd"), "average_period", 0, ValueError),
        (lambda: addons.SWA("sgd"), "start_averaging", -1, ValueError),
        (lambda: addons.GradientAccumulation("sgd", 2), "steps", 0, ValueError),
        (lambda: addons.COCOB(), "alpha", 0.5, ValueError),
    ],
)
def test_what_is_set_later(make, name, value, error):
    optimizer = make()
    optimizer.apply_gradients([(tf.ones([1]), tf.Variable([1.0]))])
    before = optimizer.get_config()
    with pytest.raises(error, match=name):
        setattr(optimizer, name, value)
    assert optimizer.get_config() == before


def test_empty_lists():
    optimizer = addons.MovingAverage("sgd")
    with pytest.raises(ValueError, match="no averages of \\[\\]"):
        optimizer.assign_average_vars([])
    with pytest.raises(ValueError, match="`model_weights` is empty"):
        optimizer.shadow_copy([])
    with pytest.raises(ValueError, match="no averages to swap"):
        optimizer.swap_weights()
    with pytest.raises(ValueError, match="no averages of \\['new'\\]"):
        optimizer.assign_average_vars([tf.Variable(1.0, name="new")])
    assert not optimizer.weights


def test_gradients_that_do_not_fit():
    optimizer, var = addons.MovingAverage("sgd"), tf.Variable([1.0])
    with pytest.raises(ValueError, match="does not fit"):
        optimizer.apply_gradients([(tf.ones([2]), var)])
    assert not optimizer.weights
    assert not optimizer._optimizer.weights


def test_no_learning_rate_of_many():
    optimizer = addons.MultiOptimizer([(SGD(), tf.Variable(1.0))])
    with pytest.raises(AttributeError, match="learning_rate"):
        _ = optimizer.learning_rate


def test_variables_under_none_or_two():
    first, second = tf.Variable(1.0, name="a"), tf.Variable(1.0, name="b")
    optimizer = addons.MultiOptimizer([(SGD(1.0), first)])
    one = tf.constant(1.0)
    with pytest.raises(ValueError, match="'b' is under none.*trainable"):
        optimizer.apply_gradients([(one, first), (one, second)])
    assert float(first) == 1.0
    assert not optimizer.weights
    with pytest.raises(ValueError, match="'a' is under those at \\[0, 1\\]"):
        addons.MultiOptimizer([(SGD(), first), (Adam(), [second, first])])
