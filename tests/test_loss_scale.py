"""LossScaleOptimizer: equal to that of tf_keras around legacy optimizers."""

import contextlib
import copy
import functools
import pickle

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from registry import (
    BUILT_IN,
    LEGACY,
    SUBJECT,
    THIRD_PARTY,
    WRAPPERS,
    Case,
    common_cases,
    own_cases,
)

import keras_legacy_opt
from keras_legacy_opt import LossScaleOptimizer, fused

# tf_keras' public name leads to either of its two classes.
REFERENCE = tf_keras.mixed_precision.LossScaleOptimizer
PLAIN = [Case(row, "plain") for row in BUILT_IN]
WRAPPED = [Case(row, "plain") for row in WRAPPERS]
DYNAMIC = {"initial_scale": 1000.3, "dynamic_growth_steps": 3}
STATIC = {"dynamic": False, "initial_scale": 3.7}
STEPS = 12
OVERFLOWS = (0, 1, 6, 10)

every_scale = pytest.mark.parametrize(
    "scale", [DYNAMIC, STATIC], ids=["dynamic", "static"]
)


@pytest.fixture(autouse=True)
def _no_rearranged_arithmetic():
    """In functions, TensorFlow would rearrange its own ops', not ours."""
    before = tf.config.optimizer.get_experimental_options()
    tf.config.optimizer.set_experimental_options(
        {"disable_meta_optimizer": True}
    )
    yield
    tf.config.optimizer.set_experimental_options(
        {"disable_meta_optimizer": before.get("disable_meta_optimizer", False)}
    )


def ours(case: Case, **scale):
    return LossScaleOptimizer(case.build(SUBJECT), **scale)


def legacy(case: Case, **scale):
    return REFERENCE(case.build(LEGACY), **scale)


def overflows_of(case: Case, scale=DYNAMIC):
    """The steps that overflow, where legacy then does what is done here.

    Without dynamic scale they leave NaNs, of which there is one bit pattern or
    another; and legacy counts a step where a batch is left out.
    """
    is_skipped = scale is DYNAMIC and case.row.accumulates == 1
    return OVERFLOWS if is_skipped else ()


class Training:
    """Some variables, an optimizer of them, and losses that may overflow."""

    def __init__(self, optimizer, loop="minimize", wrap=lambda step: step):
        self.optimizer = optimizer
        self.variables = {
            "matrix": tf.Variable([[1.0, -2.0], [0.5, 3.0]], name="matrix"),
            "table": tf.Variable(tf.ones([5, 2]), name="table"),
            "vector": tf.Variable([0.7, -1.3], name="vector"),
        }
        self._loop = getattr(self, f"_{loop}")
        self._step = wrap(self._step)

    def _loss(self, weight):
        table = tf.gather(self.variables["table"], [1, 3, 1])
        return weight * (
            tf.reduce_sum(self.variables["matrix"] ** 2)
            + tf.reduce_sum(table**2)
            + tf.reduce_sum(self.variables["vector"] ** 3)
        )

    def _minimize(self, weight):
        self.optimizer.minimize(
            lambda: self._loss(weight), list(self.variables.values())
        )

    def _tape(self, weight):
        with tf.GradientTape() as tape:
            loss = self.optimizer.get_scaled_loss(self._loss(weight))
        variables = list(self.variables.values())
        grads = tape.gradient(loss, variables)
        grads = self.optimizer.get_unscaled_gradients(grads)
        self.optimizer.apply_gradients(zip(grads, variables, strict=True))

    def _step(self, weight):
        self._loop(weight)

    def run(self, steps=range(STEPS), overflows=OVERFLOWS, in_order=True):
        """Takes steps; returns all values after each.

        Unless `in_order`, slots are in the order of variables and slot names,
        not in that of `weights`, which a checkpoint may change in tf_keras.
        """
        records = []
        for i in steps:
            weight = np.inf if i in overflows else 1.0 + i / 7
            self._step(tf.constant(weight, tf.float32))
            records.append(self._values(in_order))
        return records

    def _values(self, in_order):
        optimizer = self.optimizer
        if in_order:
            weights = optimizer.weights
        else:
            weights = [
                optimizer.get_slot(variable, name)
                for variable in self.variables.values()
                for name in sorted(optimizer.get_slot_names())
            ]
        counter = optimizer.dynamic_counter
        return [
            *(v.numpy() for v in self.variables.values()),
            *(weight.numpy() for weight in weights),
            optimizer.iterations.numpy(),
            optimizer.loss_scale.numpy(),
            np.int64(-1 if counter is None else counter),
        ]


def assert_same_bits(actual, expected):
    assert len(actual) == len(expected)
    for step, (a, e) in enumerate(zip(actual, expected, strict=True)):
        assert len(a) == len(e)
        for i, (x, y) in enumerate(zip(a, e, strict=True)):
            np.testing.assert_array_equal(x, y, f"value {i} of step {step}")


# Training.


@pytest.mark.parametrize("native", [True, False], ids=["native", "plain"])
@pytest.mark.parametrize("wrap", [lambda f: f, tf.function], ids=["eager", "f"])
@pytest.mark.parametrize("loop", ["minimize", "tape"])
@every_scale
@pytest.mark.parametrize("case", [PLAIN[2], PLAIN[6], *WRAPPED], ids=str)
def test_equals_legacy(case, scale, loop, wrap, native):
    overflows = overflows_of(case, scale)
    expected = Training(legacy(case, **scale), loop, wrap)
    expected = expected.run(overflows=overflows)
    if native:
        actual = Training(ours(case, **scale), loop, wrap)
        actual = actual.run(overflows=overflows)
    else:
        with fused.disabled():
            actual = Training(ours(case, **scale), loop, wrap)
            actual = actual.run(overflows=overflows)
    assert_same_bits(actual, expected)


@pytest.mark.parametrize(
    "case",
    [
        *own_cases(BUILT_IN),
        *(c for c in common_cases(BUILT_IN) if "clip" in c.option_name),
        *(Case(row, "plain") for row in (*THIRD_PARTY, *WRAPPERS)),
    ],
    ids=str,
)
def test_every_optimizer_equals_legacy(case):
    # tests/fused has what native ops compute for our own classes.
    own = case.row in BUILT_IN
    overflows = overflows_of(case)
    with fused.disabled() if own else contextlib.nullcontext():
        actual = Training(ours(case, **DYNAMIC)).run(overflows=overflows)
    expected = Training(legacy(case, **DYNAMIC)).run(overflows=overflows)
    assert_same_bits(actual, expected)


@pytest.mark.parametrize("case", [PLAIN[2], *WRAPPED], ids=str)
def test_xla(case):
    compiled = functools.partial(tf.function, jit_compile=True)
    actual = Training(ours(case, **DYNAMIC), wrap=compiled).run()
    expected = Training(ours(case, **DYNAMIC), wrap=tf.function).run()
    for a, e in zip(actual, expected, strict=True):
        for x, y in zip(a, e, strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6)


def test_scale_dynamics():
    opt = LossScaleOptimizer(
        keras_legacy_opt.SGD(1.0), initial_scale=2.0, dynamic_growth_steps=2
    )
    var = tf.Variable(0.0)
    seen = []
    for grad in (1, 1, 1, np.nan, 1, -np.inf, np.inf, np.inf, 1, 1, np.inf):
        opt.apply_gradients([(tf.constant(float(grad)), var)])
        seen.append((float(opt.loss_scale), int(opt.dynamic_counter)))
    assert seen == [
        (2, 1), (4, 0), (4, 1), (2, 0), (2, 1), (1, 0), (1, 0), (1, 0), (1, 1),
        (2, 0), (1, 0),
    ]  # fmt: skip
    assert (float(var), int(opt.iterations)) == (-6.0, 11)


def test_scale_stays_finite():
    largest = float(np.finfo(np.float32).max)
    opt = LossScaleOptimizer(
        keras_legacy_opt.SGD(), initial_scale=largest, dynamic_growth_steps=1
    )
    opt.apply_gradients([(tf.ones([]), tf.Variable(0.0))])
    assert float(opt.loss_scale) == largest
    assert int(opt.dynamic_counter) == 0


def test_gradients_that_overflow_when_unscaled():
    """A scale below 1 is legacy's, until the first overflow."""
    case = PLAIN[0]
    states = []
    for opt in (ours(case, initial_scale=0.5), legacy(case, initial_scale=0.5)):
        var = tf.Variable(1.0)
        opt.minimize(lambda v=var: 3e38 * v + 3e38 * v, [var])
        states.append((float(var), float(opt.loss_scale)))
    assert states == [(1.0, 1.0)] * 2


def test_gradients_of_keras_3():
    """After `scale_loss`, `apply_gradients` unscales; else it does not."""
    opt = LossScaleOptimizer(keras_legacy_opt.SGD(1.0), initial_scale=8.0)
    var = tf.Variable(1.0)
    for apply in (
        lambda grads: opt.apply(grads, [var]),
        lambda grads: opt.apply_gradients(zip(grads, [var], strict=True)),
        lambda grads: opt.apply_gradients(
            zip(opt.get_unscaled_gradients(grads), [var], strict=True)
        ),
    ):
        var.assign(1.0)
        with tf.GradientTape() as tape:
            loss = opt.scale_loss(0.25 * var)
        apply(tape.gradient(loss, [var]))
        assert float(var) == 0.75
    opt.apply_gradients([(tf.constant(0.5), var)])
    assert float(var) == 0.25


def test_gradients_may_be_missing():
    opt = LossScaleOptimizer(keras_legacy_opt.SGD(1.0))
    used, unused = tf.Variable(1.0), tf.Variable(1.0)
    opt.minimize(lambda: 2.0 * used, [used, unused])
    assert (float(used), float(unused)) == (-1.0, 1.0)
    assert opt.get_unscaled_gradients([None]) == [None]
    with pytest.raises(ValueError, match="No gradients"):
        opt.minimize(lambda: 2.0 * used, [unused])
    assert int(opt.iterations) == 1


@pytest.mark.parametrize("case", [*PLAIN, *WRAPPED], ids=str)
def test_mistakes_change_nothing(case):
    opt = LossScaleOptimizer(case.build(SUBJECT))
    var = tf.Variable([1.0, 2.0], name="vector")
    opt.minimize(lambda: tf.reduce_sum(var), [var])
    before = [*opt.get_weights(), opt.dynamic_counter.numpy(), var.numpy()]
    for grad, error in (
        (tf.ones([3]), ValueError),
        (tf.ones([2], tf.float16), TypeError),
    ):
        with pytest.raises(error):
            opt.apply_gradients([(grad, var)])
    for malformed in (3, [var], [(None, 3)]):
        with pytest.raises(TypeError):
            opt.apply_gradients(malformed)
    after = [*opt.get_weights(), opt.dynamic_counter.numpy(), var.numpy()]
    assert_same_bits([after], [before])


@pytest.mark.parametrize("case", [PLAIN[2], *WRAPPED], ids=str)
def test_tf1_graph(case):
    records = []
    for make in (ours, legacy):
        with tf.Graph().as_default(), tf.compat.v1.Session() as session:
            opt = make(case, **DYNAMIC)
            var = tf.Variable([1.0, 2.0], name="vector")
            weight = tf.compat.v1.placeholder(tf.float32, [])
            train = opt.get_updates(weight * tf.reduce_sum(var**2), [var])
            session.run(tf.compat.v1.global_variables_initializer())
            seen = [var, *opt.weights, opt.loss_scale, opt.dynamic_counter]
            record = []
            for i in range(STEPS):
                value = np.inf if i in overflows_of(case) else 1.0
                session.run(train, {weight: value})
                record.append(session.run(seen))
            records.append(record)
    assert_same_bits(*records)


# The interface.


@every_scale
def test_attributes(scale):
    values = []
    for make in (ours, legacy):
        opt = make(PLAIN[2], **scale)
        values.append(
            [
                opt.dynamic,
                opt.initial_scale,
                opt.dynamic_growth_steps,
                float(opt.loss_scale),
                opt.loss_scale.dtype,
                opt.dynamic_counter is None,
                float(opt.learning_rate),
                float(opt.beta_1),
                opt.get_slot_names(),
                opt.clipnorm,
                hasattr(opt, "epsilon"),
                {"lr", "beta_1", "inner_optimizer"} <= set(dir(opt)),
            ]
        )
    assert values[0] == values[1]


def test_defaults():
    opt = LossScaleOptimizer(keras_legacy_opt.SGD())
    reference = REFERENCE(tf_keras.optimizers.legacy.SGD())
    for name in ("dynamic", "initial_scale", "dynamic_growth_steps"):
        assert getattr(opt, name) == getattr(reference, name)


def test_attributes_are_forwarded():
    inner = keras_legacy_opt.Adam(0.1)
    opt = LossScaleOptimizer(inner)
    opt.lr = 0.2
    assert np.isclose(inner.learning_rate, 0.2)
    opt.learning_rate = 0.3
    opt.beta_1 = 0.7
    opt.clipnorm = 2.0
    assert np.isclose([inner.lr, inner.beta_1], [0.3, 0.7]).all()
    assert inner.clipnorm == opt.clipnorm == 2.0
    opt.epsilon = 0.5  # No hyperparameter.
    assert inner.epsilon == 1e-7
    schedule = keras_legacy_opt.schedules.CosineDecay(0.1, 10)
    opt.learning_rate = schedule
    assert inner.learning_rate == schedule
    assert opt.inner_optimizer is inner
    assert opt.name == "Adam"
    var = tf.Variable([1.0])
    opt.build([var])
    assert opt.built
    assert opt.get_slot(var, "m") is inner.get_slot(var, "m")
    assert opt.variables() == opt.weights == inner.weights
    opt.set_weights([w + 1 for w in opt.get_weights()])
    assert int(inner.iterations) == 1
    assert isinstance(opt, keras_legacy_opt.Optimizer)


def test_wrong_arguments():
    adam = keras_legacy_opt.Adam
    wrapped = LossScaleOptimizer(adam())
    for bad, error in (
        (lambda: LossScaleOptimizer(wrapped), TypeError),
        (lambda: LossScaleOptimizer(wrapped.inner_optimizer), ValueError),
        (lambda: LossScaleOptimizer("adam"), TypeError),
        (lambda: LossScaleOptimizer(tf_keras.optimizers.Adam()), TypeError),
        (lambda: LossScaleOptimizer(adam(), "dynamic"), TypeError),
        (lambda: LossScaleOptimizer(adam(), dynamic=False), ValueError),
        (
            lambda: LossScaleOptimizer(
                adam(), dynamic=False, initial_scale=1, dynamic_growth_steps=2
            ),
            ValueError,
        ),
    ):
        with pytest.raises(error):
            bad()


def test_forgotten_scaling_is_warned_of(caplog):
    var = tf.Variable(1.0)
    opt = LossScaleOptimizer(keras_legacy_opt.SGD())
    opt.apply_gradients([(tf.ones([]), var)])
    assert "`get_scaled_loss` and `get_unscaled_gradients`" in caplog.text
    caplog.clear()
    opt.get_scaled_loss(lambda: var)
    opt.apply_gradients([(tf.ones([]), var)])
    assert "`get_unscaled_gradients` was never" in caplog.text
    caplog.clear()
    opt.minimize(lambda: var**2, [var])
    assert not caplog.text


def test_own_subclass():
    """What overrides a half of `minimize` is called by it."""

    class Own(LossScaleOptimizer):
        def get_unscaled_gradients(self, grads):
            self.seen = grads
            return super().get_unscaled_gradients(grads)

    opt = Own(keras_legacy_opt.SGD(1.0), initial_scale=8.0)
    var = tf.Variable(1.0)
    opt.minimize(lambda: 0.5 * var, [var])
    assert float(opt.seen[0]) == 4.0
    assert float(var) == 0.5


# Configurations.


@pytest.mark.parametrize("case", [PLAIN[2], *WRAPPED], ids=str)
@every_scale
def test_config_equals_legacy(scale, case):
    config = ours(case, **scale).get_config()
    expected = legacy(case, **scale).get_config()
    inner, legacy_inner = (c.pop("inner_optimizer") for c in (config, expected))
    assert config == expected
    assert inner["class_name"] == legacy_inner["class_name"]
    assert inner["config"] == legacy_inner["config"]


@pytest.mark.parametrize(
    "source", [keras_legacy_opt, tf_keras.optimizers], ids=["ours", "tf_keras"]
)
@pytest.mark.parametrize("case", [PLAIN[2], *WRAPPED], ids=str)
@every_scale
def test_serialization(scale, source, case):
    """In our own format, and from what tf_keras wrote of its class."""
    make = ours if source is keras_legacy_opt else legacy
    config, plain = source.serialize(make(case, **scale)), ours(case, **scale)
    for deserialize in (keras_legacy_opt.deserialize, keras_legacy_opt.get):
        opt = deserialize(config)
        assert type(opt) is LossScaleOptimizer
        assert type(opt.inner_optimizer) is type(plain.inner_optimizer)
        assert opt.get_config() == plain.get_config()


@pytest.mark.parametrize(
    ("loss_scale", "expected"),
    [
        (
            {
                "class_name": "FixedLossScale",
                "config": {"loss_scale_value": 5.0},
            },
            (False, 5.0, None),
        ),
        (
            {
                "class_name": "DynamicLossScale",
                "config": {
                    "initial_loss_scale": 64,
                    "increment_period": 7,
                    "multiplier": 2,
                },
            },
            (True, 64.0, 7),
        ),
    ],
)
@pytest.mark.parametrize("name", ["LossScaleOptimizer", "LossScaleOptimizerV1"])
def test_configs_up_to_tf_2_3(name, loss_scale, expected):
    inner = {"class_name": "SGD", "config": {"lr": 0.5}}
    config = {"optimizer": inner, "loss_scale": loss_scale}
    opt = keras_legacy_opt.deserialize({"class_name": name, "config": config})
    assert opt.inner_optimizer.get_config()["learning_rate"] == 0.5
    values = opt.dynamic, opt.initial_scale, opt.dynamic_growth_steps
    assert values == expected
    loss_scale = {**loss_scale, "class_name": "OwnLossScale"}
    with pytest.raises(ValueError, match="loss scales of TensorFlow"):
        LossScaleOptimizer.from_config({**config, "loss_scale": loss_scale})


# Saved state.


def checkpoint(training, **kwargs):
    return tf.train.Checkpoint(
        optimizer=training.optimizer, variables=training.variables, **kwargs
    )


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@every_scale
@pytest.mark.parametrize(
    ("source", "target"),
    [(ours, ours), (legacy, ours), (ours, legacy)],
    ids=["ours", "from_tf_keras", "to_tf_keras"],
)
@pytest.mark.parametrize("case", [PLAIN[2], PLAIN[6], *WRAPPED], ids=str)
def test_checkpoints(case, source, target, scale, before, tmp_path):
    """Restored before the first step or after it, training goes on equally."""
    overflows = overflows_of(case, scale)
    first = Training(source(case, **scale))
    first.run(range(8), overflows)
    path = checkpoint(first).save(tmp_path / "checkpoint")
    second = Training(target(case, **scale))
    if not before:
        second.run(range(2), overflows)
    status = checkpoint(second).restore(path)
    expected = first.run(range(8, STEPS), overflows, in_order=False)
    actual = second.run(range(8, STEPS), overflows, in_order=False)
    assert_same_bits(actual, expected)
    status.assert_consumed()


@pytest.mark.parametrize("case", [PLAIN[2], *WRAPPED], ids=str)
def test_checkpoint_keys_equal_legacy(case, tmp_path):
    keys = []
    for make in (ours, legacy):
        training = Training(make(case, **DYNAMIC))
        training.run(range(1))
        path = checkpoint(training).save(tmp_path / make.__name__)
        keys.append(tf.train.list_variables(path))
    assert keys[0] == keys[1]
    names = [name for name, _ in keys[0]]
    assert any("loss_scale/current_loss_scale" in name for name in names)


@pytest.mark.parametrize("case", [PLAIN[2], *WRAPPED], ids=str)
def test_checkpoints_with_and_without_loss_scale(case, tmp_path):
    wrapped = Training(ours(case, **DYNAMIC))
    wrapped.run(range(5))
    path = checkpoint(wrapped).save(tmp_path / "wrapped")
    alone = Training(case.build(SUBJECT))
    checkpoint(alone).restore(path).expect_partial()
    alone.optimizer.build(list(alone.variables.values()))
    assert_same_bits(
        [alone.optimizer.get_weights()], [wrapped.optimizer.get_weights()]
    )
    path = checkpoint(alone).save(tmp_path / "alone")
    again = Training(ours(case, **DYNAMIC))
    checkpoint(again).restore(path)
    again.optimizer.build(list(again.variables.values()))
    assert_same_bits(
        [again.optimizer.get_weights()], [wrapped.optimizer.get_weights()]
    )


def test_checkpoint_of_tf_2_2(tmp_path):
    """There, slots belonged to a child called `base_optimizer`."""
    inner = keras_legacy_opt.Adam(0.1)
    var = tf.Variable([1.0, 2.0])
    inner.minimize(lambda: tf.reduce_sum(var**2), [var])
    old = tf.Module()
    old.base_optimizer = inner
    path = tf.train.Checkpoint(optimizer=old, v=var).save(tmp_path / "old")
    opt, fresh = ours(PLAIN[2]), tf.Variable([0.0, 0.0])
    tf.train.Checkpoint(optimizer=opt, v=fresh).restore(path)
    opt.build([fresh])
    np.testing.assert_array_equal(
        opt.get_slot(fresh, "m"), inner.get_slot(var, "m")
    )


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))]
)
@every_scale
@pytest.mark.parametrize("case", [*PLAIN, *WRAPPED], ids=str)
def test_copies_continue(case, scale, copied):
    overflows = OVERFLOWS if scale is DYNAMIC else ()
    first = Training(ours(case, **scale))
    first.run(range(8), overflows)
    values = {k: v.numpy() for k, v in first.variables.items()}
    copies = copied(first.optimizer)
    expected = first.run(range(8, STEPS), overflows)
    for name, value in values.items():
        first.variables[name].assign(value)
    first.optimizer = copies
    assert_same_bits(first.run(range(8, STEPS), overflows), expected)
    path = checkpoint(first)
    assert ("loss_scale" in path.optimizer._trackable_children()) == (
        scale is DYNAMIC
    )


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("start", [7, np.int32(7)], ids=["int", "numpy"])
def test_iterations_can_start_from_a_number(wrapped, start):
    opt = keras_legacy_opt.SGD()
    opt = keras_legacy_opt.LossScaleOptimizer(opt) if wrapped else opt
    with pytest.raises(TypeError, match=r"an integer to start from.*7\.5"):
        opt.iterations = 7.5
    opt.iterations = start
    var = tf.Variable(1.0)
    opt.minimize(lambda: var**2, [var])
    assert int(opt.iterations) == int(opt.get_weights()[0]) == 8
    with pytest.raises(RuntimeError, match="assign to it instead"):
        opt.iterations = start
