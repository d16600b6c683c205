"""Rewrites what a search has found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import libcst as cst

from keras_legacy_opt.migrate import imports, names, place, search
from keras_legacy_opt.migrate.names import PACKAGE

_Block = TypeVar("_Block", cst.IndentedBlock, cst.Module)
_Simple = cst.SimpleStatementLine | cst.SimpleStatementSuite


def rewritten(module: cst.Module, found: search.Found) -> cst.Module:
    """A module with this package's names where legacy's were found."""
    return module.visit(_Rewrite(found, module))


class _Rewrite(cst.CSTTransformer):
    def __init__(self, found: search.Found, module: cst.Module):
        self._found = found
        self._name, self._place = PACKAGE, None
        self._removed: set[cst.CSTNode] = set()
        users = {*found.uses, *found.strings}
        if users:
            known = place.known_name(module, users)
            if known is not None and known not in found.bound:
                self._name = known
            else:
                self._place = place.of_import(module, found.imports, users)
                while self._name in found.bound:
                    self._name += "_"

    def leave_Attribute(
        self, original_node: cst.Attribute, updated_node: cst.Attribute
    ) -> cst.BaseExpression:
        return self._replaced(original_node, updated_node)

    def leave_Name(
        self, original_node: cst.Name, updated_node: cst.Name
    ) -> cst.BaseExpression:
        return self._replaced(original_node, updated_node)

    def _replaced(
        self, original: cst.CSTNode, updated: cst.BaseExpression
    ) -> cst.BaseExpression:
        found = self._found.uses.get(original)
        if found is None:
            return updated
        path = f"{self._name}.{found}" if found else self._name
        return self._expression(path, original, updated)

    def leave_SimpleString(
        self, original_node: cst.SimpleString, updated_node: cst.SimpleString
    ) -> cst.BaseExpression:
        if original_node not in self._found.strings:
            return updated_node
        code = f"{self._name}.get({original_node.value})"
        return self._expression(code, original_node, updated_node)

    def _expression(
        self, code: str, original: cst.CSTNode, updated: cst.BaseExpression
    ) -> cst.BaseExpression:
        """What stands for an expression, apart from the word before it."""
        if original in self._found.touching:
            code = f"({code})"
        new = cst.parse_expression(code)
        return new.with_changes(
            lpar=[*updated.lpar, *new.lpar], rpar=[*new.rpar, *updated.rpar]
        )

    def leave_SimpleStatementLine(
        self,
        original_node: cst.SimpleStatementLine,
        updated_node: cst.SimpleStatementLine,
    ) -> cst.BaseStatement | cst.FlattenSentinel | cst.RemovalSentinel:
        bodies = self._bodies(original_node, updated_node)
        rows = [[statement] for statement in bodies[0]]
        if len(bodies) > 1:
            row = _in_one_line(updated_node, bodies)
            rows = [row] if row else []
        is_before = self._place == (original_node.body[0], True)
        is_after = self._place == (original_node.body[-1], False)
        if rows == [list(updated_node.body)] and not (is_before or is_after):
            return updated_node
        above, own = (), updated_node.leading_lines
        if is_before:
            above, own = _divided(own)
        lines = [cst.SimpleStatementLine(row) for row in rows]
        if lines:
            trailing = updated_node.trailing_whitespace
            lines[0] = lines[0].with_changes(
                leading_lines=own, trailing_whitespace=trailing
            )
            own = ()
        if is_before:
            lines.insert(0, self._import_of_package(above))
        if is_after:
            lines.append(self._import_of_package(own))
        if not lines and any(line.comment for line in own):
            lines.append(self._only_comments(own))
        return cst.FlattenSentinel(lines) if lines else cst.RemoveFromParent()

    def leave_SimpleStatementSuite(
        self,
        original_node: cst.SimpleStatementSuite,
        updated_node: cst.SimpleStatementSuite,
    ) -> cst.SimpleStatementSuite:
        bodies = self._bodies(original_node, updated_node)
        body = _in_one_line(updated_node, bodies)
        return updated_node.with_changes(body=body or [cst.Pass()])

    def leave_IndentedBlock(
        self, original_node: cst.IndentedBlock, updated_node: cst.IndentedBlock
    ) -> cst.IndentedBlock:
        block = self._with_comments_moved(updated_node)
        if block.body:
            return block
        return block.with_changes(body=[cst.SimpleStatementLine([cst.Pass()])])

    def leave_Module(
        self, original_node: cst.Module, updated_node: cst.Module
    ) -> cst.Module:
        return self._with_comments_moved(updated_node)

    def _import_of_package(
        self, leading: Sequence[cst.EmptyLine] = ()
    ) -> cst.SimpleStatementLine:
        """The statement under these lines."""
        alias = cst.ImportAlias(cst.Name(PACKAGE))
        if self._name != PACKAGE:
            asname = cst.AsName(cst.Name(self._name))
            alias = alias.with_changes(asname=asname)
        return cst.SimpleStatementLine([cst.Import([alias])], leading)

    def _only_comments(
        self, lines: Sequence[cst.EmptyLine]
    ) -> cst.SimpleStatementLine:
        """What stands for a statement that is removed, for what is over it."""
        line = cst.SimpleStatementLine([cst.Pass()], lines)
        self._removed.add(line)
        return line

    def _with_comments_moved(self, block: _Block) -> _Block:
        """A block in which that is over the next statement, or at the end."""
        body, waiting = [], []
        for statement in block.body:
            if statement in self._removed:
                waiting += getattr(statement, "leading_lines", ())
                continue
            if waiting:
                lines = [*waiting, *getattr(statement, "leading_lines", ())]
                statement = statement.with_changes(leading_lines=lines)
                waiting = []
            body.append(statement)
        return block.with_changes(body=body, footer=[*waiting, *block.footer])

    def _bodies(
        self, original: _Simple, updated: _Simple
    ) -> list[list[cst.BaseSmallStatement]]:
        """What each of the statements becomes, and the import between them."""
        first, last = original.body[0], original.body[-1]
        bodies = []
        for before, after in zip(original.body, updated.body, strict=True):
            bodies.append(self._statements(before, after))
            if self._place == (before, True) and before is not first:
                bodies[-1].insert(0, self._import_of_package().body[0])
            if self._place == (before, False) and before is not last:
                bodies[-1].extend(self._import_of_package().body)
        return bodies

    def _statements(
        self, original: cst.BaseSmallStatement, updated: cst.BaseSmallStatement
    ) -> list[cst.BaseSmallStatement]:
        if not isinstance(original, (cst.Import, cst.ImportFrom)):
            return [updated]
        if isinstance(original.names, cst.ImportStar):
            return [updated]
        kept, moved = [], {}
        for index, alias in enumerate(original.names):
            full = search.full_name(original, alias) or ""
            meaning = (
                names.meaning(full) if original in self._found.divided else None
            )
            if meaning is not None:
                path, _, name = f"{PACKAGE}.{meaning}".rpartition(".")
                moved.setdefault(path, []).append(
                    (index, imports.renamed(alias, name))
                )
            elif alias in self._found.shortened:
                root = full.partition(".")[0]
                kept.append((index, alias.with_changes(name=cst.Name(root))))
            elif alias not in self._found.unused:
                kept.append((index, alias))
        if [alias for _, alias in kept] == list(original.names):
            return [updated]
        result: list[cst.BaseSmallStatement] = []
        if kept:
            result.append(imports.part(original, kept))
        for module, aliases in moved.items():
            new = imports.part(original, aliases)
            result.append(new.with_changes(module=imports.dotted(module)))
        return result

    def on_leave(
        self, original_node: cst.CSTNode, updated_node: cst.CSTNode
    ) -> Any:
        result: Any = super().on_leave(original_node, updated_node)
        if not isinstance(original_node, cst.BaseCompoundStatement):
            return result
        if self._place is None or self._place.node is not original_node:
            return result
        if not self._place.is_before:
            return cst.FlattenSentinel([result, self._import_of_package()])
        above, own = _divided(result.leading_lines)
        result = result.with_changes(leading_lines=own)
        return cst.FlattenSentinel([self._import_of_package(above), result])


def _divided(
    lines: Sequence[cst.EmptyLine],
) -> tuple[Sequence[cst.EmptyLine], Sequence[cst.EmptyLine]]:
    """The lines over a statement: all to the last empty one, and the rest."""
    end = len(lines)
    while end and lines[end - 1].comment is not None:
        end -= 1
    return lines[:end], lines[end:]


def _in_one_line(
    line: _Simple, bodies: Sequence[Sequence[cst.BaseSmallStatement]]
) -> list[cst.BaseSmallStatement]:
    """All statements, with the semicolons of those that they stand for."""
    result = []
    for before, body in zip(line.body, bodies, strict=True):
        for statement in body:
            is_last = statement is body[-1]
            semicolon = (
                before.semicolon if is_last else cst.MaybeSentinel.DEFAULT
            )
            result.append(statement.with_changes(semicolon=semicolon))
    if result:
        last = line.body[-1].semicolon
        result[-1] = result[-1].with_changes(semicolon=last)
    return result
