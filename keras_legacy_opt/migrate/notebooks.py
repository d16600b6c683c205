"""Notebooks: all code cells of one are a module, whose cells are put back."""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

from keras_legacy_opt.migrate import advice, codemod

# Between the cells. What is put before a statement comes after the empty line.
_BREAK = "# (a cell of the notebook)\n\n"
# Of a cell, the rest of which is Python.
_MAGICS_OF_PYTHON = ("capture", "prun", "time", "timeit")
# Lines that are for the notebook, if they are not Python's.
_IS_MAGIC = re.compile(
    r"\s*(?:[%!?/,;].*|[\w\s.,*\[\]()'\"]+=\s*[%!]\s*\w.*|.*\?\s*)"
)
_MAGIC = "#% magic of keras_legacy_opt.migrate "
_IS_HIDDEN = re.compile(
    rf"^([ \t]*)(?:pass  )?{re.escape(_MAGIC)}(.*)$", re.MULTILINE
)


class Notebook(NamedTuple):
    """A notebook after the rewrite.

    Attributes:
      text: that of the file.
      before: the code, to be shown.
      after: what has become of it.
      notes: (cell and line, what the author has to look at).
      left: (cell and line, why the cell is left as it is).
    """

    text: str
    before: str
    after: str
    notes: list[tuple[str, str]]
    left: list[tuple[str, str]]


class _Cell(NamedTuple):
    """A cell whose code is Python.

    Attributes:
      cell: that of the notebook.
      number: of its cells, from 1.
      magic: the first line, if that is for the notebook.
      code: the rest, in which such lines are hidden.
      start: the line of the module at which the code begins, from 1.
    """

    cell: dict[str, Any]
    number: int
    magic: str
    code: str
    start: int

    def place(self, line: int) -> str:
        """A line of the code, from 1, as a place in the notebook."""
        line += self.magic.count("\n")
        return f"cell {self.number}, line {line}"


def rewritten(text: str, rewrite: Callable[[str], codemod.Result]) -> Notebook:
    """Rewrites the cells of a notebook that are Python.

    Args:
      text: of the file.
      rewrite: what rewrites a module.

    Raises:
      ValueError: if it is no notebook.
    """
    notebook = json.loads(text)
    if not isinstance(notebook, dict) or "cells" not in notebook:
        raise ValueError("no notebook of version 4")
    cells, left = _read(notebook)
    code = _BREAK.join(f"{cell.code}\n" for cell in cells)
    result = rewrite(code)
    notes = [_placed(cells, note) for note in [*result.notes, *_magics(code)]]
    before, after = _shown(code), _shown(result.code)
    if result.code == code:
        return Notebook(text, before, after, notes, left)
    parts = result.code.split(_BREAK)
    for cell, part in zip(cells, parts, strict=True):
        if part != f"{cell.code}\n":
            _put(cell.cell, cell.magic + _shown(part.removesuffix("\n")))
    begin = re.match(r"\{\n( *)", text)
    indent = None if begin is None else len(begin[1])
    end = "\n" if text.endswith("\n") else ""
    new_text = json.dumps(notebook, indent=indent, ensure_ascii=False) + end
    return Notebook(new_text, before, after, notes, left)


def _read(
    notebook: dict[str, Any],
) -> tuple[list[_Cell], list[tuple[str, str]]]:
    """The cells that are Python, and (place, reason) of those that are not."""
    cells, left, start = [], [], 1
    for number, each in enumerate(notebook["cells"], start=1):
        if not _is_python(each):
            continue
        magic, code = "", _source(each)
        if code.startswith("%%"):
            magic, end, code = code.partition("\n")
            magic += end
        cell = _Cell(each, number, magic, code, start)
        try:
            cell = cell._replace(code=_hidden(code))
        except (SyntaxError, ValueError) as error:
            line = getattr(error, "lineno", None) or 1
            left.append((cell.place(line), getattr(error, "msg", str(error))))
            continue
        cells.append(cell)
        start += f"{cell.code}\n{_BREAK}".count("\n")
    return cells, left


def _placed(cells: list[_Cell], note: tuple[int, str]) -> tuple[str, str]:
    line, text = note
    cell = next(cell for cell in reversed(cells) if cell.start <= line)
    return cell.place(line - cell.start + 1), text


def _magics(code: str) -> list[tuple[int, str]]:
    """What to look at in lines that are for the notebook."""
    return [
        (number, advice.MAGIC)
        for number, line in enumerate(code.split("\n"), start=1)
        if _IS_HIDDEN.match(line) and re.search(r"optimizers|compile\(", line)
    ]


def _is_python(cell: dict[str, Any]) -> bool:
    magic = re.match(r"%%(\w*)", _source(cell))
    of_python = magic is None or magic[1] in _MAGICS_OF_PYTHON
    return cell.get("cell_type") == "code" and of_python


def _source(cell: dict[str, Any]) -> str:
    source = cell.get("source", "")
    return source if isinstance(source, str) else "".join(source)


def _put(cell: dict[str, Any], source: str) -> None:
    is_list = isinstance(cell["source"], list)
    cell["source"] = source.splitlines(keepends=True) if is_list else source


def _hidden(code: str) -> str:
    """Code in which lines that are for the notebook do nothing.

    They are those at which Python stops, so that none is in a string, or the
    rest of an expression.

    Raises:
      SyntaxError: if it stops at another one.
    """
    lines = code.split("\n")
    while True:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Of the user's strings.
                ast.parse("\n".join(lines))
        except SyntaxError as error:
            index = (error.lineno or 0) - 1
            line = lines[index] if 0 <= index < len(lines) else ""
            if _MAGIC in line or not _IS_MAGIC.fullmatch(line):
                raise
            _hide(lines, index)
        else:
            return "\n".join(lines)


def _hide(lines: list[str], index: int) -> None:
    """Hides a line, and those that go on with it, in place."""
    statement = "pass  "
    goes_on = True
    while goes_on and index < len(lines):
        goes_on = lines[index].endswith("\\")
        code = lines[index].lstrip(" \t")
        indent = lines[index].removesuffix(code)
        lines[index] = f"{indent}{statement}{_MAGIC}{code}"
        statement, index = "", index + 1


def _shown(code: str) -> str:
    return _IS_HIDDEN.sub(r"\1\2", code)
