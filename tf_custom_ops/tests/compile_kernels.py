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
import importlib
import itertools
import os
import pathlib
import re
import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

ROOT = pathlib.Path(__file__).parent.parent
ARCHITECTURES = (70, 80, 90, 100)
# The modules that compile them for users, without the package and TensorFlow.
sys.path.insert(0, str(ROOT.parent / "keras_legacy_opt" / "fused" / "gpu"))
nvrtc = importlib.import_module("nvrtc")
units = importlib.import_module("units")
OPTIONS = (*nvrtc.OPTIONS, "--ptxas-options=-v")
HEADERS = units.headers(ROOT)
# As ptxas reports it.
_FUNCTION = re.compile(
    r"Function properties for (\w+)\n.*?(\d+) bytes stack frame, (\d+) bytes"
    r" spill stores, (\d+) bytes spill loads\n(?:.*?Used (\d+) registers)?"
)


def check(symbols: Sequence[str], report: str) -> int:
    """Checks what is reported of some kernels.

    Returns:
      The most registers that a thread of them needs.

    Raises:
      nvrtc.Failure: if one needs local memory, or nothing is said of it.
    """
    found = {name: numbers for name, *numbers in _FUNCTION.findall(report)}
    most = 0
    for symbol in symbols:
        if not found.get(symbol, [""])[-1]:
            raise nvrtc.Failure(
                f"Nothing is reported of {symbol}: {report[:1000]}"
            )
        *memory, registers = map(int, found[symbol])
        if any(memory):
            raise nvrtc.Failure(
                f"{symbol} needs local memory: a stack frame of {memory[0]}"
                f" bytes, {memory[1]} bytes of stores and {memory[2]} of loads."
            )
        most = max(most, registers)
    return most


def architectures(compiler: Any) -> list[int]:
    """Those of ours that a compiler knows."""
    return [each for each in ARCHITECTURES if each in compiler.known]


def compiled(
    compiler: Any, source: str, architecture: int
) -> tuple[str, bytes]:
    """What `nvrtc` returns, with a report of what the kernels need."""
    return compiler.compile(source, f"sm_{architecture}", OPTIONS)


def check_the_check(compiler: Any) -> None:
    """Checks that local memory is found in a kernel that needs it.

    Raises:
      nvrtc.Failure: if it is not.
    """
    source = """extern "C" __global__ void control(int* at, int i) {
      int values[4096];
      for (int k = 0; k < i; ++k) values[at[k]] = k;
      at[i] = values[at[i]];
    }"""
    report, _ = compiled(compiler, source, architectures(compiler)[0])
    try:
        check(["control"], report)
    except nvrtc.Failure as failure:
        if "needs local memory" in str(failure):
            return
        raise
    raise nvrtc.Failure(f"Local memory would not be found: {report}")


class Unit(NamedTuple):
    """Kernels that are compiled together."""

    compiler: Any
    architecture: int
    kernels: Sequence[Any]

    def check(self) -> str:
        """Compiles and checks them; says what was found."""
        start = time.monotonic()
        source = units.text(HEADERS, self.kernels)
        report, _ = compiled(self.compiler, source, self.architecture)
        symbols = [kernel.symbol for kernel in self.kernels]
        try:
            registers = check(symbols, report)
        except nvrtc.Failure as failure:
            raise nvrtc.Failure(
                f"{self.compiler}, sm_{self.architecture}: {failure}"
            ) from None
        return (
            f"{self.compiler}, sm_{self.architecture}: {len(symbols)}"
            f" kernels, up to {registers} registers, no local memory,"
            f" {time.monotonic() - start:.1f} s"
        )


def chosen_units(found: Sequence[Any], everything: bool) -> list[Unit]:
    """What to compile for which architecture, of which compiler."""
    targets = [(c, a) for c in found for a in architectures(c)]
    every = list(units.kernels(HEADERS))
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
        found = list(nvrtc.find())
        for compiler in found:
            check_the_check(compiler)
        missing = {*ARCHITECTURES}.difference(*map(architectures, found))
        if missing:
            raise nvrtc.Failure(f"No NVRTC here knows {sorted(missing)}.")
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            for line in pool.map(Unit.check, chosen_units(found, everything)):
                print(line, flush=True)
    except nvrtc.Failure as failure:
        print(failure, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
