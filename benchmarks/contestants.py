"""The optimizers that a benchmark compares, all behind one `step()`."""

import ctypes
import functools
import os
import pathlib
import subprocess
import tempfile

import keras
import numpy as np
import tensorflow as tf
import tf_keras

import keras_legacy_opt

try:
    import torch
except ImportError:
    torch = None

SKIPPED = set()  # names of contestants to leave out
OURS = "ours"
LEGACY = "tf_keras legacy"

# name: (arrays that a step updates, arguments of each library)
OPTIMIZERS = {
    "SGD": (1, {}),
    "momentum": (2, {"momentum": 0.9}),
    "RMSprop": (2, {}),
    "RMSprop momentum": (3, {"momentum": 0.9}),
    "RMSprop centered momentum": (4, {"momentum": 0.9, "centered": True}),
    "Adam": (3, {}),
    "Adam amsgrad": (4, {"amsgrad": True}),
    "Adadelta": (3, {}),
    "Adagrad": (2, {}),
    "Adamax": (3, {}),
    "Nadam": (3, {}),
    "Ftrl": (3, {}),
}
_CLASSES = {"momentum": "SGD"}


def class_name(optimizer):
    return _CLASSES.get(optimizer, optimizer.split()[0])


def _arrays(shapes):
    rng = np.random.default_rng(0)
    for shape in shapes:
        yield rng.standard_normal(shape, dtype=np.float32)


def tensorflow_step(make, shapes, mode, steps):
    """A function that takes `steps` steps, in a graph or eagerly."""
    optimizer = make()
    variables = [tf.Variable(tf.fill(shape, 0.5)) for shape in shapes]
    grads = [tf.constant(array) for array in _arrays(shapes)]

    def step():
        for _ in range(steps):
            optimizer.apply_gradients(zip(grads, variables, strict=True))

    if mode == "eager":
        return step

    if mode == "xla":
        optimizer.build(variables)  # XLA cannot create variables.
    # The function captures gradients and variables: as arguments, each of them
    # would cost everybody some microseconds of Python.
    return tf.function(step, jit_compile=mode == "xla", autograph=False)


def torch_step(optimizer, shapes, steps, **options):
    cls = getattr(torch.optim, _TORCH.get(optimizer, optimizer.split()[0]))
    parameters = []
    for array in _arrays(shapes):
        parameter = torch.full(array.shape, 0.5, requires_grad=True)
        parameter.grad = torch.from_numpy(array)
        parameters.append(parameter)
    arguments = dict(OPTIMIZERS[optimizer][1], lr=0.001)
    torch_optimizer = cls(parameters, **arguments, **options)

    def step():
        for _ in range(steps):
            torch_optimizer.step()

    return step


_TORCH = {
    "momentum": "SGD",
    "Nadam": "NAdam",
    "RMSprop": "RMSprop",
}
_TORCH_FUSED = ("SGD", "momentum", "Adam", "Adam amsgrad", "Adagrad")


def contestants(optimizer, shapes, mode, steps=1, peers=True, **options):
    """{name: step()}: ours and tf_keras' legacy one, and others if `peers`."""
    name, arguments = class_name(optimizer), OPTIMIZERS[optimizer][1]
    arguments = {**arguments, **options}

    def of(module):
        return functools.partial(getattr(module, name), **arguments)

    def tf_step(module, mode):
        return functools.partial(
            tensorflow_step, of(module), shapes, mode, steps
        )

    def torch_of(**options):
        return functools.partial(
            torch_step, optimizer, shapes, steps, **options
        )

    makers = {
        OURS: tf_step(keras_legacy_opt, mode),
        LEGACY: tf_step(tf_keras.optimizers.legacy, mode),
    }
    if peers:
        makers["Keras 3"] = tf_step(keras.optimizers, mode)
        if mode == "graph":
            makers["Keras 3 XLA"] = tf_step(keras.optimizers, "xla")
        if torch is not None and name != "Ftrl":
            torch.set_num_threads(_threads())
            makers["torch foreach"] = torch_of(foreach=True)
            if optimizer in _TORCH_FUSED:
                makers["torch fused"] = torch_of(fused=True)
    return {
        name: make() for name, make in makers.items() if name not in SKIPPED
    }


def _threads():
    return len(os.sched_getaffinity(0))


@functools.cache
def _roof_library():
    source = pathlib.Path(__file__).with_name("roof.cc")
    path = pathlib.Path(tempfile.mkdtemp()) / "roof.so"
    subprocess.run(
        ["g++", "-O3", "-shared", "-fPIC", "-pthread", source, "-o", path],
        check=True,
    )
    return ctypes.CDLL(str(path))


def roof(passes, shapes, steps=1):
    """A step that only moves bytes.

    Each pass reads an array and updates others, by as many as `passes` says; a
    number stands for one pass.
    """
    passes = (passes,) if isinstance(passes, int) else passes
    updated = [
        [np.ones(shape, np.float32) for shape in shapes]
        for _ in range(max(passes))
    ]
    read = list(_arrays(shapes))
    library = _roof_library()
    calls = []
    for i, grad in enumerate(read):
        pointers = (ctypes.c_void_p * len(updated))(
            *(arrays[i].ctypes.data for arrays in updated)
        )
        for count in passes:
            calls.append(
                (
                    pointers,
                    count,
                    ctypes.c_void_p(grad.ctypes.data),
                    ctypes.c_int64(grad.size),
                    _threads(),
                )
            )

    def step():
        for _ in range(steps):
            for call in calls:
                library.stream(*call)

    step.arrays = updated, read  # kept alive
    return step
