"""Which kernels there are, and the texts that a compiler makes them of.

This module needs nothing of the package: programs that do without TensorFlow
read it, too.
"""

from __future__ import annotations

import functools
import itertools
import json
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

DTYPES = {
    "float": "float",
    "double": "double",
    "half": "Half",
    "bfloat16": "Bfloat16",
}
# Of the dtypes of TensorFlow.
NAMES = {
    "float32": "float",
    "float64": "double",
    "float16": "half",
    "bfloat16": "bfloat16",
}
ROWS = (
    "MakeKeys",
    "CountDigits",
    "Scan",
    "SortDigit",
    "CountHeads",
    "WriteHeads",
)
_FORMULA = re.compile(r"^KLO_FORMULA\((\w+), (.+)\)$", re.MULTILINE)
_INCLUDE = re.compile(r'^#include "(.+)"$', re.MULTILINE)


class Kernel(NamedTuple):
    """One to compile.

    Attributes:
      symbol: its name.
      unit: the name of those that are compiled and loaded together.
      header: of its formula.
      definition: the line of C++ that makes it.
    """

    symbol: str
    unit: str
    header: str
    definition: str


def headers(root: pathlib.Path) -> dict[str, str]:
    """The texts of all headers that kernels are made of, by their paths.

    Args:
      root: the folder of the C++ sources.
    """
    found: dict[str, str] = {}
    left = [f"math/{path.name}" for path in sorted(root.glob("math/*.h"))]
    left += ["gpu/sparse.h", "gpu/finite.h", "gpu/norm.h"]
    while left:
        path = left.pop()
        if path not in found:
            found[path] = (root / path).read_text(encoding="utf-8")
            left += _included(path, found[path])
    return dict(sorted(found.items()))


def embedded(of: Mapping[str, str]) -> str:
    """The C++ that puts headers into a library.

    Args:
      of: what `headers` returns.
    """
    return (
        'extern "C" __attribute__((visibility("default")))'
        " const char* keras_legacy_opt_gpu_sources() {\n"
        f'  return R"KLO({json.dumps(of)})KLO";\n'
        "}\n"
    )


def kernels(of: Mapping[str, str]) -> Iterator[Kernel]:
    """All kernels: of each formula and dtype, and those without a formula.

    Args:
      of: what `headers` returns.
    """
    for path, text in of.items():
        steps = ["Dense"]
        if "Direction(" in text:  # Were that wrong, it would not compile.
            steps = ["Direct", "Scale", "Move"]
        sparse = [f"Sparse{step}".removesuffix("Dense") for step in steps]
        jobs = [("DENSE", "Dense", job) for job in steps]
        jobs += [("SPARSE", "Sparse", job) for job in sparse]
        for (formula, functor), dtype, (macro, unit, job) in itertools.product(
            _FORMULA.findall(text), DTYPES, jobs
        ):
            symbol = f"{job}_{formula}_{dtype}"
            arguments = f"{symbol}, {job}, {functor}, {DTYPES[dtype]}"
            yield Kernel(
                symbol,
                f"{unit}_{formula}_{dtype}",
                path,
                f"KLO_{macro}_KERNEL({arguments})",
            )
    yield from _without_formula()


def _without_formula() -> Iterator[Kernel]:
    for job in ROWS:
        symbol = f"Rows_{job}"
        definition = f"KLO_ROWS_KERNEL({symbol}, {job})"
        yield Kernel(symbol, "Rows", "gpu/sparse.h", definition)
    for name, header in (
        ("Average", "sparse"),
        ("Finite", "finite"),
        ("Norm", "norm"),
    ):
        for dtype, element in DTYPES.items():
            symbol = f"{name}_{dtype}"
            definition = f"KLO_{name.upper()}_KERNEL({symbol}, {element})"
            yield Kernel(symbol, symbol, f"gpu/{header}.h", definition)


def text(of: Mapping[str, str], chosen: Iterable[Kernel]) -> str:
    """The source of some kernels, which includes no other file.

    Args:
      of: what `headers` returns.
      chosen: the kernels.
    """
    chosen = list(chosen)
    parts, done = [], set()
    for path in sorted({"gpu/sparse.h", *(each.header for each in chosen)}):
        _append(path, of, parts, done)
    definitions = "\n".join(each.definition for each in chosen)
    parts.append(f"namespace keras_legacy_opt {{\n{definitions}\n}}\n")
    return "".join(parts)


def _append(
    path: str, of: Mapping[str, str], parts: list[str], done: set[str]
) -> None:
    """Appends a header, after those that it includes."""
    if path in done:
        return
    done.add(path)
    for needed in _included(path, of[path]):
        _append(needed, of, parts, done)
    # Without the includes, every line keeps its number.
    parts.append(f'#line 1 "{path}"\n{_INCLUDE.sub("", of[path])}')


@functools.cache
def _included(path: str, content: str) -> tuple[str, ...]:
    """The headers that one includes, as paths like its own."""
    folder = pathlib.PurePosixPath(path).parent
    paths = []
    for name in _INCLUDE.findall(content):
        parts: list[str] = []
        for part in (folder / name).parts:
            parts = parts[:-1] if part == ".." else [*parts, part]
        paths.append("/".join(parts))
    return tuple(paths)
