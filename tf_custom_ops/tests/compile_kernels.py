#!/usr/bin/env python3
"""Compiles the GPU's kernels, without a GPU, and reads what they need.

For several architectures, by NVRTC, which `pip install nvidia-cuda-nvrtc-cu12
nvidia-cuda-nvrtc` brings.  Fails where a kernel does not compile, or needs
local memory: what does not fit into registers.  Each kernel is compiled for one
of the architectures, which take turns; with `--all`, for all of them.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import ctypes
import importlib.util
import itertools
import os
import pathlib
import re
import sys
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parent.parent
ARCHITECTURES = (70, 80, 90, 100)
DTYPES = {"float": "float", "double": "double", "half": "Half"}
DTYPES["bfloat16"] = "Bfloat16"
# No contraction to fused multiply-adds: the bits are those of the CPU's ops.
OPTIONS = (
    "--std=c++17",
    "--fmad=false",
    "-default-device",
    "--ptxas-options=-v",
    f"--include-path={ROOT}",
)
ROWS = (
    "MakeKeys",
    "CountDigits",
    "ScanDigits",
    "SortDigit",
    "CountHeads",
    "ScanHeads",
    "WriteHeads",
)
_FORMULA = re.compile(r"^KLO_FORMULA\((\w+), (.+)\)$", re.MULTILINE)
# As ptxas reports it.
_FUNCTION = re.compile(
    r"Function properties for (\w+)\n.*?(\d+) bytes stack frame, (\d+) bytes"
    r" spill stores, (\d+) bytes spill loads\n(?:.*?Used (\d+) registers)?"
)


class Failure(Exception):
    """What is wrong, in words."""


class Kernel(NamedTuple):
    """One to compile.

    Attributes:
      header: of its formula.
      symbol: its name.
      definition: the line of C++ that makes it.
    """

    header: str
    symbol: str
    definition: str


class Compiler:
    """One NVRTC.

    Attributes:
      name: with its version.
      architectures: those of ours that it knows.
    """

    def __init__(self, path: pathlib.Path):
        self._library = ctypes.CDLL(str(path))
        major, minor, count = (ctypes.c_int() for _ in range(3))
        self._call("nvrtcVersion", ctypes.byref(major), ctypes.byref(minor))
        self.name = f"NVRTC {major.value}.{minor.value}"
        self._call("nvrtcGetNumSupportedArchs", ctypes.byref(count))
        known = (ctypes.c_int * count.value)()
        self._call("nvrtcGetSupportedArchs", known)
        self.architectures = [a for a in ARCHITECTURES if a in known]

    def _call(self, function: str, *arguments: object) -> None:
        error = getattr(self._library, function)(*arguments)
        if error:
            describe = self._library.nvrtcGetErrorString
            describe.restype = ctypes.c_char_p
            raise Failure(f"{function} fails: {describe(error).decode()}")

    def compile(self, source: str, architecture: int) -> tuple[str, bytes]:
        """Compiles a unit; returns what is reported of it, and the code.

        Raises:
          Failure: if it does not compile; with the errors.
        """
        options = [*OPTIONS, f"--gpu-architecture=sm_{architecture}"]
        texts = (ctypes.c_char_p * len(options))(*map(str.encode, options))
        program = ctypes.c_void_p()
        handle = ctypes.byref(program)
        self._call(
            "nvrtcCreateProgram", handle, source.encode(), None, 0, None, None
        )
        try:
            failed = self._library.nvrtcCompileProgram(
                program, len(options), texts
            )
            report = self._output("ProgramLog", program).decode()
            if failed:
                where = f"{self.name}, sm_{architecture}"
                raise Failure(f"{where}: {report[:4000]}")
            return report, self._output("CUBIN", program)
        finally:
            self._call("nvrtcDestroyProgram", handle)

    def _output(self, what: str, program: ctypes.c_void_p) -> bytes:
        size = ctypes.c_size_t()
        self._call(f"nvrtcGet{what}Size", program, ctypes.byref(size))
        output = ctypes.create_string_buffer(size.value)
        self._call(f"nvrtcGet{what}", program, output)
        return output.raw


def compilers() -> list[Compiler]:
    """The NVRTCs of this Python, and that of the system.

    Raises:
      Failure: if there are none.
    """
    spec = importlib.util.find_spec("nvidia")
    folders = spec.submodule_search_locations if spec else None
    paths = [
        path
        for folder in folders or ()
        for path in sorted(pathlib.Path(folder).glob("*/lib/libnvrtc.so.*"))
    ]
    if not paths:
        raise Failure(
            "There is no NVRTC. `pip install nvidia-cuda-nvrtc-cu12"
            " nvidia-cuda-nvrtc` installs those of CUDA 12 and 13."
        )
    return [Compiler(path) for path in paths]


def kernels() -> Iterator[Kernel]:
    """All kernels: of each formula and dtype, and those without a formula."""
    for path in sorted((ROOT / "math").glob("*.h")):
        text = path.read_text(encoding="utf-8")
        steps = ["Dense"]
        if "Direction(" in text:  # Were that wrong, it would not compile.
            steps = ["Direct", "Scale", "Move"]
        sparse = [f"Sparse{step}".removesuffix("Dense") for step in steps]
        jobs = [("DENSE", job) for job in steps]
        jobs += [("SPARSE", job) for job in sparse]
        for formula, dtype, (macro, job) in itertools.product(
            _FORMULA.findall(text), DTYPES, jobs
        ):
            symbol = f"{job}_{formula[0]}_{dtype}"
            arguments = f"{symbol}, {job}, {formula[1]}, {DTYPES[dtype]}"
            yield Kernel(
                f"math/{path.name}", symbol, f"KLO_{macro}_KERNEL({arguments})"
            )
    others = [(f"Rows_{job}", "ROWS", job) for job in ROWS]
    others += [(f"Average_{d}", "AVERAGE", name) for d, name in DTYPES.items()]
    others += [(f"Finite_{d}", "FINITE", name) for d, name in DTYPES.items()]
    for symbol, macro, argument in others:
        definition = f"KLO_{macro}_KERNEL({symbol}, {argument})"
        header = "gpu/finite.h" if macro == "FINITE" else "gpu/sparse.h"
        yield Kernel(header, symbol, definition)


def source_of(chosen: Sequence[Kernel]) -> str:
    """One unit of some kernels."""
    headers = {"gpu/sparse.h", *(kernel.header for kernel in chosen)}
    return "\n".join(
        [
            *(f'#include "{header}"' for header in sorted(headers)),
            "namespace keras_legacy_opt {",
            *(kernel.definition for kernel in chosen),
            "}",
        ]
    )


def check(symbols: Sequence[str], report: str) -> int:
    """Checks what is reported of some kernels.

    Returns:
      The most registers that a thread of them needs.

    Raises:
      Failure: if one needs local memory, or nothing is said of it.
    """
    found = {name: numbers for name, *numbers in _FUNCTION.findall(report)}
    most = 0
    for symbol in symbols:
        if not found.get(symbol, [""])[-1]:
            raise Failure(f"Nothing is reported of {symbol}: {report[:1000]}")
        *memory, registers = map(int, found[symbol])
        if any(memory):
            raise Failure(
                f"{symbol} needs local memory: a stack frame of {memory[0]}"
                f" bytes, {memory[1]} bytes of stores and {memory[2]} of loads."
            )
        most = max(most, registers)
    return most


def check_the_check(compiler: Compiler) -> None:
    """Checks that local memory is found in a kernel that needs it.

    Raises:
      Failure: if it is not.
    """
    source = """extern "C" __global__ void control(int* at, int i) {
      int values[4096];
      for (int k = 0; k < i; ++k) values[at[k]] = k;
      at[i] = values[at[i]];
    }"""
    report, _ = compiler.compile(source, compiler.architectures[0])
    try:
        check(["control"], report)
    except Failure as failure:
        if "needs local memory" in str(failure):
            return
        raise
    raise Failure(f"Local memory would not be found: {report}")


class Unit(NamedTuple):
    """Kernels that are compiled together."""

    compiler: Compiler
    architecture: int
    kernels: Sequence[Kernel]

    def check(self) -> str:
        """Compiles and checks them; says what was found."""
        start = time.monotonic()
        report, _ = self.compiler.compile(
            source_of(self.kernels), self.architecture
        )
        symbols = [kernel.symbol for kernel in self.kernels]
        try:
            registers = check(symbols, report)
        except Failure as failure:
            raise Failure(
                f"{self.compiler.name}, sm_{self.architecture}: {failure}"
            ) from None
        return (
            f"{self.compiler.name}, sm_{self.architecture}: {len(symbols)}"
            f" kernels, up to {registers} registers, no local memory,"
            f" {time.monotonic() - start:.1f} s"
        )


def units(found: Sequence[Compiler], everything: bool) -> list[Unit]:
    """What to compile for which architecture, of which compiler."""
    targets = [(c, a) for c in found for a in c.architectures]
    every = list(kernels())
    if everything:
        return [
            Unit(*target, list(of_header))
            for target in targets
            for _, of_header in itertools.groupby(every, lambda k: k.header)
        ]
    step = len(targets)
    return [Unit(*target, every[i::step]) for i, target in enumerate(targets)]


def main() -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--all", action="store_true", help="see above")
    everything = parser.parse_args().all
    try:
        found = compilers()
        for compiler in found:
            check_the_check(compiler)
        missing = {*ARCHITECTURES}.difference(*(c.architectures for c in found))
        if missing:
            raise Failure(f"No NVRTC here knows {sorted(missing)}.")
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            for line in pool.map(Unit.check, units(found, everything)):
                print(line, flush=True)
    except Failure as failure:
        print(failure, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
