"""What is rewritten in a module, and what is only told of.

Every expression that means a legacy optimizer, by whatever import, becomes the
same name of this package; imports of single names are divided.
"""

from __future__ import annotations

import builtins
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import libcst as cst

from keras_legacy_opt.migrate import rewrite, search

SyntaxError = cst.ParserSyntaxError
_MISTAKE = "the rewritten code would be wrong, which is a mistake of `migrate`"
_LAYOUT = (
    cst.BaseParenthesizableWhitespace,
    cst.Comma,
    cst.Comment,
    cst.EmptyLine,
    cst.LeftParen,
    cst.Newline,
    cst.RightParen,
    cst.Semicolon,
    cst.TrailingWhitespace,
)


class Result(NamedTuple):
    """A module after the rewrite.

    Attributes:
      code: the new code; that of before where nothing is legacy's.
      notes: (line of the code before, what its author has to look at).
    """

    code: str
    notes: list[tuple[int, str]]


def rewritten(code: str) -> Result:
    """Rewrites a module.

    Raises:
      libcst.ParserSyntaxError: if it is not Python's.
      ValueError: if the code after would not be.
    """
    module, found = search.find(code)
    if found.is_needed:
        module = _changed(module, found)
    return Result(module.code, sorted(set(found.notes)))


def _changed(module: cst.Module, found: search.Found) -> cst.Module:
    """A module with the changes, whose text means what they mean."""
    try:
        changed = rewrite.rewritten(module, found)
    except cst.CSTValidationError as error:
        raise ValueError(f"{_MISTAKE}: {error}") from error
    try:
        read = cst.parse_module(changed.code, module.config_for_parsing)
    except cst.ParserSyntaxError as error:
        raise ValueError(f"{_MISTAKE}: {error}") from error
    if list(_shape(read)) != list(_shape(changed)):
        raise ValueError(f"{_MISTAKE}: it would be read in another way")
    if _compiles(module.code) and not _compiles(changed.code):
        raise ValueError(f"{_MISTAKE}: Python does not compile it")
    return changed


def _shape(node: cst.CSTNode) -> Iterator[tuple[str, Any]]:
    """What a tree means, without layout."""
    value = getattr(node, "value", None)
    yield type(node).__name__, value if isinstance(value, str) else None
    for child in node.children:
        if not isinstance(child, _LAYOUT):
            yield from _shape(child)


def _compiles(code: str) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            compile(code, "<module>", "exec", dont_inherit=True)
        except (builtins.SyntaxError, ValueError):
            return False
    return True
