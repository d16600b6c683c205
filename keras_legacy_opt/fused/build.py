"""Compiles the native library for the installed TensorFlow.

`setup.py` and `python -m keras_legacy_opt build` both come here.  TensorFlow
is asked for its paths in a process of its own, so that this module can be used
without importing it.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import errno
import json
import os
import pathlib
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping

from keras_legacy_opt.fused import library, trust
from keras_legacy_opt.fused.gpu import units

# Only options that leave IEEE arithmetic as it is: no contraction to fused
# multiply-adds, no reassociation.  `errno` and exception flags are not read.
FLAGS = (
    "-std=c++17",
    "-O3",
    "-fPIC",
    "-fvisibility=hidden",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=off",
    "-Wall",
    "-Wextra",
)
STRIP = ("-s",)  # Names for debuggers are a quarter of a library.
SANITIZE = ("-fsanitize=address", "-fno-omit-frame-pointer", "-g", "-O1")
GPU = ("-DKLO_GPU",)  # with what runs kernels of GPUs
WITHOUT_GPU = "KERAS_LEGACY_OPT_GPU"  # "0": without


class BuildError(RuntimeError):
    """The native library cannot be built; the message says why."""


@dataclasses.dataclass(frozen=True)
class TensorFlow:
    """The TensorFlow to build for."""

    version: str
    include: str
    lib: str
    cxx11_abi: int
    compile_flags: tuple[str, ...]


def find_tensorflow() -> TensorFlow:
    """The TensorFlow of this Python.

    Raises:
      BuildError: if there is none.
    """
    program = (
        "import json, tensorflow as tf; print('\\n' + json.dumps(dict("
        "version=tf.__version__, include=tf.sysconfig.get_include(),"
        "lib=tf.sysconfig.get_lib(), cxx11_abi=tf.sysconfig.CXX11_ABI_FLAG,"
        "compile_flags=tf.sysconfig.get_compile_flags())))"
    )
    try:
        output = _run(
            [sys.executable, "-c", program],
            environment={"TF_CPP_MIN_LOG_LEVEL": "3"},
        )
        found = json.loads(output.strip().rpartition("\n")[2])
    except (BuildError, ValueError) as error:
        raise BuildError(f"TensorFlow cannot be imported: {error}") from None
    flags = tuple(f for f in found.pop("compile_flags") if f.startswith("-D"))
    return TensorFlow(compile_flags=flags, **found)


def find_compiler() -> str:
    """The C++ compiler: $CXX, or the first of g++ and clang++.

    Raises:
      BuildError: if there is none.
    """
    for name in filter(None, (os.environ.get("CXX"), "g++", "clang++")):
        if shutil.which(name):
            return name
    raise BuildError("no C++ compiler was found; install g++ or clang")


def compiler_version(compiler: str) -> str:
    """The name of the compiler and its version, such as `g++ 12.2.0`."""
    name = pathlib.Path(compiler).name
    # clang refuses the one flag; by the other, g++ may tell the major only.
    flag = "-dumpversion" if "clang" in name else "-dumpfullversion"
    return f"{name} {_run([compiler, flag]).strip()}"


def build(
    folder: pathlib.Path | None = None,
    report: Callable[[str], None] = print,
    jobs: int | None = None,
    force: bool = False,
    sanitize: bool = False,
) -> pathlib.Path:
    """Compiles the library, unless it is there already and undamaged.

    Args:
      folder: where to put the library's own folder; the user cache if `None`.
      report: is told about the progress.
      jobs: how many compilers to run at once; one per processor if `None`.
      force: whether to compile it in any case.
      sanitize: whether to compile it with AddressSanitizer, for tests.

    Returns:
      The path of the library.

    Raises:
      BuildError: if that is not possible.
    """
    try:
        parent = _cache(report) if folder is None else folder.absolute()
        return _build(parent, report, jobs, force, sanitize)
    except OSError as error:  # Full disks, those one may not write, ...
        raise BuildError(str(error)) from None


def _cache(report: Callable[[str], None]) -> pathlib.Path:
    """The user cache; libraries in it will be loaded."""
    for name, value in library.ignored_variables().items():
        report(f"{name} is ignored: {value!r} is no absolute path.")
    cache = library.user_cache()
    if cache is None:
        raise BuildError(
            "there is no home folder for it; set KERAS_LEGACY_OPT_CACHE to an"
            " absolute path"
        )
    try:
        trust.check(cache)
    except FileNotFoundError:
        pass  # We make it.
    except trust.Untrusted as why:
        raise BuildError(f"it would not be loaded, because {why}") from None
    return cache


def _build(
    parent: pathlib.Path,
    report: Callable[[str], None],
    jobs: int | None,
    force: bool,
    sanitize: bool,
) -> pathlib.Path:
    tensorflow = find_tensorflow()
    _check_supported(tensorflow)
    compiler = find_compiler()
    wanted = library.Build(
        tensorflow=tensorflow.version,
        cxx11_abi=tensorflow.cxx11_abi,
        machine=platform.machine(),
        compiler=compiler_version(compiler),
        sources=library.source_hash(),
        sanitized=sanitize,
        gpu=os.environ.get(WITHOUT_GPU) != "0",
    )
    target = parent / wanted.folder
    path = target / library.LIBRARY
    if os.path.lexists(target) and not force:
        try:
            _check(target, wanted, parent == library.user_cache())
        except (library.Unusable, trust.Untrusted, OSError) as why:
            report(f"{path} is built anew, because {why}.")
        else:
            report(f"{path} is there already.")
            return path
    report(
        f"Building for TensorFlow {tensorflow.version} with {wanted.compiler}."
        " This takes a minute or two."
    )
    trust.make_folders(parent)
    with tempfile.TemporaryDirectory(dir=parent) as name:
        scratch = pathlib.Path(name)
        flags = [*FLAGS, *(SANITIZE * sanitize), *(GPU * wanted.gpu)]
        _compile([compiler, *flags], tensorflow, scratch, report, jobs)
        new = scratch / "new"
        new.mkdir(trust.MODE)
        os.rename(scratch / library.LIBRARY, new / library.LIBRARY)
        library.Manifest.of(wanted, new).write(new)
        _replace(target, new, scratch / "old")
    report(f"Built {path}")
    return path


def _check_supported(tensorflow: TensorFlow) -> None:
    """Checks that the sources are for this TensorFlow, or may be."""
    # Only now: what it imports comes with TensorFlow.
    from keras_legacy_opt import supported

    oldest = supported.TENSORFLOW.oldest
    if tuple(map(int, tensorflow.version.split(".")[:2])) < oldest:
        raise BuildError(
            f"TensorFlow {tensorflow.version} is too old:"
            f" {supported.TENSORFLOW} is supported"
        )


def _check(folder: pathlib.Path, wanted: library.Build, in_cache: bool) -> None:
    """Checks that a library is in `folder`, and will be loaded from there."""
    if in_cache:
        library.check_trust(folder)
    if library.Manifest.read(folder) != library.Manifest.of(wanted, folder):
        raise library.Unusable("it is damaged")


def _replace(
    target: pathlib.Path, new: pathlib.Path, old: pathlib.Path
) -> None:
    """Puts the folder `new` at `target`: complete, also if the power fails."""
    for file in new.iterdir():
        file.chmod(file.stat().st_mode & trust.MODE)
        _to_disk(file)
    _to_disk(new)
    with contextlib.suppress(FileNotFoundError):
        os.rename(target, old)
    try:
        os.rename(new, target)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
        # Another process has just built the same.
    _to_disk(target.parent)


def _to_disk(path: pathlib.Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _compile(
    command: list[str],
    tensorflow: TensorFlow,
    scratch: pathlib.Path,
    report: Callable[[str], None],
    jobs: int | None,
) -> None:
    """Puts the library into `scratch`."""
    jobs = jobs or os.cpu_count() or 1
    files = _files(scratch, jobs)
    if GPU[0] in command:
        files.append(_gpu_file(scratch))

    def compile_file(file: pathlib.Path) -> pathlib.Path:
        output = file.with_suffix(".o")
        _run(
            [
                *command,
                *tensorflow.compile_flags,
                # As system headers: their warnings are not ours.
                *("-isystem", tensorflow.include),
                *("-c", str(file), "-o", str(output)),
            ],
            report,
        )
        return output

    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        running = [pool.submit(compile_file, file) for file in files]
        for done, future in enumerate(
            concurrent.futures.as_completed(running), 1
        ):
            future.result()
            report(f"  compiled part {done} of {len(files)}")
    _run(
        [
            *command,
            "-shared",
            *(() if SANITIZE[0] in command else STRIP),
            *(str(file.with_suffix(".o")) for file in files),
            *("-o", str(scratch / library.LIBRARY)),
            *("-L" + tensorflow.lib, "-l:libtensorflow_framework.so.2"),
            "-ldl",  # which is a part of glibc since 2.34
        ],
        report,
    )


def _files(scratch: pathlib.Path, count: int) -> list[pathlib.Path]:
    """Joins the sources to few files: the headers take most of the time.

    A formula of `math` registers its ops where it is compiled with them.
    """
    ops = library.sources() / "ops"
    formulas = sorted((library.sources() / "math").glob("*.h"))
    formulas = [each for each in formulas if each.name != "prelude.h"]
    files = sorted([*ops.glob("*.cc"), *formulas])
    count = min(count, 4)
    joined = []
    for i in range(count):
        file = scratch / f"part_{i}.cc"
        chosen = [ops / "registration.h", *files[i::count]]
        lines = [f'#include "{each}"\n' for each in chosen]
        file.write_text("".join(lines))
        joined.append(file)
    return joined


def _gpu_file(scratch: pathlib.Path) -> pathlib.Path:
    """What runs kernels, and the headers that they are compiled from."""
    sources = library.sources()
    file = scratch / "gpu.cc"
    included = [sources / "gpu" / "driver.h", *sources.glob("gpu/*.cc")]
    lines = [f'#include "{each}"\n' for each in included]
    lines.append(units.embedded(units.headers(sources)))
    file.write_text("".join(lines), encoding="utf-8")
    return file


def _run(
    command: list[str],
    report: Callable[[str], None] | None = None,
    environment: Mapping[str, str] | None = None,
) -> str:
    """What a command writes to stdout; `report` is told the rest."""
    try:
        result = subprocess.run(
            command,
            env={**os.environ, **(environment or {})},
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    except OSError as error:
        raise BuildError(f"{command[0]} cannot be run: {error}") from None
    messages = result.stderr.strip()
    if report and messages:
        report(messages)
    if result.returncode:
        # A compiler's first error, or else a Python's last words.
        first = re.search(r".*\berror: .*", messages)
        why = first[0] if first else messages.rpartition("\n")[2]
        if not why and result.returncode < 0:
            why = f"it was stopped by signal {-result.returncode}"
        raise BuildError(
            f"{command[0]} failed: {why or f'exit code {result.returncode}'}"
        )
    return result.stdout
