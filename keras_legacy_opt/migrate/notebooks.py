"""Notebooks: all code cells of one are a module, whose cells are put back."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from keras_legacy_opt.migrate import codemod

_CELL = "# (a cell of the notebook)\n"
# Of a cell, the rest of which is Python.
_MAGICS_OF_PYTHON = ("capture", "prun", "time", "timeit")
_MAGIC = "#% magic of keras_legacy_opt.migrate "
_IS_MAGIC = re.compile(r"^(\s*)([%!?].*)$", re.MULTILINE)
_IS_HIDDEN = re.compile(rf"^(\s*){re.escape(_MAGIC)}(.*)$", re.MULTILINE)


def rewritten(
    text: str, rewrite: Callable[[str], codemod.Result]
) -> tuple[str, str, codemod.Result]:
    """Rewrites a notebook.

    Args:
      text: of the file.
      rewrite: what rewrites a module.

    Returns:
      The new text, and code to be shown: that of before, and the result.

    Raises:
      ValueError: if it is no notebook.
    """
    notebook = json.loads(text)
    if not isinstance(notebook, dict) or "cells" not in notebook:
        raise ValueError("no notebook of version 4")
    cells = list(filter(_is_python, notebook["cells"]))
    code = _CELL.join(f"{_hidden(_source(cell))}\n" for cell in cells)
    result = rewrite(code)
    shown = codemod.Result(_shown(result.code), result.notes)
    if result.code == code:
        return text, _shown(code), shown
    parts = result.code.split(_CELL)
    for cell, part in zip(cells, parts, strict=True):
        new = _shown(part.removesuffix("\n"))
        if new != _source(cell):
            is_list = isinstance(cell["source"], list)
            cell["source"] = new.splitlines(keepends=True) if is_list else new
    begin = re.match(r"\{\n( *)", text)
    indent = None if begin is None else len(begin[1])
    end = "\n" if text.endswith("\n") else ""
    new_text = json.dumps(notebook, indent=indent, ensure_ascii=False) + end
    return new_text, _shown(code), shown


def _is_python(cell: dict[str, Any]) -> bool:
    magic = re.match(r"%%(\w*)", _source(cell))
    of_python = magic is None or magic[1] in _MAGICS_OF_PYTHON
    return cell.get("cell_type") == "code" and of_python


def _source(cell: dict[str, Any]) -> str:
    source = cell.get("source", "")
    return source if isinstance(source, str) else "".join(source)


def _hidden(code: str) -> str:
    """Code in which lines for the notebook, not for Python, are comments."""
    return _IS_MAGIC.sub(rf"\1{_MAGIC}\2", code)


def _shown(code: str) -> str:
    return _IS_HIDDEN.sub(r"\1\2", code)
