"""Kernels are found on devices, compiled once, and kept where it is safe.

There is neither a GPU nor its compiler: stand-ins of both are asked by the
C++ and the Python that ask the real ones. What happens to calls and memory is
tested by tf_custom_ops/tests/driver.cc.
"""

import ctypes
import json
import os
import pathlib
import stat
import subprocess
import sys
import threading

import pytest

from keras_legacy_opt.fused import build, library
from keras_legacy_opt.fused.gpu import compiler as compilers
from keras_legacy_opt.fused.gpu import cubins, nvrtc, runtime, units

PROCESS = pathlib.Path(__file__).parent / "gpu_process.py"
STRANGER = 54321  # a user that nothing belongs to
DRIVER = 12090  # of CUDA 12.9
SYMBOL = "Dense_Sgd_float"
# What the stand-in of NVRTC makes of it.
CODE = b"FAKE sm_90 Dense_Sgd_float .\0"

HEADERS = units.headers(library.sources())


def make_library(path, *arguments):
    command = [build.find_compiler(), "-std=c++17", "-shared", "-fPIC", "-O0"]
    tests = library.sources() / "tests"
    arguments = [f"-I{tests}", *arguments, "-o", str(path), "-ldl", "-pthread"]
    subprocess.run([*command, *arguments], check=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Of the stand-ins, and of a library that has nothing but the runtime."""
    folder = tmp_path_factory.mktemp("gpu")
    tests = library.sources() / "tests"
    chosen = [k for k in units.kernels(HEADERS) if k.symbol == SYMBOL]
    unit = folder / "unit.cc"
    unit.write_text(units.text(HEADERS, chosen))
    driver = f'-DKLO_UNIT="{unit}"', str(tests / "fake_driver.cc")
    make_library(folder / "libcuda.so.1", "-ffp-contract=off", *driver)
    make_library(folder / "libnvrtc.so.12", str(tests / "fake_nvrtc.cc"))
    gpu = build._gpu_file(folder)
    make_library(folder / "with_gpu.so", "-fvisibility=hidden", str(gpu))
    (folder / "empty.cc").touch()
    make_library(folder / "without_gpu.so", str(folder / "empty.cc"))
    return folder


@pytest.fixture
def fake(folder, tmp_path, monkeypatch):
    """What the only NVRTC was told, by line; the cache is empty."""
    log = tmp_path / "log"
    log.touch()
    monkeypatch.setattr(
        nvrtc, "_paths", lambda: [str(folder / "libnvrtc.so.12")]
    )
    nvrtc.load.cache_clear()
    monkeypatch.setenv("FAKE_NVRTC_LOG", str(log))
    monkeypatch.setenv("KERAS_LEGACY_OPT_CACHE", str(tmp_path / "cache"))
    yield lambda: log.read_text().splitlines()
    nvrtc.load.cache_clear()


@pytest.fixture
def started(folder, tmp_path, fake):
    """A function that starts a process; it returns what that has printed."""

    def start(
        scenario,
        *symbols,
        library="with_gpu.so",
        compiler=folder / "libnvrtc.so.12",
        driver=True,
        **more,
    ):
        command = [sys.executable, PROCESS, folder / library]
        command += [compiler, scenario, *symbols]
        # A file that is no library hides what this machine may have.
        (tmp_path / "libcuda.so.1").touch()
        drivers = str(folder if driver else tmp_path)
        return subprocess.Popen(
            list(map(str, command)),
            env={**os.environ, "LD_LIBRARY_PATH": drivers, **more},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def output(*arguments, **more):
        process = start(*arguments, **more)
        out, err = process.communicate(timeout=100)
        assert process.returncode == 0, err
        return out.splitlines(), err

    output.start = start
    return output


def new():
    """The compiler of a process that has just begun."""
    return compilers.Compiler(lambda: json.dumps(HEADERS).encode())


def code_of(compiler, symbol=SYMBOL, capability=90, driver=DRIVER):
    return compiler.code(symbol, capability, driver)[1]


def kept():
    return sorted((library.user_cache() / "kernels").iterdir())


# Kernels and devices.


def test_all_kernels_are_in_the_library(folder):
    sources = ctypes.CDLL(folder / "with_gpu.so").keras_legacy_opt_gpu_sources
    sources.restype = ctypes.c_char_p
    assert json.loads(sources()) == HEADERS
    kernels = list(units.kernels(HEADERS))
    symbols = [kernel.symbol for kernel in kernels]
    assert len(set(symbols)) == len(symbols) > 400
    of_lamb = {k.symbol for k in kernels if k.unit == "Dense_Lamb_half"}
    assert of_lamb == {
        f"{job}_Lamb_half" for job in ("Direct", "Scale", "Move")
    }
    assert {f"Rows_{job}" for job in units.ROWS} == {
        kernel.symbol for kernel in kernels if kernel.unit == "Rows"
    }


@pytest.mark.processes
def test_a_kernel_is_compiled_loaded_and_kept(started, fake):
    for told in (1, 0):
        lines, err = started("find", SYMBOL, SYMBOL, "Dense_Nothing_float")
        assert lines == [
            *(2 * [f"{SYMBOL}: found"]),
            "Dense_Nothing_float: there is no kernel Dense_Nothing_float",
        ]
        assert err.count("are compiled for compute capability") == told
        assert err.count("\n") == told
    (told,) = fake()
    assert told.split() == [*nvrtc.OPTIONS, "--gpu-architecture=sm_90"]
    assert "--fmad=false" in told


@pytest.mark.processes
def test_many_threads_and_processes_ask_at_once(started, fake):
    processes = [started.start("in_threads", SYMBOL) for _ in range(4)]
    for process in processes:
        out, err = process.communicate(timeout=100)
        assert not process.returncode, err
        lines = ["device: found", *(4 * [f"{SYMBOL}: found"])]
        assert out.splitlines() == lines
    assert 1 <= len(fake()) <= 4
    (file,) = kept()
    assert file.read_bytes().endswith(CODE)


REFUSALS = {
    "no driver": ({"driver": False}, "there is no driver of a GPU ("),
    "no device": ({"FAKE_CUDA_DEVICES": "0"}, "no CUDA-capable device"),
    "too old": ({"FAKE_CUDA_CAPABILITY": "70"}, "compute capability 7.0 and"),
    "errors": ({"FAKE_NVRTC_FAIL": "error: good"}, "sm_90: error: good"),
    "no load": ({"FAKE_CUDA_FAIL": "cuModuleLoadData=200"}, "image is invalid"),
}


@pytest.mark.processes
@pytest.mark.parametrize("case", REFUSALS)
def test_why_there_is_no_kernel_is_told(started, case):
    changes, reason = REFUSALS[case]
    ((line,), _) = started("find", SYMBOL, **changes)
    assert line.startswith(SYMBOL)
    assert reason in line


@pytest.mark.processes
def test_an_interrupt_is_no_reason_against_a_kernel(started):
    lines, _ = started("interrupted", SYMBOL)
    assert lines == ["interrupted", f"{SYMBOL}: found"]


@pytest.mark.processes
def test_a_forked_child_hangs_on_nothing(started):
    """It has the GPU if the parent had not asked for one."""
    (before, after, parent), _ = started("forked", SYMBOL)
    assert before == parent == f"{SYMBOL}: found"
    assert "this process was forked from one that had asked" in after


@pytest.mark.processes
def test_after_python_nobody_compiles(started):
    lines, _ = started("at_the_end", SYMBOL)
    assert "nobody is there to compile" in lines[0]


def test_the_library_of_tensorflows_ops_has_one(native_ops):
    handle = ctypes.CDLL(native_ops.path)
    handle.keras_legacy_opt_gpu_sources.restype = ctypes.c_char_p
    assert json.loads(handle.keras_legacy_opt_gpu_sources()) == HEADERS
    assert native_ops.gpu.why_not(-1)  # Of no machine is that a GPU.


@pytest.mark.processes
def test_a_library_without_gpu_has_no_runtime(folder, started):
    assert runtime.of(ctypes.CDLL(folder / "without_gpu.so")) is None
    lines, _ = started("find", library="without_gpu.so")
    assert lines == ["without GPU"]


# Which compiler.


def test_the_compiler_that_knows_the_device(fake, monkeypatch):
    def choose(capability, driver, version="12.9"):
        monkeypatch.setenv("FAKE_NVRTC_VERSION", version)
        nvrtc.load.cache_clear()
        compiler, target = nvrtc.choose(capability, driver)
        return str(compiler), target

    assert choose(90, 12040) == ("NVRTC 12.9", "sm_90")
    # PTX of the newest that it knows, for a driver that reads it.
    assert choose(120, 12090) == ("NVRTC 12.9", "compute_90")
    assert choose(86, 13000) == ("NVRTC 12.9", "compute_80")
    for capability, driver, version in (
        (120, 12080, "12.9"),
        (70, 12090, "12.9"),
        (90, 12090, "13.0"),
    ):
        with pytest.raises(nvrtc.Failure) as why:
            choose(capability, driver, version)
        text = str(why.value)
        assert f"capability {nvrtc.in_words(capability)}" in text
        assert f"CUDA 12.{driver % 100 // 10}" in text
        assert f"NVRTC {version} (compute capabilities 8.0 to 9.0)" in text


def test_where_a_compiler_is_looked_for(tmp_path, monkeypatch):
    for name in ("cuda_nvrtc", "cu13"):
        (tmp_path / "nvidia" / name / "lib").mkdir(parents=True)
        (tmp_path / "nvidia" / name / "lib" / "libnvrtc.so.99").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(nvrtc, "_SONAMES", ("libnvrtc.so.99",))
    first, *paths = nvrtc._paths()
    assert first == "libnvrtc.so.99"
    ours = [path for path in paths if path.startswith(str(tmp_path))]
    assert [pathlib.Path(path).parts[-3] for path in sorted(ours)] == [
        "cu13",
        "cuda_nvrtc",
    ]
    monkeypatch.setattr(nvrtc, "_paths", lambda: [first, *ours])
    with pytest.raises(nvrtc.Failure, match="there is no NVRTC") as why:
        list(nvrtc.find())
    assert "pip install nvidia-cuda-nvrtc" in str(why.value)


@pytest.mark.parametrize(
    ("setting", "error", "is_final"),
    [
        ({"FAKE_NVRTC_FAIL": "error: good"}, nvrtc.Failure, True),
        ({"FAKE_NVRTC_ERROR": "5"}, nvrtc.Failure, True),
        ({"FAKE_NVRTC_ERROR": "1"}, MemoryError, False),
    ],
)
def test_refusals_are_final_and_accidents_are_not(
    fake, monkeypatch, setting, error, is_final
):
    compiler = new()
    with monkeypatch.context() as context:
        for name, value in setting.items():
            context.setenv(name, value)
        for _ in range(2):
            with pytest.raises(error):
                code_of(compiler)
    assert len(fake()) == (1 if is_final else 2)
    if is_final:
        with pytest.raises(error):
            code_of(compiler)
    else:
        assert code_of(compiler) == CODE
    assert code_of(new()) == CODE


# The cache.


def test_what_is_kept_is_not_compiled_again(fake):
    before = os.umask(0)
    try:
        assert code_of(new()) == CODE
    finally:
        os.umask(before)
    assert code_of(new()) == CODE
    assert len(fake()) == 1
    (file,) = kept()
    assert file.name.startswith("Dense_Sgd_float-sm_90-")
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o755


def test_everything_that_changes_code_has_its_own(fake, monkeypatch):
    paths = {
        cubins.path_of("unit", target, compiler, source)
        for target in ("sm_80", "sm_90")
        for compiler in ("NVRTC 12.8 -a", "NVRTC 12.9 -a", "NVRTC 12.9 -b")
        for source in ("text", "another")
    }
    assert len(paths) == 12
    assert code_of(new()) == CODE
    code_of(new(), capability=80)
    monkeypatch.setenv("FAKE_NVRTC_VERSION", "12.8")
    nvrtc.load.cache_clear()
    code_of(new())
    assert len(kept()) == len(fake()) == 3


def test_threads_wait_for_the_first(fake):
    compiler, codes = new(), []
    threads = [
        threading.Thread(target=lambda: codes.append(code_of(compiler)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == [CODE] * 8
    assert len(fake()) == 1


def _flip(path):
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def _replace(path, make):
    path.unlink()
    make(path)


def _of_a_stranger(path):
    os.chown(path, STRANGER, -1)


# What happens to a file, and whether that is told: it may be an attack.
HARMS = {
    "gone": (pathlib.Path.unlink, False),
    "empty": (lambda path: path.write_bytes(b""), False),
    "truncated": (lambda path: os.truncate(path, 40), False),
    "changed": (_flip, False),
    "a pipe": (lambda path: _replace(path, os.mkfifo), False),
    "others may write": (lambda path: path.chmod(0o666), True),
    "a folder of all": (lambda path: path.parent.chmod(0o777), True),
}
if os.geteuid() == 0:
    HARMS["foreign"] = _of_a_stranger, True
    HARMS["foreign folder"] = lambda path: _of_a_stranger(path.parent), True


@pytest.mark.parametrize("harm", HARMS)
def test_what_is_not_as_it_was_is_compiled(fake, caplog, harm):
    code_of(new())
    (file,) = kept()
    do, is_told = HARMS[harm]
    do(file)
    compiler = new()
    assert code_of(compiler) == CODE
    assert code_of(compiler) == CODE
    assert len(fake()) == 2
    assert ("are compiled, because" in caplog.text) == is_told
    if "folder" not in harm:  # The file is as it was again.
        caplog.clear()
        assert code_of(new()) == CODE
        assert len(fake()) == 2
        assert not caplog.records


def test_a_link_that_others_could_write_is_not_followed(fake, tmp_path):
    code_of(new())
    (file,) = kept()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(file.read_bytes())
    elsewhere.chmod(0o666)
    _replace(file, lambda path: path.symlink_to(elsewhere))
    assert code_of(new()) == CODE
    assert len(fake()) == 2
    assert not file.is_symlink()
    assert elsewhere.stat().st_mode & 0o666 == 0o666


def test_a_folder_in_the_place_of_a_file(fake, caplog):
    code_of(new())
    (file,) = kept()
    _replace(file, pathlib.Path.mkdir)
    assert code_of(new()) == CODE
    assert "are not kept, because" in caplog.text
    assert kept() == [file]  # and nothing beside it


CACHES = {
    "read-only": "/proc/nothing",
    "no folder": "/dev/null",
    "below none": "/dev/null/below",
}


@pytest.mark.parametrize("cache", CACHES)
def test_a_cache_that_cannot_be_written(fake, caplog, monkeypatch, cache):
    monkeypatch.setenv("KERAS_LEGACY_OPT_CACHE", CACHES[cache])
    compiler = new()
    assert code_of(compiler) == code_of(compiler) == CODE
    code_of(compiler, capability=80)
    assert len(fake()) == 2
    assert caplog.text.count("are not kept, because") == 1


def test_a_full_disk(fake, caplog, monkeypatch):
    def full(*_):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "replace", full)
    assert code_of(new()) == CODE
    assert "No space left" in caplog.text
    assert not kept()


def test_without_a_home(fake, caplog, monkeypatch):
    for name in library._PLACES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(library, "_home", lambda: None)
    compiler = new()
    assert code_of(compiler) == code_of(compiler) == CODE
    assert len(fake()) == 1
    assert caplog.text.count("there is no home folder") == 1


def test_it_is_said_once_that_kernels_are_compiled(fake, caplog, tmp_path):
    """Where nobody has asked for more than absl shows."""
    compiler = new()
    for symbol in (SYMBOL, "Dense_Adam_float"):
        code_of(compiler, symbol)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "compute capability 9.0 by NVRTC 12.9" in record.getMessage()
    assert str(tmp_path / "cache" / "kernels") in record.getMessage()


# NVIDIA's compiler, which `pip install ".[kernels]"` brings.


def nvidias():
    """The compilers, by the CUDA of the drivers that they are for."""
    try:
        return {each.version[0]: each for each in nvrtc.find()}
    except nvrtc.Failure:
        return {}


NVIDIAS = nvidias()


@pytest.mark.skipif(
    not NVIDIAS, reason='`pip install ".[kernels]"` brings NVRTC'
)
@pytest.mark.parametrize("major", NVIDIAS)
def test_nvidias_compiler(tmp_path, monkeypatch, major):
    monkeypatch.setenv("KERAS_LEGACY_OPT_CACHE", str(tmp_path))
    driver = major * 1000 + 990
    for capability in (70, 80, 90, 100)[major > 12 :]:
        code = code_of(new(), SYMBOL, capability, driver)
        assert code.startswith(b"\x7fELF")
        assert f"{SYMBOL}\0".encode() in code
        assert code_of(new(), SYMBOL, capability, driver) == code
    newer = code_of(new(), SYMBOL, 199, driver)
    assert f".entry {SYMBOL}".encode() in newer


@pytest.mark.skipif(
    not NVIDIAS, reason='`pip install ".[kernels]"` brings NVRTC'
)
@pytest.mark.parametrize("major", NVIDIAS)
@pytest.mark.processes
def test_nvidias_compiler_is_asked_by_the_library(started, folder, major):
    """With a driver in the process, which NVRTC looks for."""
    (lines, _) = started(
        *("find", SYMBOL),
        compiler=NVIDIAS[major].path,
        FAKE_CUDA_VERSION=f"{major}990",
    )
    assert lines == [f"{SYMBOL}: found"]
    (file,) = kept()
    assert f"{SYMBOL}\0".encode() in file.read_bytes()


# How long it takes to compile them is about proportional.
MOST_LINES_OF_PTX = {
    "Rows": 1200,
    "Sparse_Adam_float": 650,
    "Sparse_Lamb_float": 1450,
}


@pytest.mark.skipif(
    not NVIDIAS, reason='`pip install ".[kernels]"` brings NVRTC'
)
@pytest.mark.parametrize("major", NVIDIAS)
@pytest.mark.parametrize("unit", MOST_LINES_OF_PTX)
def test_first_steps_compile_no_copies_of_loops(major, unit):
    chosen = [k for k in units.kernels(HEADERS) if k.unit == unit]
    source = units.text(HEADERS, chosen)
    _, ptx = NVIDIAS[major].compile(source, "compute_80")
    assert len(ptx.splitlines()) < MOST_LINES_OF_PTX[unit]
