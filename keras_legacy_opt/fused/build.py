"""Compiles the native library for the installed TensorFlow.

`setup.py` and `python -m keras_legacy_opt build` both come here.  TensorFlow
is asked for its paths in a process of its own, so that this module can be used
without importing it.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable

from keras_legacy_opt.fused import library

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
    result = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode:
        last = result.stderr.strip().rpartition("\n")[2]
        raise BuildError(f"TensorFlow cannot be imported: {last}")
    found = json.loads(result.stdout.strip().rpartition("\n")[2])
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
) -> pathlib.Path:
    """Compiles the library, unless it is there already.

    Args:
      folder: where to put the library's own folder; the user cache if `None`.
      report: is told about the progress.
      jobs: how many compilers to run at once; one per processor if `None`.

    Returns:
      The path of the library.

    Raises:
      BuildError: if that is not possible.
    """
    tensorflow = find_tensorflow()
    compiler = find_compiler()
    manifest = library.Manifest(
        tensorflow=tensorflow.version,
        cxx11_abi=tensorflow.cxx11_abi,
        machine=platform.machine(),
        compiler=compiler_version(compiler),
        sources=library.source_hash(),
    )
    target = (folder or library.user_cache()) / manifest.folder
    if (target / library.MANIFEST).is_file():
        report(f"{target / library.LIBRARY} is there already.")
        return target / library.LIBRARY
    report(
        f"Building for TensorFlow {tensorflow.version} with"
        f" {manifest.compiler}. This takes a minute or two."
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        _compile(compiler, tensorflow, pathlib.Path(scratch), report, jobs)
        text = json.dumps(dataclasses.asdict(manifest), indent=2)
        pathlib.Path(scratch, library.MANIFEST).write_text(text + "\n")
        target.mkdir(exist_ok=True)
        # The manifest comes last: what it describes is complete.
        for name in (library.LIBRARY, library.MANIFEST):
            os.replace(pathlib.Path(scratch, name), target / name)
    report(f"Built {target / library.LIBRARY}")
    return target / library.LIBRARY


def _compile(
    compiler: str,
    tensorflow: TensorFlow,
    scratch: pathlib.Path,
    report: Callable[[str], None],
    jobs: int | None,
) -> None:
    units = _units(scratch, jobs or os.cpu_count() or 1)

    def compile_unit(unit: pathlib.Path) -> pathlib.Path:
        output = unit.with_suffix(".o")
        _run(
            [
                compiler,
                *FLAGS,
                *tensorflow.compile_flags,
                # As system headers: their warnings are not ours.
                *("-isystem", tensorflow.include),
                *("-c", str(unit), "-o", str(output)),
            ]
        )
        return output

    with concurrent.futures.ThreadPoolExecutor(len(units)) as pool:
        running = [pool.submit(compile_unit, unit) for unit in units]
        for done, future in enumerate(
            concurrent.futures.as_completed(running), 1
        ):
            future.result()
            report(f"  compiled part {done} of {len(units)}")
    _run(
        [
            compiler,
            "-shared",
            *(str(unit.with_suffix(".o")) for unit in units),
            *("-o", str(scratch / library.LIBRARY)),
            *("-L" + tensorflow.lib, "-l:libtensorflow_framework.so.2"),
        ]
    )


def _units(scratch: pathlib.Path, count: int) -> list[pathlib.Path]:
    """Joins the sources to few files: the headers take most of the time."""
    files = sorted((library.sources() / "ops").glob("*.cc"))
    count = min(count, 4)
    units = []
    for i in range(count):
        unit = scratch / f"unit_{i}.cc"
        lines = [f'#include "{file}"\n' for file in files[i::count]]
        unit.write_text("".join(lines))
        units.append(unit)
    return units


def _run(command: list[str]) -> str:
    try:
        result = subprocess.run(
            command, capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise BuildError(f"{command[0]} cannot be run: {error}") from None
    if result.returncode:
        tail = "\n".join(result.stderr.strip().splitlines()[-20:])
        raise BuildError(f"{' '.join(command)} failed:\n{tail}")
    if result.stderr.strip():
        sys.stderr.write(result.stderr)
    return result.stdout
