"""`benchmarks/gpu.py`, against a driver that runs its kernels on the CPU."""

import importlib.util
import json
import pathlib
import subprocess
import sys

import pytest

from keras_legacy_opt.fused import build, library

PROGRAM = pathlib.Path(__file__).parents[2] / "benchmarks" / "gpu.py"


@pytest.fixture(scope="module")
def benchmark():
    """The program, as a module."""
    spec = importlib.util.spec_from_file_location("gpu_benchmark", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def driver(benchmark, tmp_path_factory):
    """The path of the driver."""
    folder = tmp_path_factory.mktemp("driver")
    unit = folder / "unit.cc"
    unit.write_text(benchmark.source())
    tests = library.sources() / "tests"
    command = [build.find_compiler(), "-std=c++17", "-shared", "-fPIC", "-O0"]
    command += ["-ffp-contract=off", f'-DKLO_UNIT="{unit}"']
    command += [f"-I{library.sources()}", str(tests / "fake_driver.cc")]
    path = folder / "libfakecuda.so"
    subprocess.run([*command, "-o", str(path), "-ldl"], check=True)
    return path


def run(*arguments):
    return subprocess.run(
        [sys.executable, PROGRAM, *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.processes
def test_results_have_the_bits_of_numpy(driver, benchmark, tmp_path):
    """What is told to kernels is what they read, whatever GPU runs them."""
    (tmp_path / "sm_90.cubin").write_bytes(b"the driver has them")
    results = tmp_path / "results.json"
    done = run(
        *("--quick", "--libcuda", driver, "--kernels", tmp_path),
        *("--json", results),
    )
    assert done.returncode == 0, done.stderr
    for what in ("dense Adam", "sparse Adam", "sparse LazyAdam"):
        assert f"{what}: the bits of NumPy\n" in done.stdout
    measured = json.loads(results.read_text())["results"]
    names = {name.split(",")[0] for name in measured}
    assert names >= {"copy", "sparse Adam", *benchmark.FORMULAS}


@pytest.mark.processes
def test_without_a_driver():
    done = run("--libcuda", "libnothing.so.1")
    assert done.returncode == 1
    assert "There is no driver of a GPU" in done.stderr
