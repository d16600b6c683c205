"""What the native ops do on GPUs, and that it is what they do on the CPU.

The cases are run by `fake_gpus.py`, on GPUs that there are not.
"""

from __future__ import annotations

import gc
import os
import tempfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import fake_gpus
import numpy as np
import registry
import stepping
import tensorflow as tf
import test_fused_own

import keras_legacy_opt
from keras_legacy_opt import backends, fused
from keras_legacy_opt.backends import native
from keras_legacy_opt.fused import library, loader
from keras_legacy_opt.fused.gpu import devices, units
from keras_legacy_opt.rules.formula import formula_of

CPU, GPU, OTHER = "/CPU:0", "/GPU:0", "/GPU:1"
SHAPES = {"matrix": (37, 19), "scalar": (), "empty": (0, 3), "vector": (1030,)}
TABLES = {"table": ((50, 7), np.int32), "column": ((60,), np.int64)}
NATIVE = backends.NativeGPU.name
CASES: dict[str, Callable[[fake_gpus.GPUs], None]] = {}


def case(function: Callable[[fake_gpus.GPUs], None]) -> Any:
    CASES[function.__name__] = function
    return function


def random(name: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(name.encode()))


def gradient(rng: np.random.Generator, name: str, dtype: str) -> Any:
    if name in SHAPES:
        return tf.constant(stepping.random_array(rng, SHAPES[name], dtype))
    (rows, *width), integer = TABLES[name][0], TABLES[name][1]
    indices = rng.integers(0, rows, 17).astype(integer)
    values = stepping.random_array(rng, (17, *width), dtype)
    return tf.IndexedSlices(tf.constant(values), tf.constant(indices))


def trained(
    make: Callable[[], Any],
    device: str,
    names: Any = (*SHAPES, *TABLES),
    dtype: str = "float32",
    steps: int = 2,
    wrap: Callable[..., Any] = lambda step: step,
) -> list[tf.Variable]:
    """The variables and weights after some steps on a device."""
    rng = random(str(names))
    shapes = {**SHAPES, **{k: shape for k, (shape, _) in TABLES.items()}}
    with tf.device(device):
        optimizer = make()
        variables = [
            tf.Variable(
                stepping.random_array(rng, shapes[name], dtype) / 2, name=name
            )
            for name in names
        ]
        stepping.create_weights(
            optimizer, dict(zip(names, variables, strict=True))
        )

        @wrap
        def step(grads: Any) -> None:
            optimizer.apply_gradients(zip(grads, variables, strict=True))

        for _ in range(steps):
            step([gradient(rng, name, dtype) for name in names])
        return [*variables, *optimizer.weights]


def same_bits(make: Callable[[], Any], what: object, **options: Any) -> None:
    """Checks that a GPU's numbers are the CPU's."""
    ours, theirs = (trained(make, device, **options) for device in (GPU, CPU))
    for one, other in zip(ours, theirs, strict=True):
        if one.dtype.is_floating:
            assert "GPU" in one.device, one.device
        same = one.numpy().tobytes() == other.numpy().tobytes()
        assert same, (str(what), one.name, one.numpy(), other.numpy())


@case
def every_optimizer_has_the_bits_of_the_cpu(gpus):
    for each in registry.own_cases(registry.NATIVE):
        # Powers are those of the C library here, as on the CPU.
        same_bits(lambda each=each: each.build(registry.SUBJECT), each)


@case
def so_has_what_variables_have_of_their_own(gpus):
    """Learning rate factors, decays, averages; and clipping."""
    for row in registry.NATIVE:
        each = registry.own_cases((row,))[0]
        same_bits(
            lambda each=each: test_fused_own.with_own(
                each.build(registry.SUBJECT)
            ),
            each,
            steps=1,
        )
    same_bits(lambda: keras_legacy_opt.Adam(clipvalue=0.3), "clipvalue")


CLIPPING = (
    {"clipnorm": 0.3},
    {"global_clipnorm": 0.3},
    {"clipvalue": 0.2, "clipnorm": 0.3},
    {"clipvalue": 0.2, "global_clipnorm": 0.3},
)


@case
def norms_clip_as_on_the_cpu(gpus):
    """But for the order in which squares are summed."""
    digits = {"float64": 1e-13, "float32": 1e-5, "float16": 4e-3}
    for dtype, tolerance in {**digits, "bfloat16": 3e-2}.items():
        for options in CLIPPING:
            ours, theirs = (
                trained(
                    lambda o=options: keras_legacy_opt.SGD(0.5, **o),
                    device,
                    dtype=dtype,
                    wrap=wrap,
                )
                for device, wrap in ((GPU, tf.function), (CPU, _as_it_is))
            )
            for one, other in zip(ours, theirs, strict=True):
                np.testing.assert_allclose(
                    one.numpy().astype(np.float64),
                    other.numpy().astype(np.float64),
                    rtol=tolerance,
                    atol=tolerance,
                    err_msg=f"{options} {dtype} {one.name}",
                )


def _as_it_is(step: Any) -> Any:
    return step


def _clipped(gpus: fake_gpus.GPUs, dtype: str, make: Callable[[], Any]) -> None:
    """Checks the launches of steps that clip: of a norm, and of an update."""
    variables, grads = _many([dtype])
    opt, name = make(), units.NAMES[dtype]
    pairs = list(zip(grads, variables, strict=True))
    step = _function(opt, pairs)
    expected = [f"Norm_{name}", f"Dense_Adam_{name}"]
    for run in (lambda: opt.apply_gradients(pairs), step):
        for _ in range(2):
            launches = _launches_of(gpus, run)
            assert launches == expected, launches
    gpus.calls()
    for _ in range(10):
        step()
    functions = [call.split()[0] for call in gpus.calls()]
    assert functions.count("cuLaunchKernel") == 20
    assert functions.count("cuMemcpyAsync") <= 2, functions
    allowed = {"cuLaunchKernel", "cuStreamGetCtx", "cuMemcpyAsync"}
    assert {*functions} <= allowed, functions


@case
def clipping_by_norms_costs_one_launch(gpus):
    """And nobody waits for it: neither memory nor the stream."""
    for dtype in ("float32", "float64", "float16", "bfloat16"):
        for options in CLIPPING:
            _clipped(gpus, dtype, lambda o=options: keras_legacy_opt.Adam(**o))


@case
def so_it_does_where_updates_do_not_clip(gpus):
    """Of a constraint's variable, which TensorFlow's ops update, and clip."""
    with tf.device(GPU):
        variables = [
            tf.Variable(tf.ones([3]), constraint=tf.nn.relu) for _ in range(3)
        ]
        grads = [tf.fill([3], 2.0) for _ in variables]
        opt = keras_legacy_opt.SGD(1.0, global_clipnorm=3.0)
        pairs = list(zip(grads, variables, strict=True))
        launches = _launches_of(gpus, lambda: opt.apply_gradients(pairs))
        assert launches == ["Norm_float"], launches
        np.testing.assert_allclose(variables[0], [0.0] * 3, atol=1e-6)
        with fused.disabled():
            assert not _launches_of(gpus, lambda: opt.apply_gradients(pairs))


def _minimizing(optimizer: Any, variables: Any) -> Callable[[Any], None]:
    """A step whose gradients are those given, times the scale of the loss."""

    def step(grads: Any) -> None:
        def loss() -> Any:
            products = zip(grads, variables, strict=True)
            return tf.add_n([tf.reduce_sum(g * v) for g, v in products])

        optimizer.minimize(loss, variables)

    return step


@case
def norms_are_of_gradients_without_the_scale_of_the_loss(gpus):
    results = []
    for device in (CPU, GPU):
        for options in CLIPPING:
            variables, grads = _many(["float32"], device)
            opt = keras_legacy_opt.LossScaleOptimizer(
                keras_legacy_opt.Adam(**options), initial_scale=8.0
            )
            step = _minimizing(opt, variables)
            traced = tf.function(step)
            with tf.device(device):
                traced(grads)
                gpus.calls()
                traced(grads)
                names = sorted(gpus.launches())
                expected = ["Dense_Adam_float", "Finite_float", "Norm_float"]
                assert names == (expected if device == GPU else []), names
                before = variables[0].numpy()
                traced([grads[0] * np.inf, *grads[1:]])
                np.testing.assert_array_equal(variables[0], before)
                step(grads)
            results.append([v.numpy() for v in variables])
    half = len(results) // 2
    for ours, theirs in zip(results[half:], results[:half], strict=True):
        for one, other in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5)


@case
def without_their_kernel_norms_are_those_of_tensorflow(gpus):
    gpus.refusal = "NVRTC is not installed"
    try:
        for options in CLIPPING:
            results = []
            for device in (CPU, OTHER):
                with tf.device(device):
                    variable = tf.Variable([1.0, 2.0], dtype=tf.float16)
                    opt = keras_legacy_opt.addons.SGDW(0.0, 0.5, **options)
                    grad = tf.constant([3.0, 4.0], tf.float16)
                    launches = _launches_of(
                        gpus,
                        lambda o=opt, g=grad, v=variable: o.apply_gradients(
                            [(g, v)]
                        ),
                    )
                    assert not launches, launches
                    results.append(variable.numpy())
            np.testing.assert_array_equal(*results)
    finally:
        gpus.refusal = None


@case
def replicas_clip_by_norms_of_their_own(gpus):
    values = []
    for devices_ in ((CPU,), (GPU, OTHER)):
        strategy = tf.distribute.MirroredStrategy(
            devices_, tf.distribute.ReductionToOneDevice()
        )
        with strategy.scope():
            variables = [tf.Variable(tf.ones([20 + i])) for i in range(3)]
            opt = keras_legacy_opt.SGD(1.0, global_clipnorm=0.5)

        def replica(opt=opt, variables=variables):
            opt.apply_gradients([(tf.ones(v.shape), v) for v in variables])

        step = _on_all(strategy, replica)
        step()
        gpus.calls()
        step()
        norms = [c for c in gpus.calls() if "Norm_float" in c]
        if devices_[0] == GPU:
            assert sorted(c.split()[-1] for c in norms) == ["1", "2"], norms
        values.append([v.numpy() for v in variables])
    for one, other in zip(*values, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


@case
def norms_that_are_not_finite_are_those_of_tensorflow(gpus):
    for bad in (np.nan, np.inf, 1e30):
        for options in CLIPPING[:2]:
            results = []
            for device in (CPU, GPU):
                with tf.device(device):
                    opt = keras_legacy_opt.SGD(1.0, **options)
                    variables = [tf.Variable([1.0, 2.0]), tf.Variable([3.0])]
                    grads = [tf.constant([1.0, bad]), tf.constant([1.0])]
                    opt.apply_gradients(zip(grads, variables, strict=True))
                    values = [v.numpy() for v in variables]
                    results.append(np.concatenate(values))
            np.testing.assert_allclose(*results, rtol=1e-6)


@case
def a_norm_that_cannot_be_taken_changes_nothing(gpus):
    variables, grads = _many(["float32"])
    opt = keras_legacy_opt.Adam(global_clipnorm=1.0)
    pairs = list(zip(grads, variables, strict=True))
    opt.build(variables)
    assert devices.refuses([variables[0].device], "Norm_float") is None
    os.environ["FAKE_CUDA_FAIL"] = "cuLaunchKernel=700"
    try:
        error = _raises(
            tf.errors.InternalError, lambda: opt.apply_gradients(pairs)
        )
    finally:
        del os.environ["FAKE_CUDA_FAIL"]
    assert "cuLaunchKernel fails: an illegal memory access" in error, error
    np.testing.assert_array_equal(variables[0], np.ones([100]))
    opt.apply_gradients(pairs)
    assert (variables[0].numpy() < 1).all()
    with tf.device(GPU):
        for limit, transform in (([1.0, 2.0], []), (1.0, [tf.ones([3])])):
            error = _raises(
                tf.errors.InvalidArgumentError,
                lambda x=limit, t=transform: loader.ops().gradient_norm(
                    grads, x, t
                ),
            )
            assert "takes a limit that is a scalar" in error, error


@case
def norms_of_a_graph_for_gpus_are_taken_on_the_cpu_too(gpus):
    rng = random("norms")
    values = [rng.random(size, np.float32) for size in (70_000, 0, 3)]
    for of_each in (False, True):
        results = []
        for device in (CPU, GPU):
            with tf.device(device):
                found = loader.ops().gradient_norm(
                    [tf.constant(value) for value in values],
                    0.5,
                    [tf.constant([0.5, 0.25, 1.0, 1.0])],
                    of_each=of_each,
                )
                results.append([each.numpy().tobytes() for each in found])
        assert results[0] == results[1]


def _formula(each: registry.Case) -> str:
    formula = formula_of(each.build(registry.SUBJECT))
    return formula.native.op


@case
def other_dtypes(gpus):
    firsts: dict[str, registry.Case] = {}
    for each in registry.own_cases(registry.NATIVE):
        firsts.setdefault(_formula(each), each)
    for dtype in ("float64", "float16", "bfloat16"):
        for each in firsts.values():
            same_bits(
                lambda each=each: each.build(registry.SUBJECT),
                (each, dtype),
                dtype=dtype,
                names=("matrix", "vector", "table"),
                steps=1,
            )
        same_bits(
            lambda: test_fused_own.with_own(keras_legacy_opt.SGD(0.5)),
            dtype,
            dtype=dtype,
            steps=1,
        )


@case
def no_kernel_is_left_out(gpus):
    """Runs after those that use them."""
    gpus.calls()
    headers = units.headers(library.sources())
    kernels = {kernel.symbol for kernel in units.kernels(headers)}
    left = {k for k in kernels - gpus.launched if not k.startswith("Finite_")}
    # Those of formulas that leave 16 bits to the composed path.
    natives = [
        formula_of(each.build(registry.SUBJECT)).native
        for each in registry.own_cases(registry.NATIVE)
    ]
    refused = {
        (native.op.title().replace("_", ""), dtype)
        for native in natives
        if native.needs_32_bits
        for dtype in ("half", "bfloat16")
    }
    left = {k for k in left if tuple(k.split("_")[1:]) not in refused}
    assert not left, sorted(left)


def _function(optimizer: Any, pairs: Any) -> Callable[[], Any]:
    @tf.function
    def step() -> None:
        optimizer.apply_gradients(pairs)

    return step


def _function_of_gradients(
    optimizer: Any, variables: Any
) -> Callable[[Any], None]:
    @tf.function
    def step(grads: Any) -> None:
        optimizer.apply_gradients(zip(grads, variables, strict=True))

    return step


def _launches_of(gpus: fake_gpus.GPUs, step: Callable[[], Any]) -> list[str]:
    gpus.calls()
    step()
    return gpus.launches()


def _many(dtypes: Any, device: str = GPU) -> tuple[list[Any], list[Any]]:
    """Variables, and their gradients."""
    with tf.device(device):
        variables = [
            tf.Variable(tf.ones([100 + i], dtype))
            for dtype in dtypes
            for i in range(5)
        ]
        grads = [tf.ones(v.shape, v.dtype) for v in variables]
    return variables, grads


@case
def one_launch_for_each_dtype(gpus):
    dtypes = ("float32", "float64", "float16", "bfloat16")
    variables, grads = _many(dtypes)
    opt = keras_legacy_opt.Adam()
    pairs = list(zip(grads, variables, strict=True))
    step = _function(opt, pairs)
    expected = [f"Dense_Adam_{units.NAMES[dtype]}" for dtype in dtypes]
    for run in (lambda: opt.apply_gradients(pairs), step):
        for _ in range(3):
            assert sorted(_launches_of(gpus, run)) == sorted(expected)
    lamb = keras_legacy_opt.addons.LAMB()
    few = [pair for pair in pairs if pair[1].dtype == tf.float32]
    for _ in range(3):
        assert _launches_of(gpus, lambda: lamb.apply_gradients(few)) == [
            f"{job}_Lamb_float" for job in ("Direct", "Scale", "Move")
        ]


@case
def ten_steps_upload_their_tables_once_and_wait_for_nothing(gpus):
    sgd, lamb = keras_legacy_opt.SGD(0.1), keras_legacy_opt.addons.LAMB()
    for optimizer, kernels in ((sgd, 1), (lamb, 3)):
        variables, grads = _many(["float32"])
        pairs = list(zip(grads, variables, strict=True))
        step = _function(optimizer, pairs)
        step()
        gpus.calls()
        for _ in range(10):
            step()
        functions = [call.split()[0] for call in gpus.calls()]
        assert functions.count("cuLaunchKernel") == 10 * kernels
        copies = functions.count("cuMemcpyAsync")
        # Of the gradients' places: as often as TensorFlow chooses new ones.
        assert copies <= 1, copies
        allowed = {"cuLaunchKernel", "cuStreamGetCtx", "cuMemcpyAsync"}
        assert {*functions} <= allowed | {"cuEventQuery", "cuEventRecord"}


def _raw(ops: Any, op: str, lists: Any, grads: Any, scalars: Any, **more: Any):
    given = dict.fromkeys(
        ("transform", "condition", "per_variable", "average", "average_weight"),
        (),
    )
    members = {k: [v.handle for v in each] for k, each in lists.items()}
    return getattr(ops, op)(
        **members, grad=grads, **scalars, **{**given, **more}
    )


@case
def many_steps_may_be_in_flight(gpus):
    """Whose temporary memory is used again meanwhile."""
    rng = random("flight")
    value = rng.random(70_000, np.float32)
    grads = [rng.random(70_000, np.float32) for _ in range(8)]
    results = []
    for device in (CPU, GPU):
        with tf.device(device):
            variable, m = tf.Variable(value), tf.Variable(value)
            v = tf.Variable(value)
            held = [tf.constant(grad) for grad in grads]
            scalars = {
                name: tf.constant(0.5)
                for name in loader.ops().inputs("lamb")
                if name
                in "lr beta_1 beta_2 unbias_m unbias_v epsilon"
                " weight_decay adapt".split()
            }
            gpus.calls()
            for grad in held:  # Nothing here has TensorFlow wait.
                lists = {"var": [variable], "m": [m], "v": [v]}
                _raw(loader.ops(), "lamb", lists, [grad], scalars)
            if device == GPU:
                assert len(gpus.launches()) == 3 * len(held)
            results.append([each.numpy() for each in (variable, m, v)])
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


@case
def each_gpu_has_its_own_stream(gpus):
    results = []
    for first, second in ((CPU, CPU), (GPU, OTHER), (OTHER, GPU)):
        opt = keras_legacy_opt.Adam()
        (a, b), (grad_a, grad_b) = zip(
            _many(["float32"], first), _many(["float32"], second), strict=True
        )
        pairs = [*zip(grad_a, a, strict=True), *zip(grad_b, b, strict=True)]
        step = _function(opt, pairs)
        gpus.calls()
        step()
        calls = [c for c in gpus.calls() if c.startswith("cuLaunchKernel")]
        step()
        if first != CPU:
            streams = sorted(call.rpartition(" ")[2] for call in calls)
            assert streams == ["1", "2"], calls
        results.append([each.numpy() for each in (*a, *b)])
    for values in zip(*results, strict=True):
        for value in values[1:]:
            np.testing.assert_array_equal(value, values[0])


@case
def replicas_have_a_gpu_each(gpus):
    values = []
    for devices_ in ((CPU,), (GPU, OTHER)):
        strategy = tf.distribute.MirroredStrategy(
            devices_, tf.distribute.ReductionToOneDevice()
        )
        with strategy.scope():
            variables = [tf.Variable(tf.ones([20 + i])) for i in range(3)]
            table = tf.Variable(tf.ones([7, 3]))
            opt = keras_legacy_opt.Adam(0.25)

        def replica(opt=opt, variables=variables, table=table):
            n = tf.distribute.get_replica_context().num_replicas_in_sync
            dense = [(tf.ones(v.shape) / n, v) for v in variables]
            rows = tf.IndexedSlices(tf.ones([2, 3]) / n, tf.constant([1, 5]))
            opt.apply_gradients([*dense, (rows, table)])

        step = _on_all(strategy, replica)
        step()
        gpus.calls()
        step()
        calls = [c for c in gpus.calls() if c.startswith("cuLaunchKernel")]
        if len(devices_) == 2:
            for kernel in ("Dense_Adam_float", "Sparse_Adam_float"):
                streams = [c.split()[-1] for c in calls if kernel in c]
                assert sorted(streams) == ["1", "2"], (kernel, calls)
            copies = [v.values for v in (*variables, table)]
            for first, second in copies:
                np.testing.assert_array_equal(first, second)
        values.append([v.numpy() for v in (*variables, table)])
    for one, other in zip(*values, strict=True):
        np.testing.assert_array_equal(one, other)


def _on_all(strategy: Any, replica: Any) -> Callable[[], None]:
    @tf.function
    def step() -> None:
        strategy.run(replica)

    return step


@case
def who_reads_a_variable_keeps_its_value(gpus):
    """The buffer that a reader holds is copied before, on the device."""
    with tf.device(GPU):
        variable, grad = tf.Variable(tf.ones([5])), tf.ones([5])
        opt = keras_legacy_opt.SGD(0.25)
        opt.apply_gradients([(grad, variable)])
        before = variable.read_value()
        gpus.calls()
        opt.apply_gradients([(grad, variable)])
        copies = [c for c in gpus.calls() if c.startswith("cuMemcpyAsync 20 ")]
        assert len(copies) == 1, copies
        np.testing.assert_array_equal(before, [0.75] * 5)
        np.testing.assert_array_equal(variable, [0.5] * 5)


@case
def a_variable_that_repeats_is_updated_one_after_the_other(gpus):
    ops = loader.ops()
    results = []
    for device in (CPU, GPU):
        with tf.device(device):
            rng = random("repeats")

            def variables(count, rng=rng):
                return [
                    tf.Variable(rng.random(3000, np.float32))
                    for _ in range(count)
                ]

            a, b = variables(2)
            m, n = variables(2)
            numbers = [tf.Variable(np.float32(x)) for x in (0.5, 0.25)]
            grads = [tf.constant(rng.random(3000, np.float32)) for _ in "abc"]
            own = tf.constant([[0.5, 0.1], [1.0, 0.0], [0.25, 0.2]])
            scalars = {
                name: tf.constant(0.1 * i)
                for i, name in enumerate(ops.inputs("novo_grad"), 1)
                if name not in {"var", "m", "v", "grad"}
            }
            scalars = _scalars_only(scalars)
            for _ in range(2):
                _raw(
                    ops, "novo_grad",
                    {"var": [a, b, a], "m": [m, n, m],
                     "v": [numbers[0], numbers[1], numbers[0]]},
                    grads, scalars, per_variable=[own],
                )  # fmt: skip
                _raw(ops, "sgd", {"var": [a, a, b]}, grads, {"lr": 0.1})
            results.append([each.numpy() for each in (a, b, m, n, *numbers)])
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


def _scalars_only(given: dict[str, Any]) -> dict[str, Any]:
    others = {"transform", "condition", "per_variable", "average", "name"}
    others |= {"average_weight", "use_locking"}
    return {k: v for k, v in given.items() if k not in others}


def _raises(error: Any, function: Callable[[], Any]) -> str:
    try:
        function()
    except error as found:
        return str(found)
    raise AssertionError("nothing was raised")


def _rows(indices: Any, width: int = 4) -> tf.IndexedSlices:
    return tf.IndexedSlices(
        tf.ones([len(indices), width]), tf.constant(indices, tf.int32)
    )


@case
def a_bad_index_is_told_in_the_next_step(gpus):
    for make in (keras_legacy_opt.Adam, keras_legacy_opt.addons.LAMB):
        with tf.device(GPU):
            table = tf.Variable(tf.ones([6, 4]), name="words")
            opt = make(0.5)
            for indices in ([1, 2, 6], [1, -1]):
                before = [table.numpy()]
                opt.apply_gradients([(_rows(indices), table)])
                np.testing.assert_array_equal(table, before[0])
                error = _raises(
                    tf.errors.InvalidArgumentError,
                    lambda o=opt, t=table: o.apply_gradients([(_rows([1]), t)]),
                )
                assert "variable 'words'" in error, error
                assert f"position {len(indices) - 1} is not in [0, 6)" in error
                np.testing.assert_array_equal(table, before[0])
                # Then all is well again.
                opt.apply_gradients([(_rows([1]), table)])
                assert (table.numpy() != before[0]).any()


@case
def each_variable_is_told_its_own_mistakes(gpus):
    """Though TensorFlow has one kernel for all that look alike."""
    with tf.device(GPU):

        def make() -> tuple[Any, tf.Variable]:
            opt = keras_legacy_opt.SGD(0.5)
            return opt, tf.Variable(tf.ones([6, 4]), name="alike")

        def step(model: Any, row: int) -> None:
            opt, table = model
            opt.apply_gradients([(_rows([row]), table)])
            table.numpy()  # The GPU has run it.

        first, second, third = make(), make(), make()
        step(first, 6)
        step(third, 7)
        step(second, 1)
        assert second[1].numpy()[1, 0] < 1
        error = tf.errors.InvalidArgumentError
        for model in (third, first):
            assert "'alike'" in _raises(error, lambda m=model: step(m, 1))
            step(model, 1)
            np.testing.assert_array_equal(model[1], second[1])
        step(first, 6)
        del first, model
        gc.collect()
        step(make(), 1)  # Of a variable that is gone, nobody is told.


def _last_step(device: str = GPU) -> None:
    """One whose mistake no other step tells."""
    with tf.device(device):
        table = tf.Variable(tf.ones([6, 4]), name="last")
        opt = keras_legacy_opt.SGD(0.5)
        opt.build([table])

        @tf.function
        def step(row: Any) -> None:
            rows = tf.IndexedSlices(tf.ones([1, 4]), row)
            opt.apply_gradients([(rows, table)])

        step(tf.constant([6]))


@case
def who_synchronizes_is_told_of_last_steps(gpus):
    """Also of variables, and of functions, that are gone."""
    fused.synchronize()
    _last_step(GPU), _last_step(OTHER)
    gc.collect()
    for _ in range(2):
        error = _raises(tf.errors.InvalidArgumentError, fused.synchronize)
        assert "variable 'last'" in error, error
        assert "position 0 is not in [0, 6)" in error, error
    fused.synchronize()


@case
def who_was_told_is_not_told_again(gpus):
    with tf.device(GPU):
        table = tf.Variable(tf.ones([6, 4]), name="words")
        opt = keras_legacy_opt.SGD(0.5)

        def step(row: int) -> None:
            opt.apply_gradients([(_rows([row]), table)])

        step(6)
        _raises(tf.errors.InvalidArgumentError, fused.synchronize)
        step(1)
        step(6)
        tf.test.experimental.sync_devices()
        _raises(tf.errors.InvalidArgumentError, lambda: step(1))
        fused.synchronize()


def before_the_end() -> None:
    """What the process does last: a mistake that nobody asks for."""
    fused.synchronize()
    _last_step()
    tf.test.experimental.sync_devices()


@case
def a_step_that_fails_changes_nothing(gpus):
    """All that it needs is there before anything is launched."""
    with tf.device(GPU):
        _many(["float32"])[0][0].numpy()
        for function in ("cuMemHostAlloc", "cuEventCreate"):
            for make, shape, dtype in (
                (keras_legacy_opt.Adam, (6, 4), "float32"),
                # Whose chunks, of the averages, are a table of its own size.
                (keras_legacy_opt.SGD, (70_000, 64), "float16"),
            ):
                opt = make(0.5)
                if make is keras_legacy_opt.SGD:
                    opt = test_fused_own.with_own(opt)
                table = tf.Variable(tf.ones(shape, dtype), name="table")
                grad = tf.IndexedSlices(tf.ones([1, shape[1]], dtype), [1])
                opt.build([table])
                before = [each.numpy() for each in (table, *opt.weights)]

                def step(opt=opt, grad=grad, table=table) -> None:
                    opt.apply_gradients([(grad, table)])

                os.environ["FAKE_CUDA_FAIL"] = f"{function}=2"
                try:
                    error = _raises(tf.errors.InternalError, step)
                finally:
                    del os.environ["FAKE_CUDA_FAIL"]
                assert function in error, error
                after = [each.numpy() for each in (table, *opt.weights)]
                for one, other in zip(before, after, strict=True):
                    np.testing.assert_array_equal(one, other)


@case
def refused_scalars_are_told_in_the_next_step(gpus):
    with tf.device(GPU):
        table = tf.Variable(tf.ones([6, 4]), name="words")
        opt = keras_legacy_opt.Ftrl(0.0)
        opt.apply_gradients([(_rows([1]), table)])
        np.testing.assert_array_equal(table, np.ones([6, 4]))
        error = _raises(
            tf.errors.InvalidArgumentError,
            lambda: opt.apply_gradients([(_rows([1]), table)]),
        )
        assert "refused its scalars" in error, error
        assert "'words'" in error, error


@case
def empty_tables_have_the_mistakes_of_others(gpus):
    """Without rows, or with rows without elements."""
    for shape in ((0, 4), (6, 0)):
        for make, indices, message in (
            (lambda: keras_legacy_opt.Adam(), [6], "not in [0, "),
            (lambda: keras_legacy_opt.Adagrad(), [0, 7], "not in [0, "),
            (lambda: keras_legacy_opt.addons.LAMB(), [-1], "not in [0, "),
            (lambda: keras_legacy_opt.addons.NovoGrad(), [-1], "not in [0, "),
            (lambda: keras_legacy_opt.Ftrl(0.0), [], "refused its scalars"),
        ):
            told = []
            for device in (CPU, GPU):
                with tf.device(device):
                    table = tf.Variable(tf.ones(shape), name="words")
                    opt, grad = make(), _rows(indices, shape[1])
                    told.append(_told(opt, grad, table))
            assert "must be" in told[0] or message in told[0], told[0]
            assert message in told[1], (shape, told)
            assert "'words'" in told[1], (shape, told)


def _told(optimizer: Any, grad: Any, table: Any) -> str:
    """The error of a step, which comes in the next one on a GPU."""
    error = tf.errors.InvalidArgumentError

    def steps() -> None:
        optimizer.apply_gradients([(grad, table)])
        table.numpy()
        optimizer.apply_gradients([(grad, table)])

    return _raises(error, steps)


@case
def other_mistakes_are_told_at_once(gpus):
    ops = loader.ops()
    with tf.device(GPU):
        a, b = tf.Variable(tf.ones([2]), name="a"), tf.Variable(tf.ones([3]))
        sgd = {"lr": 0.1}
        for grads, more, message in (
            ([tf.ones([3]), tf.ones([3])], {}, "but its gradient has"),
            ([tf.ones([2]), tf.ones([3])], {"transform": [tf.ones([3])]},
             "must have shape"),
            ([tf.ones([2]), tf.ones([3])], {"per_variable": [tf.ones([5, 2])]},
             "number of variables, 2"),
            ([tf.ones([2]), tf.ones([3])], {"condition": [[True, False]]},
             "The condition"),
        ):  # fmt: skip
            error = _raises(
                tf.errors.InvalidArgumentError,
                lambda g=grads, m=more: _raw(
                    ops, "sgd", {"var": [a, b]}, g, sgd, **m
                ),
            )
            assert message in error, error
        np.testing.assert_array_equal(a, [1.0, 1.0])
        handle = tf.raw_ops.VarHandleOp(dtype=tf.float32, shape=[2])
        error = _raises(
            tf.errors.FailedPreconditionError,
            lambda: ops.sgd(
                var=[handle], grad=[tf.ones([2])], lr=0.1, transform=[],
                condition=[], per_variable=[], average=[], average_weight=[],
            ),
        )  # fmt: skip
        assert "is it on this device" in error, error


@case
def more_rows_than_can_be_numbered_are_refused(gpus):
    ops = loader.ops()
    with tf.device(GPU):
        for width in (1, 0):
            rows = (1 << 16) * ((1 << 16) + 1)
            handle = tf.raw_ops.VarHandleOp(
                dtype=tf.float16, shape=[rows, width], shared_name=f"h{width}"
            )
            # A shape of 32-bit numbers has no room for it.
            value = tf.raw_ops.Empty(
                shape=[1 << 16, (1 << 16) + 1, width], dtype=tf.float16
            )
            value = tf.reshape(value, tf.constant([rows, width], tf.int64))
            tf.raw_ops.AssignVariableOp(resource=handle, value=value)
            del value

            def step(handle=handle, width=width):
                ops.sparse_sgd(
                    var=handle, grad=tf.ones([1, width], tf.float16),
                    indices=[0], lr=0.1, transform=[], condition=[],
                    per_variable=[], average=[], average_weight=[],
                    variable_name="huge",
                )  # fmt: skip

            if width == 0:  # There is nothing to count.
                step(), step()
                continue
            error = _raises(tf.errors.InvalidArgumentError, step)
            assert "'huge' has 4295032832 rows" in error, error
            tf.raw_ops.DestroyResourceOp(resource=handle)


@case
def loss_scales_see_all_dtypes(gpus):
    dtypes = ("float32", "float64", "float16", "bfloat16")
    results = []
    for device in (CPU, GPU):
        variables, grads = _many(dtypes, device)
        opt = keras_legacy_opt.LossScaleOptimizer(
            keras_legacy_opt.Adam(), initial_scale=8.0
        )
        opt.get_scaled_loss(tf.ones([])), opt.get_unscaled_gradients([])

        step = _function_of_gradients(opt, variables)
        gpus.calls()
        step(grads)  # It is taken where the variables are.
        checks = [k for k in gpus.launches() if "Finite" in k]
        assert len(checks) == (len(dtypes) if device == GPU else 0), checks
        with tf.device(device):
            for i in range(0, len(grads), 5):
                bad = list(grads)
                bad[i] = bad[i] * np.inf
                before = variables[i].numpy()
                step(bad)
                np.testing.assert_array_equal(variables[i], before)
            step(grads)
        results.append([v.numpy().tobytes() for v in variables])
    assert results[0] == results[1]


@case
def steps_are_planned_and_groups_are_made(gpus):
    seen = []
    original = native.update_group

    def spy(*args: Any, **kwargs: Any) -> Any:
        seen.append(args)
        return original(*args, **kwargs)

    native.update_group = spy
    try:
        variables, grads = _many(["float32"])
        opt = keras_legacy_opt.SGD(0.5)
        for _ in range(3):  # From the second step on, it is planned.
            opt.apply_gradients(zip(grads, variables, strict=True))
        assert len(seen) == 1 or len(seen) == 2, len(seen)
        np.testing.assert_array_equal(variables[0], [-0.5] * 100)
        seen.clear()
        _function(opt, list(zip(grads, variables, strict=True)))()
        assert len(seen) == 1
        np.testing.assert_array_equal(variables[0], [-1.0] * 100)
    finally:
        native.update_group = original


@case
def a_training_step_is_saved_and_loaded(gpus):
    class Model(tf.Module):
        def __init__(self):
            super().__init__()
            self.opt = keras_legacy_opt.Adam(0.5)
            self.var = tf.Variable(tf.ones([3]))

        @tf.function(input_signature=[tf.TensorSpec([3])])
        def step(self, grad):
            self.opt.apply_gradients([(grad, self.var)])
            return self.var.read_value()

    with tf.device(GPU), tempfile.TemporaryDirectory() as folder:
        model = Model()
        model.step(tf.ones([3]))
        tf.saved_model.save(model, folder)
        loaded = tf.saved_model.load(folder)
        expected = model.step(tf.ones([3])).numpy()
        gpus.calls()
        got = loaded.step(tf.ones([3])).numpy()
        np.testing.assert_array_equal(got, expected)


@case
def keras_trains_models(gpus):
    """Without XLA, which is Keras 3's choice on a GPU."""
    import keras

    weights = []
    ids = random("ids").integers(0, 30, (16, 4))
    for device in (CPU, GPU):
        with tf.device(device):
            model = keras.Sequential(
                [
                    keras.layers.Embedding(30, 8),
                    keras.layers.Flatten(),
                    keras.layers.Dense(1),
                ]
            )
            model.build((None, 4))
            rng = random("weights")
            model.set_weights(
                [rng.random(w.shape, np.float32) for w in model.weights]
            )
            model.compile(keras_legacy_opt.Adam(0.01), "mse", jit_compile=False)
            gpus.calls()
            model.fit(
                *(ids, np.ones(16)),
                batch_size=8,
                epochs=2,
                shuffle=False,
                verbose=0,
            )
            launches = gpus.launches()
            if device == GPU:
                for kernel in ("Dense_Adam_float", "Sparse_Adam_float"):
                    assert launches.count(kernel) == 4, launches
            weights.append(model.get_weights())
    for one, other in zip(*weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)


@case
def a_variable_as_an_argument_is_refused(gpus):
    with tf.device(GPU):
        variable, opt = tf.Variable([1.0], name="x"), keras_legacy_opt.Adam()

        @tf.function
        def step(variable):
            opt.apply_gradients([(tf.ones([1]), variable)])

        opt.build([variable])
        error = _raises(ValueError, lambda: step(variable))
        assert "'x' is an argument" in error, error
        assert "on a GPU" in error, error


def _explained(optimizer: Any, variable: Any) -> Iterator[str]:
    for each in keras_legacy_opt.explain(optimizer, [variable]):
        yield str(each)


@case
def reasons_are_told(gpus):
    adam = keras_legacy_opt.Adam()
    with tf.device(GPU):
        variable = tf.Variable(tf.ones([2]), name="x")
        dense, sparse = _explained(adam, variable)
        assert dense == f"x, dense gradients: {NATIVE}", dense
        assert sparse == f"x, sparse gradients: {NATIVE}", sparse
        unusual = tf.Variable(tf.ones([2], tf.complex64), name="y")
        (dense, _) = _explained(adam, unusual)
        assert f"not {NATIVE}: its dtype is complex64" in dense, dense
        assert dense.count("not native ops") == 1, dense
        clipped = tf.Variable(tf.ones([2]), constraint=tf.nn.relu, name="z")
        (dense, _) = _explained(adam, clipped)
        assert f"not {NATIVE}: it has a constraint" in dense, dense
    told = []

    @tf.function(jit_compile=True)
    def function():
        told.extend(_explained(adam, variable))

    function.get_concrete_function()
    assert f"not {NATIVE}: XLA compiles the function" in told[0], told
    with fused.disabled():
        (dense, _) = _explained(adam, variable)
    assert "switched off" in dense, dense
    with tf.device(CPU):
        (dense, _) = _explained(adam, tf.Variable([1.0], name="x"))
    assert dense == f"x, dense gradients: {NATIVE}", dense
    assert devices.report() == [f"/device:GPU:{i}" for i in range(2)], (
        devices.report()
    )


@case
def without_a_compiler_all_else_works(gpus):
    """What is known of Adamax' kernels is forgotten before."""
    devices._there.clear()
    gpus.refusal = "NVRTC is not installed"
    try:
        with tf.device(OTHER):
            variable = tf.Variable(tf.ones([2]), name="x")
            opt = keras_legacy_opt.Adamax(0.25)
            (dense, _) = _explained(opt, variable)
            assert f"not {NATIVE}: NVRTC is not installed" in dense, dense
            gpus.calls()
            opt.apply_gradients([(tf.ones([2]), variable)])
            assert not gpus.launches()
            np.testing.assert_array_equal(variable, [0.75, 0.75])
    finally:
        gpus.refusal = None


@case
def what_failed_in_passing_is_tried_again(gpus):
    """Kernels of 16 bits, which no case before has loaded on this GPU."""
    with tf.device(OTHER):
        variable = tf.Variable(tf.ones([2], tf.float16))
        opt = keras_legacy_opt.addons.Lion()
        for reason in ("cuModuleLoadData=2", "cuCtxPushCurrent_v2=2"):
            os.environ["FAKE_CUDA_FAIL"] = reason
            try:
                (dense, _) = _explained(opt, variable)
            finally:
                del os.environ["FAKE_CUDA_FAIL"]
            assert "out of memory" in dense, dense
        (dense, sparse) = _explained(opt, variable)
        assert dense.endswith(f"dense gradients: {NATIVE}"), dense
        assert sparse.endswith(f"sparse gradients: {NATIVE}"), sparse
