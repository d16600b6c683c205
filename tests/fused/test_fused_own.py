"""Native ops do what a variable has of its own, as TensorFlow's ops do."""

import zlib
from concurrent import futures

import numpy as np
import pytest
import stepping
import tensorflow as tf
from registry import NATIVE, SUBJECT, own_cases
from test_fused_equals_plain import SHAPES, Pair, gradients, tolerance

from keras_legacy_opt import fused
from keras_legacy_opt.step.own import Own

# What each variable of `SHAPES` has; the others have nothing.
OWN = {
    "matrix": {"lr_factor": 0.5, "decay": 0.1},
    "vector": {"decay": 0.2},
    "scalar": {"lr_factor": 0.25},
    "table": {"lr_factor": 0.5, "decay": 0.1},
    "wide_table": {"lr_factor": 2.0},
    "column": {"decay": 0.3},
}
AVERAGED = ("matrix", "scalar", "empty", "table", "column")


def with_own(optimizer):
    """An optimizer whose variables have what is above, and a slot `average`."""
    create = optimizer._create_slots

    def create_slots(variables):
        create(variables)
        for variable in variables:
            optimizer.add_slot(variable, "average")

    def averaging(variable):
        if variable.name.split(":")[0] not in AVERAGED:
            return None
        return optimizer.get_slot(variable, "average"), 0.3

    optimizer._create_slots = create_slots
    optimizer._own_of = lambda variable, apply_state: Own(
        **OWN.get(variable.name.split(":")[0], {})
    )
    optimizer._averaging = averaging
    return optimizer


@pytest.mark.parametrize("case", own_cases(NATIVE), ids=str)
def test_own_values(native_ops, calls, case):
    rng = np.random.default_rng(zlib.crc32(str(case).encode()))
    initial = {
        name: stepping.random_array(rng, shape, "float32")
        for name, shape in SHAPES.items()
    }
    if "linear" in case.option.slots:
        # The decay is between what its slot remembers of the variable, and it.
        half = np.float32(0.5)  # With Python's, NumPy 1 makes scalars double.
        initial = {name: value * half for name, value in initial.items()}
    pair = Pair(lambda: with_own(case.build(SUBJECT)), initial)
    for _ in range(3):
        pair.step(
            dict(gradients(rng, "float32")),
            lambda variable: tolerance(str(case), variable),
        )
    assert {"update_dense", "update_sparse"} <= {*calls}
    for name in SHAPES:
        average = pair.native.get_slot(pair.native_vars[name], "average")
        assert average.numpy().any() == (name in AVERAGED and name != "empty")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_own_values_of_other_dtypes(native_ops, dtype):
    variables = [tf.Variable(tf.ones([700], dtype), name=n) for n in "ab"]
    average = tf.Variable(tf.zeros([700], dtype))
    opt = SUBJECT.optimizers.SGD(0.5)
    opt._own_of = lambda v, state: Own(0.5, 0.25) if v is variables[0] else None
    opt._averaging = lambda v: (average, 0.5) if v is variables[0] else None

    @tf.function
    def step():
        opt.apply_gradients([(tf.ones([700], dtype), v) for v in variables])

    step()
    for value, expected in zip(
        [*variables, average], (0.5, 0.5, 0.25), strict=True
    ):
        np.testing.assert_array_equal(value, np.full(700, expected))


def test_norms_do_not_depend_on_threads(native_ops):
    """Nor on what else is updated."""
    rng = np.random.default_rng(1)
    value = rng.standard_normal(100_003).astype(np.float32)
    grad = rng.standard_normal(value.shape).astype(np.float32)
    other = tf.Variable(tf.ones([12_345]))
    results = []
    for others in ([], [(tf.ones_like(other), other)]):
        variable = tf.Variable(value)
        opt = SUBJECT.optimizers.addons.LAMB(0.1)
        for _ in range(2):
            opt.apply_gradients([*others, (tf.constant(grad), variable)])
        results.append(variable.numpy())
    np.testing.assert_array_equal(*results)
    norm = np.sqrt((value.astype(np.float64) ** 2).sum())
    variable = tf.Variable(value)
    SUBJECT.optimizers.addons.LAMB(0.1).apply_gradients([(grad, variable)])
    moved = np.linalg.norm((variable.numpy() - value).astype(np.float64))
    np.testing.assert_allclose(moved, 0.1 * norm, rtol=1e-5)


def test_kept_directions_change_no_bits(native_ops):
    """There is room for those of 2**24 elements: of two, of one, of none."""
    sizes = (9_000_001, 5_000_003, 3_000_017, 17_000_000)
    wave = tf.sin(tf.range(max(sizes), dtype=tf.float32))
    results = []
    for lists in ([[0, 1, 2, 3]], [[3], [2], [1], [0]]):
        variables = [tf.Variable(1 + wave[:size]) for size in sizes]
        for chosen in lists:
            SUBJECT.optimizers.addons.LAMB(0.1).apply_gradients(
                [(wave[: sizes[i]], variables[i]) for i in chosen]
            )
        results.append(variables)
    for together, alone in zip(*results, strict=True):
        assert bool(tf.reduce_all(together == alone))


def test_two_steps_at_once_do_not_share_directions(native_ops):
    wave = tf.sin(tf.range(300_000, dtype=tf.float32))

    def train(scale):
        variable = tf.Variable(1 + scale * wave)
        opt = SUBJECT.optimizers.addons.LAMB(0.1)
        for _ in range(30):
            opt.apply_gradients([(scale * wave, variable)])
        return variable.numpy()

    scales = (1.0, 2.0, 3.0)
    with futures.ThreadPoolExecutor(len(scales)) as threads:
        at_once = list(threads.map(train, scales))
    np.testing.assert_array_equal(at_once, [*map(train, scales)])


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"per_variable": [tf.ones([3, 2])]}, "number of variables, 2"),
        ({"average_weight": [0.5]}, "takes an average of each variable"),
        ({"average": 1, "average_weight": [0.5]}, "average has shape"),
    ],
)
def test_wrong_inputs_change_nothing(native_ops, inputs, message):
    variables = [tf.Variable(tf.ones([2])), tf.Variable(tf.ones([2]))]
    given = {"per_variable": [], "average": [], "average_weight": [], **inputs}
    if given["average"]:
        averages = [tf.Variable([0.0, 0.0]), tf.Variable([0.0])]
        given["average"] = [v.handle for v in averages]
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        native_ops.sgd(
            var=[v.handle for v in variables],
            grad=[tf.ones([2])] * 2,
            lr=1.0,
            transform=[],
            condition=[],
            **given,
        )
    for variable in variables:
        np.testing.assert_array_equal(variable, [1.0, 1.0])


def test_one_op_for_many_variables(native_ops, calls):
    """Those that are excluded are in it, too."""
    variables = [tf.Variable([1.0], name=f"v{i}") for i in range(6)]
    opt = SUBJECT.optimizers.addons.AdamW(
        0.1, exclude_from_weight_decay=["v[0-2]"]
    )
    with fused.disabled():
        opt.build(variables)
    opt.apply_gradients([(tf.zeros([1]), v) for v in variables])
    assert calls == ["update_dense"]
    np.testing.assert_array_equal(
        tf.concat(variables, 0), np.float32([1, 1, 1, 0.9, 0.9, 0.9])
    )
