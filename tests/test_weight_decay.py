"""Weight decay and learning rates of some variables, in the addons."""

import copy
import pickle

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

import keras_legacy_opt
from keras_legacy_opt import fused
from keras_legacy_opt.addons import (
    LAMB,
    LARS,
    SGDW,
    AdaBelief,
    AdamW,
    AdamWeightDecay,
    DecoupledWeightDecayExtension,
    Lion,
    Lookahead,
    NovoGrad,
    RectifiedAdam,
    extend_with_decoupled_weight_decay,
)


def decayed(optimizer, variables, **arguments):
    """Which variables a step with gradients of zeros has made smaller."""
    before = [v.numpy() for v in variables]
    pairs = [(tf.zeros(v.shape), v) for v in variables]
    optimizer.apply_gradients(pairs, **arguments)
    return [
        bool((abs(v.numpy()) < abs(old)).all())
        for v, old in zip(variables, before, strict=True)
    ]


def some_variables():
    names = ("dense/kernel", "dense/bias", "norm/gamma")
    return [tf.Variable([1.0, 2.0], name=name) for name in names]


def sgdw(exclude, **arguments):
    return SGDW(0.5, 0.1, exclude_from_weight_decay=exclude, **arguments)


SELECTIONS = {
    "nothing": (lambda variables: None, [True, True, True]),
    "patterns": (lambda variables: ["bias$", "^norm"], [True, False, False]),
    "as a name": (lambda variables: ["bias:0"], [True, False, True]),
    "a pattern": (lambda variables: "dense", [False, False, True]),
    "variables": (lambda variables: variables[1:], [True, False, False]),
    "predicate": (
        lambda variables: lambda v: "gamma" in v.name,
        [True, True, False],
    ),
}


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("selection", SELECTIONS)
def test_what_does_not_decay(selection, native):
    variables = some_variables()
    select, expected = SELECTIONS[selection]
    optimizer = sgdw(select(variables))
    if native:
        assert decayed(optimizer, variables) == expected
    else:
        with fused.disabled():
            assert decayed(optimizer, variables) == expected
    # A configuration speaks of variables by their names.
    config = optimizer.get_config()
    again = some_variables()
    assert decayed(SGDW.from_config(config), again) == expected


@pytest.mark.parametrize("library", [keras, tf_keras])
def test_layers_of_a_model(library):
    """Names repeat; layers do not."""
    layers = [library.layers.Dense(1, name="same") for _ in range(2)]
    models = [library.Sequential([layer]) for layer in layers]
    optimizer = SGDW(
        0.5,
        0.125,
        exclude_from_weight_decay=layers[:1],
        learning_rate_factors=[([layers[1]], 0.0)],
    )
    for model in models:
        model.build((None, 2))
    kernels = [layer.kernel for layer in layers]
    before = [np.array(kernel) for kernel in kernels]
    optimizer.apply_gradients([(tf.ones([2, 1]), k) for k in kernels])
    first, second = (np.array(kernel) for kernel in kernels)
    np.testing.assert_allclose(first, before[0] - 0.125, rtol=1e-6)
    np.testing.assert_allclose(second, before[1] * 0.5, rtol=1e-6)


def test_decay_var_list_counts_for_one_step():
    variables = some_variables()
    optimizer = sgdw(["bias"])
    only = {"decay_var_list": variables[1:2]}
    assert decayed(optimizer, variables, **only) == [False, True, False]
    assert decayed(optimizer, variables) == [True, False, True]
    assert decayed(optimizer, variables, decay_var_list=[]) == [False] * 3
    optimizer.minimize(
        lambda: 0.0 * variables[0][0], variables[:1], decay_var_list=[]
    )
    assert decayed(optimizer, variables) == [True, False, True]


def test_decay_may_be_anything():
    schedule = keras_legacy_opt.schedules.PiecewiseConstantDecay(
        [0], [0.5, 0.25]
    )
    for decay, expected in (
        (0.5, [0.5, 0.25, 0.25]),
        (tf.constant(0.5), [0.5, 0.25]),
        (lambda: tf.constant(0.5), [0.5, 0.25]),
        (schedule, [0.5, 0.375]),
    ):
        var, optimizer = tf.Variable(1.0), SGDW(decay, 0.1)

        @tf.function
        def step(optimizer=optimizer, var=var):
            optimizer.apply_gradients([(tf.zeros([]), var)])

        for number, value in enumerate(expected):
            if number == 2:
                optimizer.weight_decay = 0.0  # The trace notices.
            step()
            assert float(var) == value
    config = keras_legacy_opt.serialize(SGDW(schedule, 0.1))
    again = keras_legacy_opt.deserialize(config)
    assert again.get_config() == SGDW(schedule, 0.1).get_config()


def test_a_factor_is_of_the_learning_rate():
    """For Adam, whose steps do not depend on the size of gradients."""
    variables = some_variables()
    optimizer = AdamW(
        0.0, 0.1, learning_rate_factors={"kernel": 0.5, "dense": 0.0}
    )
    optimizer.apply_gradients([(tf.ones([2]), v) for v in variables])
    steps = [float(1.0 - v[0]) for v in variables]
    np.testing.assert_allclose(steps, [0.05, 0.0, 0.1], rtol=1e-5)
    config = optimizer.get_config()
    assert AdamW.from_config(config).get_config() == config


@pytest.mark.parametrize("library", [keras, tf_keras])
def test_factors_of_layers_variables_and_what_a_function_selects(library):
    layers = [library.layers.Dense(2, name=name) for name in "abcd"]
    for layer in layers:
        layer.build((None, 2))
    first, second, third, _ = layers
    optimizer = AdamW(
        0.0,
        0.1,
        learning_rate_factors=[
            ([first], 0.5),
            ([second.kernel], 0.25),
            (lambda variable: variable.shape.rank == 1, 0.0),
            ([third], 2.0),
        ],
    )
    variables = [v for layer in layers for v in layer.weights]
    before = [np.array(v) for v in variables]
    optimizer.apply_gradients([(tf.ones(v.shape), v) for v in variables])
    steps = [
        (old - np.array(v)).ravel()[0]
        for old, v in zip(before, variables, strict=True)
    ]
    factors = [0.5, 0.5, 0.25, 0.0, 2.0, 0.0, 1.0, 0.0]
    np.testing.assert_allclose(steps, np.multiply(factors, 0.1), rtol=1e-4)


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("cls", [LAMB, LARS])
def test_layer_adaptation_leaves_out(cls, native):
    decay = {LAMB: "weight_decay", LARS: "weight_decay_rate"}[cls]
    steps = {}
    for option in (
        {},
        {"exclude_from_weight_decay": ["bias"]},
        {
            "exclude_from_weight_decay": ["kernel"],
            "exclude_from_layer_adaptation": ["bias"],
        },
    ):
        variables = some_variables()
        optimizer = cls(0.1, **{decay: 0.5}, **option)
        pairs = [(tf.constant([0.5, -1.0]), v) for v in variables]
        if native:
            optimizer.apply_gradients(pairs)
        else:
            with fused.disabled():
                optimizer.apply_gradients(pairs)
        steps[tuple(option)] = [v.numpy().tolist() for v in variables]
    plain, without_decay, both = steps.values()
    assert plain[0] == plain[1] == plain[2] == without_decay[0]
    # By default, what does not decay is not adapted.
    assert without_decay[1] != plain[1]
    assert both[1] not in (plain[1], without_decay[1])
    assert both[0] not in (plain[0], both[1])
    assert both[2] == plain[2]


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_lamb_corrects_biases_of_16_bits(dtype, native):
    """In bfloat16, 0.999 is 1: what 1 - beta_2**t was, is 0."""
    values = {}
    for kind in (dtype, "float64"):
        optimizer, var = LAMB(0.1), tf.Variable([3.0, 4.0], dtype=kind)
        grad = tf.constant([1.0, -1.0], kind)
        for _ in range(3):
            if native:
                optimizer.apply_gradients([(grad, var)])
            else:
                with fused.disabled():
                    optimizer.apply_gradients([(grad, var)])
        values[kind] = var.numpy().astype("float64")
    # Three times half a unit of the last place for each rounding of a step.
    np.testing.assert_allclose(values[dtype], values["float64"], rtol=0.015)


def test_novograd_has_one_moment_for_each_variable():
    table = tf.Variable(tf.ones([4, 3]))
    optimizer = NovoGrad(0.1)
    rows = tf.IndexedSlices(tf.ones([2, 3]), tf.constant([1, 1]))
    optimizer.apply_gradients([(rows, table)])
    moment = optimizer.get_slot(table, "v")
    assert moment.shape == []
    assert float(moment) == 3 * 2.0**2


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: SGDW(-0.1), ValueError, "weight_decay >= 0, received: -0.1"),
        (lambda: LAMB(weight_decay=-1), ValueError, "weight_decay >= 0"),
        (lambda: NovoGrad(weight_decay=-1), ValueError, "weight_decay >= 0"),
        (lambda: LARS(weight_decay_rate=-1), ValueError, "decay_rate >= 0"),
        (lambda: sgdw(["("]), ValueError, r"'\(' \(missing \)"),
        (lambda: sgdw(["x", tf.Variable(1.0)]), ValueError, "not both"),
        (lambda: sgdw([3]), TypeError, "Received: 3 of type int"),
        (lambda: sgdw(3), TypeError, "must be a list of patterns"),
        (
            lambda: LAMB(exclude_from_layer_adaptation=["*"]),
            ValueError,
            "adapt",
        ),
        (
            lambda: SGDW(0.1, learning_rate_factors={"x": -1.0}),
            ValueError,
            "Received the factor -1.0",
        ),
        (lambda: Lion(weight_decay=-1.0), ValueError, "weight_decay >= 0"),
        (
            lambda: RectifiedAdam(weight_decay=np.nan),
            ValueError,
            "weight_decay >= 0, received: nan",
        ),
        (lambda: AdaBelief(weight_decay="x"), TypeError, "'x' of type str"),
        (
            lambda: extend_with_decoupled_weight_decay(keras.optimizers.Adam),
            TypeError,
            "use keras_legacy_opt.Adam",
        ),
        (
            lambda: extend_with_decoupled_weight_decay(keras_legacy_opt.SGD()),
            TypeError,
            "pass a class",
        ),
        (
            lambda: type(
                "Mixed",
                (DecoupledWeightDecayExtension, keras.optimizers.Adam),
                {},
            ),
            TypeError,
            "use keras_legacy_opt.Adam",
        ),
    ],
)
def test_mistakes(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("steps_before", [0, 1])
@pytest.mark.parametrize("around", [lambda o: o, Lookahead])
@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: AdamW(0.25), "weight_decay"),
        (lambda: SGDW(0.25), "weight_decay"),
        (lambda: LAMB(weight_decay=0.25), "weight_decay"),
        (lambda: LARS(weight_decay_rate=0.25), "weight_decay_rate"),
        (lambda: NovoGrad(weight_decay=0.25), "weight_decay"),
        (
            lambda: AdamWeightDecay(weight_decay_rate=0.25),
            "weight_decay_rate",
        ),
        (lambda: Lion(weight_decay=0.25), "weight_decay"),
        (lambda: RectifiedAdam(weight_decay=0.25), "weight_decay"),
        (lambda: AdaBelief(weight_decay=0.25), "weight_decay"),
        (
            lambda: extend_with_decoupled_weight_decay(
                keras_legacy_opt.Adagrad
            )(0.25),
            "weight_decay",
        ),
    ],
)
def test_mistakes_that_come_later(make, name, around, steps_before):
    """As in the constructor, and before anything changes."""
    optimizer = around(make())
    if steps_before:
        optimizer.apply_gradients([(tf.ones([1]), tf.Variable([1.0]))])
    for value, error, words in (
        (-0.1, ValueError, f"{name} >= 0, received: -0.1"),
        (float("nan"), ValueError, f"{name} >= 0, received: nan"),
        ("much", TypeError, f"`{name}` must be a number"),
        ([0.1], TypeError, f"`{name}` must be a number"),
        (None, TypeError, f"`{name}` must be a number"),
    ):
        with pytest.raises(error, match=words):
            setattr(optimizer, name, value)
        with pytest.raises(error, match=words):
            optimizer._set_hyper(name, value)
    assert float(getattr(optimizer, name)) == 0.25
    setattr(optimizer, name, 0.5)
    assert float(getattr(optimizer, name)) == 0.5


def test_factors_that_come_later():
    optimizer = AdamW(0.1, learning_rate_factors={"a": np.float32(2.0)})
    before = optimizer.get_config()
    assert before["learning_rate_factors"] == [[["a"], 2.0]]
    for factors, error in (
        ({"a": -1.0}, ValueError),
        ({"a": float("nan")}, ValueError),
        ({"a": "2"}, ValueError),
        ({"(": 1.0}, ValueError),
        (3.0, TypeError),
        ([("a", 1.0, 2.0)], TypeError),
    ):
        with pytest.raises(error):
            optimizer.learning_rate_factors = factors
    assert optimizer.get_config() == before


@pytest.mark.parametrize("decay", ["a", None, [1.0, 2.0], np.ones(2), {}])
@pytest.mark.parametrize(
    ("cls", "argument"),
    [
        (AdamW, "weight_decay"),
        (LAMB, "weight_decay"),
        (LARS, "weight_decay_rate"),
        (AdamWeightDecay, "weight_decay_rate"),
        (NovoGrad, "weight_decay"),
    ],
)
def test_what_is_no_decay(cls, argument, decay):
    with pytest.raises(TypeError, match=f"`{argument}` must be a number >= 0"):
        cls(**{argument: decay})


WITH_ATTRIBUTES = {
    "AdamW": lambda **kw: AdamW(0.1, **kw),
    "extension": lambda **kw: extend_with_decoupled_weight_decay(
        keras_legacy_opt.Adagrad
    )(0.1, **kw),
    "LAMB": LAMB,
    "LARS": LARS,
    "AdamWeightDecay": AdamWeightDecay,
    "NovoGrad": NovoGrad,
}


@pytest.mark.parametrize("name", WITH_ATTRIBUTES)
def test_what_is_set_later_is_as_if_it_was_given(name):
    make = WITH_ATTRIBUTES[name]
    optimizer = make()
    given = {
        "learning_rate_factors": {"kernel": 0.25},
        **dict.fromkeys(optimizer._selections, "kernel"),
    }
    mistakes = {
        "learning_rate_factors": (
            3,
            [3],
            "kernel",
            {"kernel": "a"},
            {"[": 1.0},
        ),
        **dict.fromkeys(optimizer._selections, (5, ["["], [3], {"a": 1})),
    }
    for attribute, value in given.items():
        setattr(optimizer, attribute, value)
        before = getattr(optimizer, attribute)
        for mistake in mistakes[attribute]:
            with pytest.raises((TypeError, ValueError), match=attribute):
                setattr(optimizer, attribute, mistake)
            with pytest.raises((TypeError, ValueError), match=attribute):
                make(**{attribute: mistake})
            assert getattr(optimizer, attribute) is before
    kernel, same = (tf.Variable([1.0, 2.0], name="kernel") for _ in range(2))
    other = make(**given)
    optimizer.apply_gradients([(tf.ones([2]), kernel)])
    other.apply_gradients([(tf.ones([2]), same)])
    np.testing.assert_array_equal(kernel, same)
    config = other.get_config()
    assert optimizer.get_config() == config
    assert copy.deepcopy(optimizer).get_config() == config
    if name != "extension":  # Whose class is no module's.
        assert pickle.loads(pickle.dumps(optimizer)).get_config() == config


def test_an_extended_class_is_an_optimizer_of_both():
    cls = extend_with_decoupled_weight_decay(keras_legacy_opt.Adam)
    variables, others = some_variables(), some_variables()
    ours = cls(0.1, learning_rate=0.01, exclude_from_weight_decay=["bias"])
    same = AdamW(0.1, 0.01, exclude_from_weight_decay=["bias"])
    for optimizer, trained in ((ours, variables), (same, others)):
        for _ in range(2):
            optimizer.apply_gradients([(tf.ones([2]), v) for v in trained])
    for ours, expected in zip(variables, others, strict=True):
        np.testing.assert_array_equal(ours, expected)
