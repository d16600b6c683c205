"""What one step does in the replica context of two mirrored replicas."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
import training
from registry import LEGACY, SUBJECT
from strategies import strategy_called, under_every_strategy

import keras_legacy_opt

every_library = pytest.mark.parametrize(
    "library",
    [SUBJECT.optimizers, LEGACY.optimizers],
    ids=["ours", "legacy"],
)


@pytest.fixture
def mirrored():
    return strategy_called("mirrored")


def gradient_of_replica(*values):
    """One value on each replica."""
    index = tf.distribute.get_replica_context().replica_id_in_sync_group
    return tf.gather(tf.constant(values), index)


def local_values(strategy, variable):
    return [
        value.numpy() for value in strategy.experimental_local_results(variable)
    ]


def step(strategy, optimizer, variables, gradients, **kwargs):
    """Applies, on each replica, the gradients that `gradients()` returns."""

    def replica_step():
        pairs = list(zip(gradients(), variables, strict=True))
        optimizer.apply_gradients(pairs, **kwargs)

    strategy.run(replica_step)


def zeros(strategy, count=1):
    with strategy.scope():
        return [tf.Variable(0.0, name=f"v{i}") for i in range(count)]


@every_library
def test_gradients_are_summed_by_default(mirrored, library):
    (v,) = zeros(mirrored)
    step(
        mirrored, library.SGD(1.0), [v], lambda: [gradient_of_replica(1.0, 4.0)]
    )
    assert local_values(mirrored, v) == [-5.0, -5.0]


@every_library
def test_without_aggregation_each_replica_goes_its_way(mirrored, library):
    (v,) = zeros(mirrored)
    step(
        mirrored,
        library.SGD(1.0),
        [v],
        lambda: [gradient_of_replica(1.0, 4.0)],
        experimental_aggregate_gradients=False,
    )
    assert local_values(mirrored, v) == [-1.0, -4.0]


@every_library
def test_all_reduce_by_hand(mirrored, library):
    def mean():
        context = tf.distribute.get_replica_context()
        return context.all_reduce("mean", [gradient_of_replica(1.0, 4.0)])

    (v,) = zeros(mirrored)
    step(
        mirrored,
        library.SGD(1.0),
        [v],
        mean,
        experimental_aggregate_gradients=False,
    )
    assert local_values(mirrored, v) == [-2.5, -2.5]


@every_library
@under_every_strategy
def test_gradient_aggregator(strategy, library):
    """It aggregates instead of the sum, and before the transformers."""

    def mean(grads_and_vars):
        grads, variables = zip(*grads_and_vars, strict=True)
        context = tf.distribute.get_replica_context()
        return list(
            zip(context.all_reduce("mean", grads), variables, strict=True)
        )

    def double(grads_and_vars):
        return [(2 * g, v) for g, v in grads_and_vars]

    strategy = strategy_called(strategy)
    replicas = strategy.num_replicas_in_sync
    (v,) = zeros(strategy)
    with strategy.scope():
        optimizer = WithAggregator(library)(mean, [double])
    step(strategy, optimizer, [v], lambda: [gradient_of_replica(1.0, 4.0)])
    assert v.numpy() == {1: -2.0, 2: -5.0}[replicas]


def WithAggregator(library):
    """A class whose constructor takes what legacy's own classes do not."""

    class Descent(library.Optimizer):
        def __init__(self, aggregator, transformers):
            super().__init__(
                "Descent",
                gradient_aggregator=aggregator,
                gradient_transformers=transformers,
            )

        def _resource_apply_dense(self, grad, var):
            return var.assign_sub(grad)

    return Descent


@every_library
@pytest.mark.parametrize(
    ("option", "expected"),
    [("clipvalue", -2.0), ("clipnorm", -2.0), ("global_clipnorm", -2.0)],
)
def test_clipping_comes_after_aggregation(mirrored, library, option, expected):
    """Clipped before it, gradients of 1.5 on both replicas would give -3."""
    (v,) = zeros(mirrored)
    with mirrored.scope():
        optimizer = library.SGD(1.0, **{option: 2.0})
    step(mirrored, optimizer, [v], lambda: [tf.constant(1.5)])
    assert local_values(mirrored, v) == [expected, expected]


@every_library
@pytest.mark.parametrize("strategy", ["central storage"])
def test_strategies_that_must_aggregate(strategy, library):
    strategy = strategy_called(strategy)
    (v,) = zeros(strategy)
    with pytest.raises(NotImplementedError, match="CentralStorageStrategy"):
        step(
            strategy,
            library.SGD(1.0),
            [v],
            lambda: [tf.constant(1.0)],
            experimental_aggregate_gradients=False,
        )


@every_library
@under_every_strategy
def test_cross_replica_context(strategy, library):
    strategy = strategy_called(strategy)
    (v,) = zeros(strategy)
    with strategy.scope():
        optimizer = library.SGD(1.0)
        with pytest.raises(RuntimeError, match="cross-replica context"):
            optimizer.apply_gradients([(tf.constant(1.0), v)])
    assert v.numpy() == 0.0


@every_library
@under_every_strategy
def test_iterations_count_steps(strategy, library):
    strategy = strategy_called(strategy)
    variables = zeros(strategy, 3)
    with strategy.scope():
        optimizer = library.Adam()
    for _ in range(3):
        step(strategy, optimizer, variables, lambda: [tf.constant(1.0)] * 3)
    assert set(local_values(strategy, optimizer.iterations)) == {3}


@every_library
@under_every_strategy
def test_slots_are_beside_their_variables(strategy, library):
    strategy = strategy_called(strategy)
    (v,) = zeros(strategy)
    with strategy.scope():
        optimizer = library.Adam()
    step(strategy, optimizer, [v], lambda: [tf.constant(1.0)])
    slot = optimizer.get_slot(v, "m")
    assert type(slot) is type(v)
    assert [s.device for s in strategy.experimental_local_results(slot)] == [
        w.device for w in strategy.experimental_local_results(v)
    ]
    for mine in strategy.experimental_local_results(v):
        assert optimizer.get_slot(mine, "m") is slot


@every_library
@under_every_strategy
def test_optimizer_made_outside_the_scope(strategy, library):
    strategy = strategy_called(strategy)
    optimizer = library.Adam(0.1)
    outside = training.train(strategy, lambda: optimizer)
    inside = training.train(strategy, lambda: library.Adam(0.1))
    training.assert_same_bits(outside, inside)


@every_library
@under_every_strategy
def test_optimizer_of_the_scope_with_variables_from_outside(strategy, library):
    strategy = strategy_called(strategy)
    v = tf.Variable(1.0)
    with strategy.scope():
        optimizer = library.Adam()
        words = "optimizer slot variable under the scope"
        with pytest.raises(ValueError, match=words):
            optimizer.add_slot(v, "m")


@every_library
@under_every_strategy
@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_step_with_variables_from_outside_the_scope(strategy, name, library):
    """Nothing is updated, with slots or without; ours says which it is."""
    strategy, ours = strategy_called(strategy), library is SUBJECT.optimizers
    outside = tf.Variable(1.0, name="outside")
    (inside,) = zeros(strategy)
    with strategy.scope():
        optimizer = getattr(library, name)(1.0)
    words = "'outside' was created outside the scope.*Create the model"
    with pytest.raises(ValueError, match=words if ours else "scope"):
        step(strategy, optimizer, [inside, outside], lambda: [tf.ones([])] * 2)
    assert outside.numpy() == 1.0
    assert inside.numpy() == 0.0 or not ours


@every_library
@under_every_strategy
def test_several_optimizers(strategy, library):
    strategy = strategy_called(strategy)
    one, other = zeros(strategy, 2)
    with strategy.scope():
        first, second = library.SGD(1.0), library.SGD(10.0)

    def replica_step():
        first.apply_gradients([(tf.constant(1.0), one)])
        second.apply_gradients([(tf.constant(1.0), other)])
        second.apply_gradients([(tf.constant(1.0), one)])

    strategy.run(replica_step)
    replicas = strategy.num_replicas_in_sync
    assert one.numpy() == -11.0 * replicas
    assert other.numpy() == -10.0 * replicas
    assert first.iterations.numpy() == 1
    assert second.iterations.numpy() == 2


@every_library
@under_every_strategy
def test_no_gradient_on_every_replica(strategy, library):
    strategy = strategy_called(strategy)
    variables = zeros(strategy, 2)
    step(
        strategy, library.SGD(1.0), variables, lambda: [None, tf.constant(1.0)]
    )
    replicas = strategy.num_replicas_in_sync
    assert [v.numpy() for v in variables] == [0.0, -replicas]


@every_library
def test_learning_rate_changes_between_steps(mirrored, library):
    (v,) = zeros(mirrored)
    with mirrored.scope():
        optimizer = library.SGD(1.0)
    traces = []

    @tf.function
    def run():
        traces.append(1)
        step(mirrored, optimizer, [v], lambda: [tf.constant(1.0)])

    run()
    count = len(traces)
    optimizer.learning_rate = 0.25
    run()
    assert local_values(mirrored, v) == [-2.5, -2.5]
    assert len(traces) == count


def with_zeros(scales, pairs):
    return pairs


def with_none(scales, pairs):
    return [
        (grad if scale else None, variable)
        for scale, (grad, variable) in zip(scales, pairs, strict=True)
    ]


def left_out(scales, pairs):
    return list(itertools.compress(pairs, scales))


@pytest.mark.parametrize("wrap", [lambda step: step, tf.function])
@pytest.mark.parametrize("given", [with_none, left_out])
@pytest.mark.parametrize("strategy", ["mirrored", "central storage"])
def test_no_gradient_on_some_replicas(strategy, given, wrap):
    """It counts as zeros; what has none on any replica gets no slots."""
    strategy = strategy_called(strategy)

    @tf.autograph.experimental.do_not_convert
    def replica_step(optimizer, variables, given):
        context = tf.distribute.get_replica_context()
        index = tf.get_static_value(context.replica_id_in_sync_group)
        scales = [(1.0, 0.0), (0.0, 2.0), (3.0, 0.0), (0.0, 4.0)]
        scales = [scale[index] for scale in scales]
        dense = [tf.fill([4, 2], scale) for scale in scales[:2]]
        sparse = [
            tf.IndexedSlices(
                tf.fill([3, 2], scale),
                tf.constant([1, 0, 1]),
                tf.constant([4, 2]),
            )
            for scale in scales[2:]
        ]
        pairs = zip([*dense, *sparse], variables[:4], strict=True)
        pairs = [*given(scales, list(pairs)), (None, variables[4])]
        optimizer.apply_gradients(pairs)

    def trained(given):
        with strategy.scope():
            variables = [tf.Variable(tf.ones([4, 2])) for _ in range(5)]
            optimizer = keras_legacy_opt.RMSprop(0.1, momentum=0.5)

        @wrap
        def step():
            strategy.run(replica_step, (optimizer, variables, given))

        for _ in range(2):
            step()
        assert len(optimizer.get_weights()) == 1 + 2 * 4
        slots = [
            optimizer.get_slot(variable, name)
            for variable in variables[:4]
            for name in optimizer.get_slot_names()
        ]
        return [each.numpy() for each in [*variables, *slots]]

    for value, other in zip(trained(given), trained(with_zeros), strict=True):
        np.testing.assert_array_equal(value, other)


def replica_index():
    context = tf.distribute.get_replica_context()
    return tf.get_static_value(context.replica_id_in_sync_group)


@pytest.mark.parametrize(
    ("order", "lacks"),
    [
        *itertools.product(
            [(0, 1, 2), (2, 0, 1)],
            [(0, None), (None, 0), (1, None), (None, 1), (2, None)],
        ),
        # Where the lists leave a choice: the order of creation.
        *itertools.product([(0, 1, 2)], [(0, 1), (1, 0), (1, 2), (0, 2)]),
    ],
)
def test_slots_are_in_the_order_of_the_list(mirrored, order, lacks):
    """Whichever replica leaves out whichever variable."""
    variables = zeros(mirrored, 3)
    with mirrored.scope():
        optimizer = keras_legacy_opt.SGD(1.0, momentum=0.5)

    @tf.autograph.experimental.do_not_convert
    def replica_step():
        optimizer.apply_gradients(
            [
                (tf.ones([]), variables[i])
                for i in order
                if i != lacks[replica_index()]
            ]
        )

    mirrored.run(replica_step)
    slots = [optimizer.get_slot(variables[i], "momentum") for i in order]
    assert [id(w) for w in optimizer.weights[1:]] == list(map(id, slots))


@pytest.mark.parametrize("wrap", [lambda step: step, tf.function])
@pytest.mark.parametrize("dense_on", [0, 1])
@pytest.mark.parametrize("name", ["Ftrl", "Adagrad", "Adam"])
@pytest.mark.parametrize(
    ("strategy", "aggregates"),
    [("mirrored", True), ("mirrored", False), ("central storage", True)],
)
def test_gradient_is_dense_on_one_replica_and_sparse_on_another(
    strategy, aggregates, name, dense_on, wrap
):
    """Their sum is dense; not summed, each updates as if it were alone."""
    rows = [[1.0], [2.0], [0.0]], [[0.0], [7.0], [0.0]]

    def gradient_of(index):
        if index == dense_on:
            return tf.constant(rows[0])
        return tf.IndexedSlices(
            tf.constant([[3.0], [4.0]]), tf.constant([1, 1])
        )

    def trained(strategy, gradient, **kwargs):
        with strategy.scope():
            v = tf.Variable(tf.ones([3, 1]))
            optimizer = getattr(keras_legacy_opt, name)(0.5)

        @tf.autograph.experimental.do_not_convert
        def replica_step():
            optimizer.apply_gradients([(gradient(), v)], **kwargs)

        wrap(lambda: strategy.run(replica_step))()
        return strategy.experimental_local_results(v)

    results = trained(
        strategy_called(strategy),
        lambda: gradient_of(replica_index()),
        experimental_aggregate_gradients=aggregates,
    )
    for index, result in enumerate(results):
        (expected,) = trained(
            tf.distribute.get_strategy(),
            lambda index=index: (
                tf.add(*rows) if aggregates else gradient_of(index)
            ),
        )
        np.testing.assert_allclose(result, expected, rtol=1e-6)


def test_no_gradient_on_any_replica(mirrored):
    """Each replica names the variables that no other has a gradient of."""
    variables = zeros(mirrored, 2)
    with pytest.raises(ValueError, match=r"No gradients .*\['v0', 'v1'\]"):
        step(mirrored, SUBJECT.optimizers.SGD(), variables, lambda: [None] * 2)


@every_library
def test_parameter_server_strategy_of_tensorflow_1(library):
    """In a TF1 graph of one process: elsewhere it wants the Estimator API."""
    with tf.Graph().as_default() as graph, tf.compat.v1.Session() as session:
        strategy = (
            tf.compat.v1.distribute.experimental.ParameterServerStrategy()
        )
        with strategy.scope():
            v = tf.compat.v1.get_variable(
                "v", initializer=[1.0, 2.0], use_resource=True
            )
            table = tf.compat.v1.get_variable(
                "table", initializer=tf.ones([4, 2]), use_resource=True
            )
            optimizer = library.Adam(0.1)

        def replica_step():
            sparse = tf.IndexedSlices(tf.ones([2, 2]), tf.constant([1, 1]))
            optimizer.apply_gradients([(tf.ones([2]), v), (sparse, table)])

        strategy.run(replica_step)
        # `run` returns no operation here.
        step = [
            operation
            for operation in graph.get_operations()
            if operation.type.startswith(("ResourceApply", "AssignAdd"))
        ]
        session.run(tf.compat.v1.global_variables_initializer())
        session.run(step)
        values, rows, iterations = session.run([v, table, optimizer.iterations])
    assert iterations == 1
    assert values == pytest.approx([0.9, 1.9], abs=1e-5)
    assert rows[:, 0] == pytest.approx([1.0, 0.9, 1.0, 1.0], abs=1e-5)
