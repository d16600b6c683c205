"""Wrappers around an optimizer, under two mirrored replicas."""

import keras
import keras_model
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
import training
from registry import LEGACY, SUBJECT
from strategies import strategy_called

import keras_legacy_opt
from keras_legacy_opt import fused

DEFAULT = tf.distribute.get_strategy()

every_library = pytest.mark.parametrize(
    "library",
    [SUBJECT.optimizers, LEGACY.optimizers],
    ids=["ours", "legacy"],
)


class _AllReducing:
    """What such wrappers override; put on a class at run time.

    Gradients are averaged over the replicas, once, on either way that leads
    from a loss to an update.
    """

    _HAS_AGGREGATE_GRAD = True

    def _all_reduce(self, grads):
        self.reduced = getattr(self, "reduced", 0) + 1
        return tf.distribute.get_replica_context().all_reduce("mean", grads)

    def _compute_gradients(self, loss, var_list, grad_loss=None, tape=None):
        pairs = super(self.__class__, self)._compute_gradients(
            loss, var_list, grad_loss, tape
        )
        grads, variables = zip(*pairs)  # noqa: B905
        self._is_reduced = True
        return list(zip(self._all_reduce(list(grads)), variables))  # noqa: B905

    def get_gradients(self, loss, params):
        grads = super(self.__class__, self).get_gradients(loss, params)
        self._is_reduced = True
        return self._all_reduce(grads)

    def _aggregate_gradients(self, grads_and_vars):
        if getattr(self, "_is_reduced", False):
            return grads_and_vars
        grads, variables = zip(*grads_and_vars)  # noqa: B905
        return list(zip(self._all_reduce(list(grads)), variables))  # noqa: B905


def distributed(optimizer):
    """An optimizer of a class made of that of `optimizer`, at run time."""
    cls = type(
        type(optimizer).__name__,
        (type(optimizer),),
        {
            name: value
            for name, value in vars(_AllReducing).items()
            if name not in ("__dict__", "__weakref__")
        },
    )
    return cls.from_config(optimizer.get_config())


def with_doubled_loss(variables, batch):
    """Two replicas: the mean of these gradients is the sum of the usual."""
    return [(2.0 * g, v) for g, v in training.gradients_of(variables, batch)]


@every_library
def test_aggregate_gradients(library):
    ours = training.train(
        strategy_called("mirrored"),
        lambda: distributed(library.Adam(0.1, decay=0.1)),
        "dense",
        gradients=with_doubled_loss,
    )
    expected = training.train(
        DEFAULT, lambda: library.Adam(0.1, decay=0.1), "dense"
    )
    training.assert_same_bits(ours, expected)


@every_library
def test_compute_gradients(library):
    strategy = strategy_called("mirrored")
    with strategy.scope():
        v = tf.Variable(1.0)
        optimizer = distributed(library.SGD(1.0))

    def replica_step():
        context = tf.distribute.get_replica_context()
        factor = tf.gather([2.0, 4.0], context.replica_id_in_sync_group)
        optimizer.minimize(lambda: factor * v, [v])

    strategy.run(replica_step)
    assert v.numpy() == 1.0 - 3.0
    assert optimizer.reduced == strategy.num_replicas_in_sync


@every_library
def test_get_gradients(library):
    """In a TF1 graph; there is one replica."""
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        v = tf.compat.v1.get_variable("v", initializer=3.0, use_resource=True)
        optimizer = distributed(library.SGD(1.0))
        updates = optimizer.get_updates(v * v, [v])
        session.run(tf.compat.v1.global_variables_initializer())
        session.run(updates)
        assert session.run(v) == 3.0 - 6.0
    assert optimizer.reduced == 1


def test_tf_keras_fit():
    ours, expected = (
        keras_model.fitted_weights("tf_keras", strategy, make)
        for strategy, make in (
            (
                strategy_called("mirrored"),
                # Its mean over two replicas undoes the doubled rate.
                lambda: distributed(keras_legacy_opt.SGD(0.2)),
            ),
            (DEFAULT, lambda: keras_legacy_opt.SGD(0.1)),
        )
    )
    for weight, other in zip(ours, expected, strict=True):
        np.testing.assert_allclose(weight, other, rtol=1e-5, atol=1e-6)


# Loss scaling.

SCALERS = {
    "keras 3": lambda optimizer, **kwargs: keras.optimizers.LossScaleOptimizer(
        optimizer, **kwargs
    ),
    "tf_keras": lambda optimizer, **kwargs: (
        tf_keras.mixed_precision.LossScaleOptimizer(optimizer, **kwargs)
    ),
    "ours": keras_legacy_opt.LossScaleOptimizer,
}


@pytest.mark.parametrize(
    ("host", "scaler"),
    [
        ("keras 3", "keras 3"),
        ("tf_keras", "tf_keras"),
        ("keras 3", "ours"),
        ("tf_keras", "ours"),
    ],
)
def test_loss_scale_optimizer_fit(host, scaler):
    """Scaled by a power of two, gradients lose nothing."""
    weights = [
        keras_model.fitted_weights(
            host,
            strategy,
            lambda: SCALERS[scaler](
                keras_legacy_opt.Adam(0.01), initial_scale=1024.0
            ),
        )
        for strategy in (strategy_called("mirrored"), DEFAULT)
    ]
    plain = keras_model.fitted_weights(
        host, DEFAULT, lambda: keras_legacy_opt.Adam(0.01)
    )
    for ours, single, unscaled in zip(*weights, plain, strict=True):
        np.testing.assert_allclose(ours, single, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(ours, unscaled, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("wrap", [lambda f: f, tf.function])
@pytest.mark.parametrize("scaler", ["tf_keras", "ours"])
def test_loss_scale_optimizer_skips_steps_that_overflow_on_one_replica(
    scaler, wrap
):
    strategy = strategy_called("mirrored")
    with strategy.scope():
        v = tf.Variable(1.0)
        optimizer = SCALERS[scaler](
            keras_legacy_opt.SGD(1.0), initial_scale=4.0
        )

    @wrap
    def step(values):
        def replica_step():
            context = tf.distribute.get_replica_context()
            value = tf.gather(values, context.replica_id_in_sync_group)
            grads = optimizer.get_unscaled_gradients([4.0 * value])
            optimizer.apply_gradients([(grads[0], v)])

        strategy.run(replica_step)

    step(tf.constant([1.0, np.inf]))
    assert v.numpy() == 1.0
    assert optimizer.iterations.numpy() == 1  # It counts skipped steps.
    assert optimizer.loss_scale.numpy() == 2.0
    step(tf.constant([1.0, 2.0]))
    assert v.numpy() == 1.0 - 12.0 / 2.0
    assert optimizer.iterations.numpy() == 2


@pytest.mark.parametrize("name", ["mirrored", "one device"])
@pytest.mark.parametrize("dynamic", [True, False])
def test_own_loss_scale_optimizer_equals_that_of_tf_keras(name, dynamic):
    """All bits of variables, slots, loss scale and counts agree."""
    options = {"dynamic_growth_steps": 2} if dynamic else {"dynamic": False}
    strategy, results = strategy_called(name), []
    for make, inner in (
        (SCALERS["ours"], keras_legacy_opt.Adam),
        (SCALERS["tf_keras"], LEGACY.optimizers.Adam),
    ):
        with strategy.scope():
            v, table = tf.Variable([1.0, 2.0]), tf.Variable(tf.ones([4, 2]))
            optimizer = make(inner(0.1), initial_scale=99.7, **options)

        @tf.function
        def step(weight, v=v, table=table, optimizer=optimizer):
            def replica_step():
                context = tf.distribute.get_replica_context()
                i = context.replica_id_in_sync_group
                factor = tf.gather([weight, 2.0], i)
                rows = tf.gather([[1, 1], [3, 0]], i)
                optimizer.minimize(
                    lambda: (
                        factor * tf.reduce_sum(v**2)
                        + tf.reduce_sum(tf.gather(table, rows) ** 2)
                    ),
                    [v, table],
                )

            strategy.run(replica_step)

        record = []
        for weight in (1.0, np.inf if dynamic else 3.0, 0.7, 1.3, 2.0):
            with fused.disabled():  # In functions, some bits of rows differ.
                step(tf.constant(weight))
            record.append(
                [
                    v.numpy(),
                    table.numpy(),
                    *optimizer.get_weights(),
                    optimizer.loss_scale.numpy(),
                ]
            )
        results.append(record)
    for ours, theirs in zip(*results, strict=True):
        for a, e in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(a, e)


def test_own_loss_scale_optimizer_needs_variables_of_each_replica():
    strategy = strategy_called("central storage")
    optimizer = SCALERS["ours"](keras_legacy_opt.SGD())
    with strategy.scope():
        v = tf.Variable(1.0)
        with pytest.raises(ValueError, match="MirroredStrategy"):
            SCALERS["ours"](keras_legacy_opt.SGD())
    step = lambda: optimizer.apply_gradients([(tf.ones([]), v)])  # noqa: E731
    with pytest.raises(ValueError, match="MirroredStrategy"):
        strategy.run(step)
    with strategy_called("mirrored").scope():
        with pytest.raises(ValueError, match="cross-replica"):
            step()
