"""Runs the Python code of documents, as their readers would.

python documents.py PAGE FOLDER    runs that of a page, with its copies there.
"""

import doctest
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
_FENCED = re.compile(r"^```(python|pycon)\n(.*?)^```", re.DOTALL | re.MULTILINE)
_FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


class Block(NamedTuple):
    """Code between fences: a program, or a session with its output."""

    line: int
    language: str
    code: str


def blocks(path: Path) -> list[Block]:
    """The Python code of a document."""
    text = path.read_text()
    return [
        Block(text.count("\n", 0, match.start(2)), match[1], match[2])
        for match in _FENCED.finditer(text)
    ]


def run(page: Path, parts: Iterable[Block], folder: Path) -> None:
    """Runs blocks one after the other, in one namespace.

    Args:
      page: the document, for messages.
      parts: its blocks.
      folder: where copies of programs are put: `tf.function` reads them.

    Raises:
      AssertionError: if a session prints something else than it shows.
    """
    names: dict[str, Any] = {"__name__": page.stem}
    for block in parts:
        if block.language == "pycon":
            _compare(page, block, names)
            continue
        copy = folder / f"{page.stem}_{block.line}.py"
        copy.write_text("\n" * block.line + block.code)
        exec(compile(copy.read_text(), str(copy), "exec"), names)


def _compare(page: Path, block: Block, names: dict[str, Any]) -> None:
    test = doctest.DocTestParser().get_doctest(
        block.code, names, page.stem, str(page), block.line
    )
    test.globs = names
    report: list[str] = []
    runner = doctest.DocTestRunner(verbose=False, optionflags=_FLAGS)
    runner.run(test, out=report.append, clear_globs=False)
    assert not runner.failures, "".join(report)


if __name__ == "__main__":
    page, folder = map(Path, sys.argv[1:])
    os.chdir(folder)
    run(page, blocks(page), folder)
