"""What is measured of slots and steps, and how it comes to TensorBoard."""

import copy
import gc
import math
import warnings
import weakref

import keras
import numpy as np
import pytest
import registry
import tensorflow as tf
import tf_keras

from keras_legacy_opt import (
    SGD,
    Adagrad,
    Adam,
    LossScaleOptimizer,
    addons,
    hosts,
)
from keras_legacy_opt.addons.wrapper import all_inside
from keras_legacy_opt.summaries import SlotSummaries, callback, measure, write
from keras_legacy_opt.summaries.measures import histogram

KERASES = {"keras3": keras, "tf_keras": tf_keras}
ROWS, COLUMNS = 10, 2
TOKENS = np.random.default_rng(0).integers(0, 7, (24, 3)).astype("int32")
LABELS = TOKENS.sum(axis=1, keepdims=True).astype("float32") / 20


def exactly(value):
    """Norms are computed in float32, in an order of TensorFlow's."""
    return pytest.approx(value, rel=1e-6, abs=0.0)


def norm(x):
    return float(np.linalg.norm(np.asarray(x, np.float64)))


def make_model(host, optimizer, **options):
    layers = host.layers
    model = host.Sequential(
        [
            layers.Input((3,), dtype="int32"),
            layers.Embedding(ROWS, COLUMNS, name="words"),
            layers.Flatten(),
            layers.Dense(1, name="top"),
        ],
        name="net",
    )
    rng = np.random.default_rng(1)
    model.set_weights(
        [rng.uniform(-0.5, 0.5, w.shape) for w in model.get_weights()]
    )
    model.compile(optimizer, "mse", **options)
    return model


def fit(model, *callbacks, epochs=1):
    model.fit(
        TOKENS,
        LABELS,
        batch_size=8,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        callbacks=list(callbacks),
    )
    return model


def values_of(model):
    return [np.array(v) for v in model.trainable_variables]


def events(folder):
    """{step: {tag: (plugin, array)}}, of what was written."""
    found = {}
    for path in sorted(folder.glob("events*")):
        for record in tf.data.TFRecordDataset(str(path)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                found.setdefault(event.step, {})[value.tag] = (
                    value.metadata.plugin_data.plugin_name,
                    tf.make_ndarray(value.tensor),
                )
    return found


def slots_of(optimizer, variable):
    """Those of wrappers, and inside."""
    return {
        name: slot
        for each in all_inside(optimizer)
        for name, slot in each._slots.get(variable._unique_id, {}).items()
    }


# What is measured.

NO_SLOT_TELLS = ("SGD", "SGDW", "ConditionalGradient")
CASES = [
    registry.Case(row, next(iter(row.options)))
    for row in (*registry.BUILT_IN, *registry.ADDONS, *registry.WRAPPERS)
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_optimizer(case, rng):
    """Against NumPy, of a dense and of a sparse gradient."""
    optimizer = case.build(registry.SUBJECT)
    dense, table = (
        tf.Variable(rng.normal(size=shape).astype("float32"), name=name)
        for name, shape in {"matrix": (3, 2), "table": (8, 2)}.items()
    )
    before = [dense.numpy(), table.numpy()]
    values = rng.normal(size=(3, 2)).astype("float32")
    gradients = [
        tf.constant(rng.normal(size=(3, 2)).astype("float32")),
        tf.IndexedSlices(tf.constant(values), tf.constant([1, 6, 1]), [8, 2]),
    ]
    summed = np.stack([values[0] + values[2], values[1]])
    for _ in range(case.row.accumulates):
        optimizer.apply_gradients(zip(gradients, [dense, table], strict=True))
    measures = measure(
        optimizer, [dense, table], gradients=gradients, before=before
    )
    assert measures.step == 1
    names = [v.name for v in measures.variables]
    assert names == ["matrix", "table"]
    rows = zip(measures.variables, [dense, table], before, strict=True)
    for (found, variable, old), gradient in zip(
        rows, [gradients[0], summed], strict=True
    ):
        assert tuple(found.slots) == case.option.slots
        change = norm(variable.numpy() - old)
        assert found.norm == exactly(norm(variable))
        assert found.gradient_norm == exactly(norm(gradient))
        assert found.update_ratio == exactly(change / norm(old))
        assert found.effective_learning_rate == exactly(change / norm(gradient))
        for name, slot in found.slots.items():
            value = slots_of(optimizer, variable)[name].numpy()
            assert slot.norm == exactly(norm(value))
            counts = slot.histogram[:, 2]
            assert counts.sum() == value.size
            if slot.histogram[0, 0] < slot.histogram[-1, 1]:
                expected, edges = np.histogram(value.astype("float64"), 30)
                np.testing.assert_array_equal(counts, expected)
                np.testing.assert_allclose(
                    slot.histogram[:, 0], edges[:-1], rtol=1e-6, atol=1e-9
                )
    assert measures.variables[0].rows is None
    rows, dead = measures.variables[1].rows, measures.variables[1].dead_rows
    if case.row.name in NO_SLOT_TELLS:
        assert (rows, dead) == (None, None)
    else:  # In LARS, the decay of all rows is in their momentum.
        assert (rows, dead) == (8, 0 if case.row.name == "LARS" else 6)


def test_learning_rates():
    inside = SGD(0.5, decay=1.0)
    optimizer = addons.Lookahead(inside)
    var = tf.Variable([4.0])
    optimizer.apply_gradients([(tf.constant([1.0]), var)])
    assert dict(measure(optimizer).learning_rates) == {"SGD": 0.25}
    several = addons.MultiOptimizer(
        [(SGD(0.5), [var]), (SGD(0.125), [other := tf.Variable([1.0])])]
    )
    gradients, before = (
        [tf.constant([2.0])] * 2,
        [tf.identity(var), tf.identity(other)],
    )
    several.apply_gradients(zip(gradients, [var, other], strict=True))
    measures = measure(
        several, [var, other], gradients=gradients, before=before
    )
    assert dict(measures.learning_rates) == {"SGD": 0.5, "SGD_1": 0.125}
    rates = [v.effective_learning_rate for v in measures.variables]
    assert rates == [0.5, 0.125]


def test_wrappers_and_loss_scales_are_looked_into():
    var = tf.Variable([1.0, 2.0])
    optimizer = LossScaleOptimizer(
        addons.MovingAverage(addons.Lookahead(Adam()))
    )
    optimizer.minimize(lambda: tf.reduce_sum(var**2), [var])
    (found,) = measure(optimizer).variables
    assert set(found.slots) == {"average", "slow", "m", "v"}
    inner = optimizer.inner_optimizer
    assert found.slots["average"].norm == exactly(
        norm(inner.get_slot(var, "average"))
    )


@pytest.mark.parametrize("dtype", ["float16", "float64", "complex64"])
def test_dtypes(dtype):
    values = np.array([300.0, 400.0]).astype(dtype)
    var, before = tf.Variable(values), [values - 1]
    optimizer = SGD(0.5, momentum=0.5)
    optimizer.apply_gradients([(tf.constant([6.0, 8.0], dtype), var)])
    (found,) = measure(optimizer, before=before).variables
    assert found.norm == exactly(norm(np.abs(var.numpy())))
    assert found.slots["momentum"].norm == 5.0
    change = norm(np.abs(var.numpy() - before[0]))
    assert found.update_ratio == exactly(change / norm(np.abs(before[0])))


@pytest.mark.parametrize(
    ("dtype", "sizes"),
    [
        ("float32", [1e-36, 1e-24, 1e-12, 1e-3, 1e30, 3e38]),
        ("float64", [1e-300, 1e-160, 1e-3, 1e160, 1e300]),
        ("float16", [1e-7, 6e4]),
        ("complex64", [1e-30, 1e30]),
    ],
)
@pytest.mark.parametrize("mixed", [False, True])
def test_norms_of_any_magnitude(dtype, sizes, mixed):
    """Whose squares are zeros or infinities, also beside others."""
    for size in sizes:
        values = np.array([3, -4, 0, 1e-3 if mixed else 0], np.float64) * size
        if "float" in dtype:
            values = np.clip(values, np.finfo(dtype).min, np.finfo(dtype).max)
        values = values.astype(dtype)
        optimizer = SGD(1.0, momentum=0.5)
        var = tf.Variable(values)
        optimizer.build([var])
        optimizer.get_slot(var, "momentum").assign(values)
        (found,) = measure(
            optimizer, [var], gradients=[var], before=[values * 0]
        ).variables
        wide = np.abs(values.astype("complex128"))
        wanted = exactly(wide.max() * norm(wide / wide.max()))
        assert found.norm == wanted
        assert found.slots["momentum"].norm == wanted
        assert found.gradient_norm == wanted
        assert found.effective_learning_rate == exactly(1.0)


def test_small_steps():
    """Adam's `v` is the square of the gradient."""
    var, optimizer = tf.Variable([1.0] * 4), Adam(0.1)
    gradient = tf.fill([4], 1e-11)
    before = [tf.identity(var)]
    optimizer.apply_gradients([(gradient, var)])
    measures = measure(optimizer, gradients=[gradient], before=before)
    (found,) = measures.variables
    assert found.slots["v"].norm == exactly(
        norm(optimizer.get_slot(var, "v").numpy())
    )
    assert found.gradient_norm == exactly(2e-11)
    assert found.effective_learning_rate > 0


def test_ratios_to_zero():
    """There is none, unless nothing has changed."""
    moved, still = tf.Variable([0.0, 0.0]), tf.Variable([0.0])
    optimizer = SGD(0.5)
    gradients = [tf.constant([1.0, 2.0]), tf.constant([0.0])]
    before = [tf.identity(moved), tf.identity(still)]
    optimizer.apply_gradients(zip(gradients, [moved, still], strict=True))
    first, second = measure(
        optimizer, [moved, still], gradients=gradients, before=before
    ).variables
    assert first.update_ratio is None
    assert first.effective_learning_rate == exactly(0.5)
    assert second.update_ratio == 0.0
    assert second.effective_learning_rate is None


def test_variables_of_one_name_have_tags_of_their_own(tmp_path):
    """The same in each step, whichever are measured."""
    variables = [
        tf.Variable([1.0]),
        tf.Variable([2.0], name="Variable_1"),
        tf.Variable([3.0]),
        tf.Variable([4.0]),
    ]
    optimizer = Adam(0.1)
    optimizer.apply_gradients([(tf.constant([1.0]), v) for v in variables])
    names = [v.name for v in measure(optimizer).variables]
    assert names == ["Variable", "Variable_1", "Variable_2", "Variable_3"]
    with tf.summary.create_file_writer(str(tmp_path)).as_default():
        found = write(optimizer, variables[:1:-1])
    assert [v.name for v in found.variables] == ["Variable_3", "Variable_2"]
    written = events(tmp_path)[1]
    assert written["weight_norm/Variable_3"][1] == variables[3].numpy()[0]
    assert "slots/Variable_2/m" in written


def test_histograms_of_large_slots_are_of_samples():
    """Which are spread over rows and columns."""
    var = tf.Variable(tf.zeros([4096, 4]))
    optimizer = SGD(1.0, momentum=0.5)
    column = tf.tile(tf.constant([[1.0, 2.0, 3.0, 4.0]]), [4096, 1])
    optimizer.apply_gradients([(column, var)])
    found = measure(optimizer).variables[0].slots["momentum"].histogram
    assert found[:, 2].sum() == pytest.approx(4096 * 4)
    held = found[found[:, 2] > 0]
    np.testing.assert_allclose(held[:, 2], 4096, rtol=0.01)
    assert (found[0, 0], found[-1, 1]) == (-4.0, -1.0)


def test_histograms_have_what_is_finite():
    found = histogram(np.array([np.nan, 1.0, 3.0, np.inf], np.float32), 8)
    assert (found[0, 0], found[-1, 1]) == (1.0, 3.0)
    assert (found[0, 2], found[-1, 2]) == (2.0, 2.0)
    assert histogram(np.array([np.nan]), 1).shape == (0, 3)


@pytest.mark.parametrize(
    ("embeddings", "rows"),
    [
        (None, None),
        ("tab", 5),
        (lambda v: v.shape.rank == 2, 5),
        ([], None),
    ],
    ids=["default", "pattern", "function", "none"],
)
def test_embeddings_are_chosen(embeddings, rows):
    table, bias = tf.Variable(tf.ones([5, 2]), name="table"), tf.Variable([1.0])
    optimizer = Adagrad(0.1)
    gradient = np.zeros([5, 2], "float32")
    gradient[3, 1] = 1.0
    optimizer.apply_gradients([(gradient, table), (tf.constant([1.0]), bias)])
    first, second = measure(optimizer, embeddings=embeddings).variables
    assert first.rows == rows
    assert first.dead_rows == (4 if rows else None)
    assert second.rows is None


def test_what_was_measured_is_not_kept_alive():
    def step():
        var, optimizer = tf.Variable([1.0]), Adam()
        optimizer.minimize(lambda: var**2, [var])
        measure(optimizer)
        return weakref.ref(optimizer)

    reference = step()
    gc.collect()
    assert reference() is None


# What is written.


def test_events(tmp_path):
    var, table = tf.Variable([3.0, 4.0], name="var"), tf.Variable([[1.0], [2]])
    optimizer = Adam(0.1)
    gradients = [tf.constant([0.0, 2.0]), tf.IndexedSlices([[1.0]], [0])]
    before = [tf.identity(var), tf.identity(table)]
    optimizer.apply_gradients(zip(gradients, [var, table], strict=True))
    with tf.summary.create_file_writer(str(tmp_path)).as_default():
        found = write(
            optimizer,
            [var, table],
            gradients=gradients,
            before=before,
            step=tf.constant(7, tf.int64),
        )
    ((step, tags),) = events(tmp_path).items()
    assert step == 7
    expected = found.variables[0]
    for tag, value in (
        ("learning_rate/Adam", 0.1),
        ("gradient_norm/var", 2.0),
        ("weight_norm/var", expected.norm),
        ("update_ratio/var", expected.update_ratio),
        ("effective_learning_rate/var", expected.effective_learning_rate),
        ("slot_norm/var/v", expected.slots["v"].norm),
        ("dead_rows/Variable", 1),
        ("fraction_of_dead_rows/Variable", 0.5),
    ):
        plugin, written = tags[tag]
        assert plugin == "scalars"
        assert written == np.float32(value)
    plugin, written = tags["slots/var/m"]
    assert plugin == "histograms"
    np.testing.assert_array_equal(written, expected.slots["m"].histogram)
    assert len(tags) == 1 + 2 * (4 + 2 * 2) + 2


def test_exploding_slots_are_warned_of_once(tmp_path):
    var, other = tf.Variable([1.0], name="a"), tf.Variable([1.0], name="b")
    optimizer = SGD(1e-3, momentum=0.5)
    optimizer.build([var, other])
    with tf.summary.create_file_writer(str(tmp_path)).as_default():
        write(optimizer)
        optimizer.get_slot(var, "momentum").assign([math.nan])
        with pytest.warns(
            RuntimeWarning,
            match="slot 'momentum' of variable '"
            "a' has the norm nan .* not finite",
        ):
            write(optimizer)
        write(optimizer)
        other.assign([1e6])
        write(optimizer)
        with pytest.warns(RuntimeWarning, match="The variable 'b' .* of 1000:"):
            write(optimizer, threshold=1000.0)


# In `fit`.


@pytest.fixture(params=KERASES)
def host(request):
    """A Keras: every test runs in both."""
    return KERASES[request.param]


def gradients_of(model, step):
    """Those of the model's loss in a step of `fit`, computed anew."""
    batch = slice(8 * step, 8 * step + 8)
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean((model(TOKENS[batch]) - LABELS[batch]) ** 2)
    variables = list(map(hosts.unwrap, model.trainable_variables))
    return [
        tf.convert_to_tensor(g).numpy() for g in tape.gradient(loss, variables)
    ]


@pytest.mark.parametrize(
    ("host", "wrap"),
    [
        (keras, lambda o: o),
        (tf_keras, lambda o: o),
        (tf_keras, LossScaleOptimizer),
        (keras, addons.Lookahead),
    ],
    ids=["keras3", "tf_keras", "LossScaleOptimizer", "Lookahead"],
)
def test_fit(host, wrap, tmp_path):
    """All steps are as they are without, and what is written is so."""
    plain, model = (
        make_model(host, wrap(Adam(0.1, global_clipnorm=0.01)))
        for _ in range(2)
    )
    seen = SlotSummaries(tmp_path, every=2, at_most=None)
    fit(model, seen, epochs=2)
    recorded = {}

    def begin(batch, logs=None):
        step = int(plain.optimizer.iterations)
        recorded[step + 1] = values_of(plain), gradients_of(plain, batch)

    def end(batch, logs=None):
        recorded[int(plain.optimizer.iterations)] += (values_of(plain),)

    fit(
        plain,
        host.callbacks.LambdaCallback(
            on_train_batch_begin=begin, on_train_batch_end=end
        ),
        epochs=2,
    )
    for ours, expected in zip(values_of(model), values_of(plain), strict=True):
        np.testing.assert_array_equal(ours, expected)
    written = events(tmp_path)
    assert list(written) == [2, 4, 6]
    names = [v.name for v in seen.last.variables]
    assert names[0].endswith("words/embeddings")
    for step, tags in written.items():
        before, gradients, after = recorded[step]
        for name, old, gradient, new in zip(
            names, before, gradients, after, strict=True
        ):
            change = norm(new - old)
            for what, value in (
                ("gradient_norm", norm(gradient)),
                ("update_ratio", change / norm(old)),
                ("effective_learning_rate", change / norm(gradient)),
                ("weight_norm", norm(new)),
            ):
                assert tags[f"{what}/{name}"][1] == pytest.approx(
                    value, rel=1e-5
                )
        alive = len(np.unique(TOKENS[: 8 * min(step, 3)]))
        assert tags[f"dead_rows/{names[0]}"][1] == ROWS - alive
    assert {f"slots/{n}/{s}" for n in names for s in "mv"} <= written[2].keys()


def random_model(host, optimizer):
    """A model that draws random numbers."""
    host.utils.set_random_seed(1)
    layers = host.layers
    model = host.Sequential(
        [
            layers.Input((3,)),
            layers.GaussianNoise(0.1),
            layers.Dense(8, "relu"),
            layers.Dropout(0.2),
            layers.Dense(1),
        ]
    )
    model.compile(optimizer, "mse")
    return model


@pytest.mark.parametrize("every", [1, 3])
def test_random_numbers_are_those_of_training_without(host, every, tmp_path):
    """Also where the ops that draw them keep a state of their own."""
    plain, model = (random_model(host, Adam(0.1)) for _ in range(2))
    seen = SlotSummaries(tmp_path, every=every, at_most=None)
    for each, callbacks in ((plain, ()), (model, (seen,))):
        host.utils.set_random_seed(2)
        fit(each, *callbacks, epochs=2)
        fit(each, *callbacks)
    for ours, expected in zip(values_of(model), values_of(plain), strict=True):
        np.testing.assert_array_equal(ours, expected)
    assert seen.last.variables[0].gradient_norm > 0


def test_random_numbers_of_a_function_that_was_traced_before(tmp_path):
    """Where norms of gradients would need another, they are left out."""
    plain, model = (random_model(tf_keras, Adam(0.1)) for _ in range(2))
    tf_keras.utils.set_random_seed(2)
    fit(plain)
    fit(plain, epochs=2)
    tf_keras.utils.set_random_seed(2)  # Of every op, in all functions.
    fit(model)
    seen = SlotSummaries(tmp_path, every=2, at_most=None)
    with pytest.warns(UserWarning, match="no norms of gradients") as told:
        fit(model, seen, epochs=2)
    assert len([w for w in told if "norms" in str(w.message)]) == 1
    for ours, expected in zip(values_of(model), values_of(plain), strict=True):
        np.testing.assert_array_equal(ours, expected)
    assert seen.last.variables[0].gradient_norm is None
    assert seen.last.variables[0].update_ratio > 0
    model.compile(Adam(0.1), "mse")
    fit(model, seen, epochs=2)
    assert seen.last.variables[0].gradient_norm > 0


def test_random_numbers_of_a_model_that_is_compiled_in_fit(tmp_path):
    found = []
    for callbacks in ([], [SlotSummaries(tmp_path, every=2, at_most=None)]):
        model = random_model(tf_keras, Adam(0.1))

        def compile_anew(epoch, logs, model=model):
            model.compile(Adam(0.1), "mse")
            model.make_train_function()

        again = tf_keras.callbacks.LambdaCallback(on_epoch_end=compile_anew)
        fit(model, again, *callbacks, epochs=3)
        found.append(values_of(model))
    for ours, expected in zip(*found, strict=True):
        np.testing.assert_array_equal(ours, expected)


def test_one_function_does_all_where_numbers_are_random(tmp_path):
    traces = []

    class Traced(Adam):
        def _transform_gradients(self, pairs):
            traces.append(len(pairs))
            return super()._transform_gradients(pairs)

    model = random_model(tf_keras, Traced(0.1))
    fit(model, SlotSummaries(tmp_path, every=2, at_most=None))
    count, function = len(traces), model.train_function
    seen = SlotSummaries(tmp_path, every=2, at_most=None)
    fit(model, seen, epochs=2)
    fit(model)
    assert (len(traces), model.train_function) == (count, function)
    assert seen.last.variables[0].gradient_norm > 0


def test_one_function_more_is_traced(host, tmp_path):
    """Once for a callback, however often it measures; the others stay."""
    traces = []

    class Traced(Adam):
        def _transform_gradients(self, pairs):
            traces.append(len(pairs))
            return super()._transform_gradients(pairs)

    model = fit(make_model(host, Traced(0.1)))
    count, function = len(traces), model.train_function
    seen = SlotSummaries(tmp_path, every=2, at_most=None)
    fit(model, seen, epochs=2)
    fit(model, seen)
    fit(model)
    assert len(traces) == 2 * count
    assert model.train_function is function
    assert seen.last.step == 11
    assert seen.last.variables[0].gradient_norm > 0
    model.compile(Traced(0.1), "mse")
    fit(model, seen)
    count = len(traces)
    fit(model, seen, epochs=2)
    assert len(traces) == count


def test_training_that_was_interrupted(tmp_path):
    model = fit(make_model(tf_keras, Adam(0.1)))
    function = model.train_function
    seen = SlotSummaries(tmp_path, every=2, at_most=None)

    def interrupt(batch, logs):
        if batch == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(
            model,
            tf_keras.callbacks.LambdaCallback(on_train_batch_end=interrupt),
            seen,
        )
    assert model.train_function is not function
    fit(model, seen)
    assert model.train_function is function


@pytest.mark.parametrize(
    "options",
    [{"run_eagerly": True}, {"steps_per_execution": 3}, {"jit_compile": True}],
    ids=lambda options: next(iter(options)),
)
def test_ways_to_run(options, host, tmp_path):
    """The last step, or all of an execution."""
    every = 1 if "steps_per_execution" in options else 3
    model = make_model(host, SGD(0.125, momentum=0.0), **options)
    before, seen = values_of(model), SlotSummaries(tmp_path, every, None)
    fit(
        model,
        seen,
        host.callbacks.LambdaCallback(
            on_train_batch_begin=lambda batch, logs: before.__setitem__(
                slice(None), values_of(model)
            )
        ),
    )
    assert seen.last.step == 3
    for found, old, new in zip(
        seen.last.variables, before, values_of(model), strict=True
    ):
        change = norm(new - old)
        assert found.update_ratio == exactly(change / norm(old))
        if "steps_per_execution" not in options:
            assert found.effective_learning_rate == pytest.approx(
                0.125, rel=1e-5
            )


def test_mirrored(host, tmp_path):
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        model = make_model(host, LossScaleOptimizer(SGD(0.125)))
    seen = SlotSummaries(tmp_path, every=3, at_most=None)
    fit(model, seen)
    for found in seen.last.variables:
        assert found.effective_learning_rate == pytest.approx(0.125, rel=1e-5)


def test_accumulated_gradients(tmp_path):
    """In a step that only adds to them, none reaches the optimizer inside."""
    inside = SGD(0.125)
    model = make_model(keras, addons.GradientAccumulation(inside, 2))
    seen = SlotSummaries(tmp_path, every=1, at_most=None)
    found = []
    fit(
        model,
        seen,
        keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda batch, logs: found.append(seen.last)
        ),
    )
    rates = [m.variables[0].effective_learning_rate for m in found]
    assert rates == [None, pytest.approx(0.125, rel=1e-5), None]
    assert [m.variables[0].update_ratio > 0 for m in found] == [
        False,
        True,
        False,
    ]


def test_a_step_that_overflows(tmp_path):
    """Is skipped; its gradients are not finite, or were not looked at."""
    optimizer = LossScaleOptimizer(Adam(0.1), initial_scale=2.0**127)
    seen = SlotSummaries(tmp_path, every=1, at_most=None)
    model = make_model(tf_keras, optimizer)
    model.fit(TOKENS, 1e9 * LABELS, batch_size=24, verbose=0, callbacks=[seen])
    for found in seen.last.variables:
        assert found.update_ratio == 0.0
        assert not (found.gradient_norm or 0.0) > 0.0 or math.isinf(
            found.gradient_norm
        )


def test_without_gradients(tmp_path):
    seen = SlotSummaries(tmp_path, every=1, at_most=None, gradients=False)
    model = fit(make_model(tf_keras, Adam(0.1)), seen)
    assert model.optimizer._watch is None
    for found in seen.last.variables:
        assert found.gradient_norm is None
        assert found.update_ratio > 0


def test_what_explodes_in_fit(tmp_path):
    model = make_model(tf_keras, SGD(1e30, momentum=0.9))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", RuntimeWarning)
        fit(model, SlotSummaries(tmp_path, every=1, at_most=None), epochs=2)
    messages = [str(w.message) for w in told if "norm" in str(w.message)]
    assert len(messages) == len({m.partition(" has")[0] for m in messages})
    assert any("slot 'momentum'" in message for message in messages)


def test_copies_are_not_watched(tmp_path):
    model = make_model(keras, Adam(0.1))
    fit(model, SlotSummaries(tmp_path, every=1))
    assert model.optimizer._watch is not None
    assert copy.deepcopy(model.optimizer)._watch is None


def test_the_time_that_it_takes_is_limited(tmp_path, monkeypatch):
    """By a clock in which a step takes 1, and measuring 2 more."""
    time = [0.0]
    monkeypatch.setattr(callback, "_now", lambda: time[0])
    put = callback.events.put
    monkeypatch.setattr(
        callback.events, "put", lambda m: (put(m), time.append(time.pop() + 2))
    )
    model, steps = make_model(keras, SGD(0.0)), []
    seen = SlotSummaries(tmp_path, every=1, at_most=0.25)
    fit(
        model,
        keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda batch, logs: time.append(time.pop() + 1)
        ),
        seen,
        keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda batch, logs: steps.append(seen.last.step)
        ),
        epochs=5,
    )
    # The first, which traces, is free.  The second seems to cost 3, as there
    # was no step without to compare, and 9 have to pass.
    assert steps == [1, *[2] * 10, *[12] * 4]


@pytest.mark.parametrize(
    "order",
    [(keras, tf_keras, keras), (tf_keras, keras)],
    ids=["keras3 first", "tf_keras first"],
)
def test_one_callback_for_models_of_both_kerases(order, tmp_path):
    seen = SlotSummaries(tmp_path, every=3, at_most=None)
    for host in order:
        model = make_model(host, Adam(0.1))
        fit(model, seen)
        assert seen.last.step == 3
        assert seen.last.variables[0].norm == exactly(norm(values_of(model)[0]))
        seen.last = None


# What is refused.


def test_a_folder_that_cannot_be_written_to(host, tmp_path):
    path = tmp_path / "a_file"
    path.write_text("")
    model = make_model(host, Adam(0.1))
    with pytest.raises(OSError, match="cannot write to the folder .*a_file"):
        fit(model, SlotSummaries(path))
    assert int(model.optimizer.iterations) == 0


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"log_dir": 3}, TypeError, "PathLike"),
        ({"every": 0}, ValueError, "`every` must be at least 1"),
        ({"every": 1.5}, TypeError, "`every` must be an integer"),
        ({"at_most": 0}, ValueError, "more than 0 and not"),
        ({"at_most": 2}, ValueError, "Received: at_most=2"),
        ({"threshold": -1}, ValueError, "`threshold` must be a positive"),
        ({"threshold": "1"}, ValueError, "Received: threshold='1'"),
        ({"embeddings": 3}, TypeError, "`embeddings` must be a list of pat"),
    ],
)
def test_bad_arguments(options, error, words):
    with pytest.raises(error, match=words):
        SlotSummaries(**{"log_dir": "folder", **options})


def test_bad_measures():
    var, optimizer = tf.Variable([1.0]), SGD()
    for arguments, options, error, words in (
        ((keras.optimizers.SGD(),), {}, TypeError, "optimizer of keras_leg"),
        ((optimizer, var), {}, TypeError, "`variables` must be a list"),
        ((optimizer, [1.0]), {}, TypeError, "among them: 1.0 of type float"),
        (
            (optimizer, [var]),
            {"gradients": []},
            ValueError,
            "`gradients` must have one .* 0 for 1 variables",
        ),
        (
            (optimizer, [var]),
            {"before": var},
            TypeError,
            "`before` must be a list",
        ),
    ):
        with pytest.raises(error, match=words):
            measure(*arguments, **options)
    with pytest.raises(RuntimeError, match="after the `tf.function`"):
        tf.function(lambda: measure(optimizer, [var]))()


def test_other_optimizers_and_strategies(host, tmp_path, monkeypatch):
    seen = SlotSummaries(tmp_path)
    with pytest.raises(TypeError, match="optimizer of keras_legacy_opt"):
        fit(make_model(host, host.optimizers.SGD()), seen)
    with pytest.raises(AttributeError, match="callback of Keras"):
        _ = seen.on_train_end
    central = tf.distribute.experimental.CentralStorageStrategy(["CPU:0"])
    model = make_model(host, SGD(0.1))
    monkeypatch.setattr(
        type(model), "distribute_strategy", central, raising=False
    )
    with pytest.raises(ValueError, match="such as MirroredStrategy"):
        seen.set_model(model)
