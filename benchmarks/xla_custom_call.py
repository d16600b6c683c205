"""Measures what native updates would gain inside XLA, as a custom call.

    python benchmarks/xla_custom_call.py

A trial, on the CPU: `xla_custom_call.cc` has the functor of Adam behind XLA's
interface for foreign functions (FFI), and one call updates all variables in
place.  Contestants are XLA's own composition of the same optimizer, and the
native op in a function that XLA does not compile.  Checked are the bits, and
that XLA copies nothing.
"""

import argparse
import ctypes
import pathlib
import subprocess
import tempfile

import numpy as np
import optimizers
import tensorflow as tf
from tensorflow.compiler.tf2xla.ops import gen_xla_ops

import keras_legacy_opt
from keras_legacy_opt.fused import build

HERE = pathlib.Path(__file__).resolve().parent
ROWS = {
    "3 x 16.8M": (optimizers.BIG, 21),
    "400 x 4096": (optimizers.SMALL, 21),
}


def load():
    """The library with the custom call."""
    include = tf.sysconfig.get_include()
    library = tf.sysconfig.get_lib()
    path = pathlib.Path(tempfile.mkdtemp()) / "xla_custom_call.so"
    subprocess.run(
        ["g++", *build.FLAGS, "-w", "-shared", f"-I{include}"]
        + [f"-I{HERE.parent / 'tf_custom_ops'}", f"-Wl,-rpath,{library}"]
        + [HERE / "xla_custom_call.cc", f"-L{library}"]
        + ["-l:libtensorflow_framework.so.2", "-o", path],
        check=True,
    )
    return ctypes.CDLL(str(path))


def module(sizes):
    """StableHLO of the call: see `xla_custom_call.cc` for its operands."""
    types = [f"tensor<{size}xf32>" for size in sizes]
    given = ["tensor<6xf32>"] + types * 4
    names = [f"%a{i}" for i in range(len(given))]
    aliases = ", ".join(
        f"#stablehlo.output_operand_alias<output_tuple_indices = [{i}],"
        f" operand_index = {i + 1}, operand_tuple_indices = []>"
        for i in range(len(types) * 3)
    )
    parameters = ", ".join(map("{}: {}".format, names, given))
    results = ", ".join(types * 3)
    return f"""module @step {{
  func.func public @main({parameters}) -> ({results}) {{
    %0:{len(types) * 3} = stablehlo.custom_call @keras_legacy_opt_adam(
      {", ".join(names)}) {{api_version = 4 : i32, backend_config = {{}},
      has_side_effect = false, output_operand_aliases = [{aliases}]}}
      : ({", ".join(given)}) -> ({results})
    return {", ".join(f"%0#{i}" for i in range(len(types) * 3))} : {results}
  }}
}}"""


def custom_call(shapes, grads):
    """A step, and its variables."""
    sizes = [size for (size,) in shapes]
    variables = [tf.Variable(tf.fill(shape, 0.5)) for shape in shapes]
    slots = [tf.Variable(tf.zeros(shape)) for shape in shapes * 2]
    iterations = tf.Variable(0, dtype=tf.int64)
    text = module(sizes)

    @tf.function(jit_compile=True, autograph=False)
    def step():
        iterations.assign_add(1)
        count = tf.cast(iterations, tf.float32)
        powers = [tf.pow(decay, count) for decay in (0.9, 0.999)]
        scalars = tf.stack([0.001, *powers, 0.9, 0.999, 1e-7])
        state = [*variables, *slots]
        results = gen_xla_ops.xla_call_module(
            args=[scalars, *(each.read_value() for each in state), *grads],
            version=9,
            module=text,
            Sout=[[size] for size in sizes] * 3,
            Tout=[tf.float32] * len(state),
            platforms=["CPU"],
            dim_args_spec=[],
            function_list=[],
            has_token_input_output=False,
            disabled_checks=[],
        )
        for each, result in zip(state, results, strict=True):
            each.assign(result)

    return step, variables


def ours(shapes, grads, in_xla):
    """A step, and its variables."""
    optimizer = keras_legacy_opt.Adam()
    variables = [tf.Variable(tf.fill(shape, 0.5)) for shape in shapes]
    optimizer.build(variables)

    @tf.function(jit_compile=in_xla, autograph=False)
    def step():
        optimizer.apply_gradients(zip(grads, variables, strict=True))

    return step, variables


def main():
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    library = load()
    for row, (shapes, repeats) in ROWS.items():
        rng = np.random.default_rng(0)
        grads = [
            tf.constant(rng.standard_normal(shape, np.float32))
            for shape in shapes
        ]
        made = {
            "ours": custom_call(shapes, grads),
            "composed by XLA": ours(shapes, grads, True),
            "native op, without XLA": ours(shapes, grads, False),
        }
        for step, _ in made.values():
            step()
        native = made["native op, without XLA"][1]
        for mine, theirs in zip(made["ours"][1], native, strict=True):
            np.testing.assert_array_equal(mine.numpy(), theirs.numpy())
        times = optimizers.interleaved(
            {name: step for name, (step, _) in made.items()}, repeats
        )
        optimizers.report(f"{row}: a custom call of XLA", times, 1)
    if library.Copied():
        raise SystemExit(f"XLA copied {library.Copied()} arrays.")


if __name__ == "__main__":
    main()
