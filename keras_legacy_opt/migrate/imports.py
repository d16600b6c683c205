"""The imports of a module, divided: some names here, the others there."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import libcst as cst


def dotted(name: str) -> cst.Name | cst.Attribute:
    """The expression that is a dotted name."""
    first, *rest = map(cst.Name, name.split("."))
    return functools.reduce(cst.Attribute, rest, first)


def renamed(alias: cst.ImportAlias, name: str) -> cst.ImportAlias:
    """An alias of the same local name, for another name of a module."""
    changed = alias.with_changes(name=cst.Name(name))
    if alias.asname is None and alias.evaluated_name != name:
        local = cst.AsName(cst.Name(alias.evaluated_name))
        changed = changed.with_changes(asname=local)
    return changed


def part(
    statement: cst.Import | cst.ImportFrom,
    chosen: Sequence[tuple[int, cst.ImportAlias]],
) -> cst.Import | cst.ImportFrom:
    """A statement with some of its aliases, in the same form.

    Args:
      statement: an import, not of `*`.
      chosen: (place in the statement, what is to be there), in order.
    """
    gaps = _gaps(statement)
    places = [-1, *(place for place, _ in chosen), len(gaps) - 1]
    new = [
        _joined(gaps[a + 1], gaps[b], b == a + 1, b == places[-1])
        for a, b in zip(places, places[1:], strict=False)
    ]
    aliases = [
        alias.with_changes(comma=_comma(alias, gap))
        for (_, alias), gap in zip(chosen[:-1], new[1:], strict=False)
    ]
    last, end = chosen[-1][1], new[-1]
    if not isinstance(statement, cst.ImportFrom) or statement.lpar is None:
        last = last.with_changes(comma=cst.MaybeSentinel.DEFAULT)
        return statement.with_changes(names=[*aliases, last])
    assert statement.rpar is not None
    comma = _comma(last, end)
    has_lines = isinstance(comma.whitespace_before, cst.ParenthesizedWhitespace)
    if _ends_with_comma(statement) or has_lines:
        last = last.with_changes(comma=comma)
        end = cst.SimpleWhitespace("")
    else:
        last = last.with_changes(comma=cst.MaybeSentinel.DEFAULT)
    return statement.with_changes(
        names=[*aliases, last],
        lpar=statement.lpar.with_changes(whitespace_after=new[0]),
        rpar=statement.rpar.with_changes(whitespace_before=end),
    )


def _comma(
    alias: cst.ImportAlias, after: cst.BaseParenthesizableWhitespace
) -> cst.Comma:
    """That of an alias, or a new one, with what is before and after it."""
    comma = alias.comma if isinstance(alias.comma, cst.Comma) else cst.Comma()
    return comma.with_changes(whitespace_after=after)


def _gaps(
    statement: cst.Import | cst.ImportFrom,
) -> list[cst.BaseParenthesizableWhitespace]:
    """What is before each name, and after the last: spaces, lines, comments."""
    assert not isinstance(statement.names, cst.ImportStar)
    begin = end = cst.SimpleWhitespace("")
    if isinstance(statement, cst.ImportFrom) and statement.lpar is not None:
        assert statement.rpar is not None
        begin = statement.lpar.whitespace_after
        end = statement.rpar.whitespace_before
    gaps = [begin]
    for alias in statement.names:
        if isinstance(alias.comma, cst.Comma):
            gaps.append(alias.comma.whitespace_after)
    return gaps if _ends_with_comma(statement) else [*gaps, end]


def _ends_with_comma(statement: cst.Import | cst.ImportFrom) -> bool:
    assert not isinstance(statement.names, cst.ImportStar)
    return isinstance(statement.names[-1].comma, cst.Comma)


def _joined(
    first: cst.BaseParenthesizableWhitespace,
    second: cst.BaseParenthesizableWhitespace,
    are_one: bool,
    is_end: bool,
) -> cst.BaseParenthesizableWhitespace:
    """A gap in which names are left out: what belongs to the others stays.

    That is the comment in the line of the name before, and the lines of
    comments over the name after.
    """
    if are_one:
        return second
    if isinstance(second, cst.ParenthesizedWhitespace):
        if is_end:  # Its comments are over no name: they stay with the last.
            second = second.with_changes(empty_lines=())
        line = cst.TrailingWhitespace()
        if isinstance(first, cst.ParenthesizedWhitespace):
            line = first.first_line
        return second.with_changes(first_line=line)
    if (
        isinstance(first, cst.ParenthesizedWhitespace)
        and first.first_line.comment is not None
    ):
        return first.with_changes(empty_lines=())
    return second
