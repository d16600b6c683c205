"""State that is given to an optimizer before its first step.

It waits until there are variables for it, which the replicas of the first step
create; then it must reach every copy of these, once.
"""

import functools
import pickle

import keras_model
import numpy as np
import pytest
import tensorflow as tf
import training
from strategies import STRATEGIES, strategy_called, under_every_strategy

import keras_legacy_opt

DEFAULT = tf.distribute.get_strategy()
HALF = training.STEPS // 2

every_wrap = pytest.mark.parametrize(
    "wrap", [lambda step: step, tf.function], ids=["eager", "function"]
)


def by_set_weights(optimizer, make=training.make_adam):
    given = make()
    given.set_weights(optimizer.get_weights())
    return given


def by_pickle(optimizer):
    return pickle.loads(pickle.dumps(optimizer))


def by_own_variables(optimizer):
    """As files of Keras 3 hold them."""
    store, given = {}, training.make_adam()
    optimizer.save_own_variables(store)
    given.load_own_variables(store)
    return given


def by_loss_scale_optimizer(optimizer):
    return by_set_weights(
        optimizer,
        lambda: keras_legacy_opt.LossScaleOptimizer(training.make_adam()),
    )


CASES = [
    (strategy, give)
    for give in (by_set_weights, by_pickle, by_own_variables)
    for strategy in STRATEGIES
]
CASES += [
    (strategy, by_loss_scale_optimizer)
    for strategy in ("one device", "mirrored")
]


@every_wrap
@pytest.mark.parametrize(("strategy", "give"), CASES)
def test_goes_on_from_given_state(strategy, give, wrap):
    strategy = strategy_called(strategy)
    expected = training.undisturbed_values()
    for name, value in training.continued_values(
        strategy, give, wrap=wrap
    ).items():
        # A function may fuse a multiplication and an addition.
        rtol = 1e-6 if wrap is tf.function else 0
        np.testing.assert_allclose(value, expected[name], rtol, err_msg=name)


@every_wrap
@pytest.mark.parametrize("strategy", ["default", *STRATEGIES])
def test_no_step_is_taken_without_given_state(strategy, wrap):
    """If it does not fit, every step says so, until state comes that does."""
    strategy = DEFAULT if strategy == "default" else strategy_called(strategy)
    variables, optimizer = training.half_way(strategy)
    before = training.state_of(variables, optimizer)
    weights = optimizer.get_weights()
    with strategy.scope():
        given = training.make_adam()
        given.set_weights(weights[:-2])
    go_on = functools.partial(
        training.run_steps,
        strategy,
        variables,
        given,
        training.batches()[HALF:],
        wrap,
    )
    for _ in range(2):
        with pytest.raises(ValueError, match="got 5 weights, .* expecting 7"):
            go_on()
    for name, variable in variables.items():
        np.testing.assert_array_equal(variable, before[name])
    with strategy.scope():
        given.set_weights(weights)
    training.assert_same_bits(training.state_of(variables, given), before)
    go_on()
    assert given.iterations.numpy() == training.STEPS


def test_a_skipped_step_counts_on():
    """If it is the first, it only counts: from the given iterations."""
    strategy = strategy_called("mirrored")
    variables, optimizer = training.half_way(strategy)
    given = by_loss_scale_optimizer(optimizer)

    def infinite(variables, batch):
        pairs = training.gradients_of(variables, batch)
        return [(tf.convert_to_tensor(g) + np.inf, v) for g, v in pairs]

    before = training.state_of(variables, optimizer)
    batches = training.batches()[:1]
    training.run_steps(strategy, variables, given, batches, gradients=infinite)
    before["iterations"] += 1
    training.assert_same_bits(training.state_of(variables, given), before)


@pytest.mark.parametrize("merges", [True, False])
def test_replicas_give_it_to_all_copies(merges, monkeypatch):
    """Also where replicas are compiled for GPUs, and nothing is merged."""
    strategy = strategy_called("mirrored")
    variables, optimizer = training.half_way(strategy)
    given = by_set_weights(optimizer)
    if not merges:
        monkeypatch.setattr(
            type(strategy.extended), "_use_merge_call", lambda self: False
        )
    strategy.run(lambda: given.build(list(variables.values())))
    weights = optimizer.get_weights()
    for _ in range(2):
        for variable, weight in zip(given.weights, weights, strict=True):
            for copy in strategy.experimental_local_results(variable):
                np.testing.assert_array_equal(copy, weight)
        weights = [weight + 1 for weight in weights]
        strategy.run(given.set_weights, (weights,))


@under_every_strategy
def test_unpickled_in_a_scope_it_belongs_there(strategy):
    """As one that is made there: it need not be built inside."""
    strategy = strategy_called(strategy)
    variables, optimizer = training.half_way(strategy)
    before = training.state_of(variables, optimizer)
    with strategy.scope():
        given = by_pickle(optimizer)
    given.build(list(variables.values()))
    training.assert_same_bits(training.state_of(variables, given), before)


FILES = [
    ("keras 3", "model.keras"),
    ("keras 3", "of.weights.h5"),
    ("tf_keras", "model.keras"),
    ("tf_keras", "of.weights.h5"),
    ("tf_keras", "saved_model"),
]


@pytest.fixture(scope="module", params=FILES, ids=" ".join)
def goes_on(request, tmp_path_factory):
    """A function of a strategy: loads a file in its scope, and trains on."""
    host, file = request.param
    path = tmp_path_factory.mktemp("files") / file
    only_weights = file.endswith(".weights.h5")

    def compiled():
        model = keras_model.make(host)
        model.compile(training.make_adam(), "mse")
        return model

    def goes_on(strategy):
        with strategy.scope():
            if only_weights:
                model = compiled()
                keras_legacy_opt.checkpoints.restore(path, model)
            else:
                model = keras_model.KERAS[host].models.load_model(path)
        model.fit(keras_model.dataset(), verbose=0, shuffle=False)
        return model.get_weights(), model.optimizer.iterations.numpy()

    model = compiled()
    model.fit(keras_model.dataset(), verbose=0, shuffle=False)
    (model.save_weights if only_weights else model.save)(path)
    goes_on.on_one_device = goes_on(DEFAULT)
    return goes_on


@under_every_strategy
def test_fit_goes_on_from_a_file(goes_on, strategy):
    """As it does on one device."""
    weights, iterations = goes_on(strategy_called(strategy))
    expected, expected_iterations = goes_on.on_one_device
    assert iterations == expected_iterations
    for weight, other in zip(weights, expected, strict=True):
        np.testing.assert_allclose(weight, other, rtol=1e-5, atol=1e-6)
