"""The native ops on GPUs, which there are not: on what stands in for them."""

import json
import os
import pathlib
import subprocess
import sys
import types

import fake_gpus
import on_gpus
import pytest
import tensorflow as tf

import keras_legacy_opt
from keras_legacy_opt.backends import native
from keras_legacy_opt.fused import norms, places
from keras_legacy_opt.fused.gpu import devices
from keras_legacy_opt.step.update import Step, Update

TESTS = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def on_fake_gpus(native_ops, tmp_path_factory):
    """Of a process with GPUs.

    Returns:
      {case: what it raised}, of those that failed, and what it has logged.
    """
    folder = tmp_path_factory.mktemp("gpus")
    fake_gpus.compile_into(folder)
    results = folder / "results.json"
    paths = [TESTS.parent, TESTS, TESTS / "conformance", TESTS / "fused"]
    done = subprocess.run(
        [sys.executable, fake_gpus.__file__, folder, results],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, paths)),
            # Whoever looks for a driver finds this one.
            "LD_LIBRARY_PATH": str(folder),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(results.read_text()), done.stderr


@pytest.mark.processes
@pytest.mark.parametrize("what", on_gpus.CASES)
def test_on_gpus(on_fake_gpus, what):
    failures, _ = on_fake_gpus
    assert what not in failures, failures[what]


@pytest.mark.processes
def test_what_nobody_was_told_is_logged_at_the_end(on_fake_gpus):
    """Once."""
    _, logged = on_fake_gpus
    assert logged.count("variable 'last' in an earlier step") == 1, logged


def explained(variable):
    opt = keras_legacy_opt.Adam()
    return keras_legacy_opt.explain(opt, [variable])[0]


def test_without_a_gpu_nobody_speaks_of_one(native_ops, monkeypatch):
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: [])
    told = explained(tf.Variable(tf.zeros([1], tf.complex64), name="x"))
    assert str(told).count("not native ops") == 1
    assert "its dtype is complex64" in told.refusals["native ops"]
    assert devices.report() == ["TensorFlow sees no GPU here"]


class OnGPU:
    """What a variable tells that is on a GPU."""

    def __init__(self, device="/job:localhost/replica:0/task:0/device:GPU:0"):
        self.handle, self.dtype, self.device = object(), tf.float32, device


def test_places():
    on_gpu = OnGPU()
    assert "is on /job:localhost" in places.refuses(on_gpu)
    assert places.refuses(on_gpu, "GPU") is None
    assert places.kind_of([on_gpu, OnGPU()]) == "GPU"
    assert places.kind_of([tf.Variable(0.0), on_gpu]) is None
    assert places.kind_of([tf.Variable(0.0)]) == "CPU"
    elsewhere = OnGPU("/job:worker/replica:0/task:1/device:GPU:0")
    assert places.kind_of([elsewhere]) is None
    assert "run on the GPU here" in places.refuses(tf.Variable(0.0), "GPU")


def test_norms_on_the_cpu_are_those_of_tensorflow(native_ops, monkeypatch):
    variable, grad = tf.Variable([0.0]), tf.constant([1.0])
    for has_gpus in (False, True):
        monkeypatch.setattr(places, "has_gpus", lambda has=has_gpus: has)
        told = norms.refuses([grad], [variable])
        assert told == "not all variables are on a GPU"


@pytest.mark.parametrize(
    ("variables", "dtypes", "reason"),
    [
        (2, ("float32", "float64"), "not all are on one GPU and of one dtype"),
        (1, ("complex64",), "there is no kernel for complex64"),
        (1, ("float32",), "of Norm_float"),
    ],
)
def test_reasons_against_norms(
    native_ops, monkeypatch, variables, dtypes, reason
):
    monkeypatch.setattr(places, "has_gpus", lambda: True)
    monkeypatch.setattr(devices, "refuses", lambda on, unit: f"of {unit}")
    values = [tf.ones([1], dtype) for dtype in dtypes]
    assert norms.refuses(values, [OnGPU()] * variables) == reason


def test_averages_have_a_kernel_where_some_are_kept():
    opt = keras_legacy_opt.SGD()
    update = Update(tf.Variable([1.0]), is_sparse=True)
    needed = ["Rows", "Sparse_Sgd_float"]
    assert native._units(Step(opt), update) == needed
    opt._averaging = lambda variable: None
    assert native._units(Step(opt), update) == [*needed, "Average_float"]


@pytest.mark.parametrize(
    ("environment", "gpu", "reason"),
    [
        ("0", object(), "the environment variable KERAS_LEGACY_OPT_GPU is 0"),
        ("1", None, "was built without kernels for GPUs"),
        ("1", object(), "there is no /GPU:7 here"),
    ],
)
def test_reasons(native_ops, monkeypatch, environment, gpu, reason):
    monkeypatch.setenv(devices.SWITCH, environment)
    monkeypatch.setattr(native_ops, "gpu", gpu)
    assert reason in devices.refuses(["/GPU:7"], "Dense_Adam_float")


@pytest.mark.parametrize(
    ("has_cuda", "details", "reason"),
    [
        (False, {}, "TensorFlow was built without CUDA"),
        (True, {}, "is no GPU of CUDA"),
        (True, {"compute_capability": (9, 0)}, "0 has no Dense_Adam_float"),
    ],
)
def test_reasons_of_a_gpu(native_ops, monkeypatch, has_cuda, details, reason):
    """One that TensorFlow has."""
    runtime = types.SimpleNamespace(lacks=lambda gpu, u: f"{gpu} has no {u}")
    monkeypatch.setattr(native_ops, "gpu", runtime)
    physical = tf.config.PhysicalDevice("/physical_device:GPU:0", "GPU")
    monkeypatch.setattr(devices, "_physical", lambda device: physical)
    monkeypatch.setattr(tf.test, "is_built_with_cuda", lambda: has_cuda)
    monkeypatch.setattr(
        tf.config.experimental, "get_device_details", lambda device: details
    )
    told = devices.refuses(["/GPU:0"], "Dense_Adam_float")
    assert reason in told
