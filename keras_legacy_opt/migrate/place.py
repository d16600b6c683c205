"""Where a module gets its import of this package: before what needs it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import NamedTuple

import libcst as cst
from libcst import helpers
from libcst import matchers as m

from keras_legacy_opt.migrate.names import PACKAGE


class Place(NamedTuple):
    """Where a statement is put in.

    Attributes:
      node: a statement of the module outside of others: a small one, of which a
        line may have many, or a compound one.
      is_before: whether it is put before that, or after.
    """

    node: cst.CSTNode
    is_before: bool


def known_name(
    module: cst.Module, users: Collection[cst.CSTNode]
) -> str | None:
    """What a module calls this package before its nodes `users` need it."""
    for part in _parts(module):
        if isinstance(part, cst.Import):
            for alias in part.names:
                if helpers.get_full_name_for_node(alias.name) == PACKAGE:
                    return alias.evaluated_alias or PACKAGE
        if _contains(part, users):
            break
    return None


def of_import(
    module: cst.Module,
    imports: Collection[cst.CSTNode],
    users: Collection[cst.CSTNode],
) -> Place:
    """Where the package has to be imported for `users`.

    That is at one of the `imports` outside of functions, if none of the users
    is before that.
    """
    parts = list(_parts(module))
    first_user = next(i for i, p in enumerate(parts) if _contains(p, users))
    for index, part in enumerate(parts[: first_user + 1]):
        if isinstance(part, (cst.FunctionDef, cst.ClassDef)):
            continue
        if _contains(part, imports):
            return Place(part, is_before=index == first_user)
    start = 1 if module.get_docstring() is not None else 0
    while m.matches(parts[start], m.ImportFrom(module=m.Name("__future__"))):
        start += 1
    return Place(parts[start], is_before=True)


def _parts(module: cst.Module) -> Iterator[cst.CSTNode]:
    """The statements of a module, those of one line each for itself."""
    for statement in module.body:
        if isinstance(statement, cst.SimpleStatementLine):
            yield from statement.body
        else:
            yield statement


def _contains(node: cst.CSTNode, searched: Collection[cst.CSTNode]) -> bool:
    return node in searched or any(
        _contains(child, searched) for child in node.children
    )
