"""What is rewritten in a module, and what is only told of.

Every expression that means a legacy optimizer, by whatever import, becomes the
same name of this package; imports of single names are divided.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, cast

import libcst as cst
from libcst import helpers, metadata
from libcst import matchers as m

from keras_legacy_opt import legacy_names
from keras_legacy_opt.migrate import advice

SyntaxError = cst.ParserSyntaxError
PACKAGE = "keras_legacy_opt"
_FROM_PACKAGE = (PACKAGE, f"{PACKAGE}.schedules")
# What a name for Keras' module may be asked for, if it is one for ours.
_ATTRIBUTES = {*legacy_names.attributes("keras.optimizers"), "schedules"}
_NAMES = {name.lower() for name in legacy_names.OPTIMIZERS}


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
    """
    wrapper = metadata.MetadataWrapper(cst.parse_module(code))
    search = _Search()
    wrapper.visit(search)
    module = wrapper.module
    if search.is_needed:
        module = module.visit(_Rewrite(search, module))
    return Result(module.code, sorted(set(search.notes)))


def meaning(name: str) -> str | None:
    """What a full name of legacy's is in this package."""
    module, _, attribute = name.rpartition(".")
    return legacy_names.attributes(module).get(attribute)


def _is_module(name: str) -> bool:
    """Whether a full name is that of a module with legacy's optimizers."""
    return bool(legacy_names.attributes(name))


def _is_other_name(name: str) -> bool:
    """Whether a full name is of such a module, but not legacy's."""
    module, _, attribute = name.rpartition(".")
    return (
        _is_module(module)
        and module.endswith((".optimizers", ".schedules"))
        and not _is_module(name)
        and attribute not in ("experimental", "legacy", "schedules")
    )


class _Search(cst.CSTVisitor):
    """Finds what is to be rewritten, before anything is."""

    METADATA_DEPENDENCIES = (
        metadata.ParentNodeProvider,
        metadata.PositionProvider,
        metadata.QualifiedNameProvider,
        metadata.ScopeProvider,
    )

    def __init__(self):
        # {node: dotted name in this package, or "" for the package itself}
        self.uses: dict[cst.CSTNode, str] = {}
        self.strings: set[cst.CSTNode] = set()
        self.unused: set[cst.ImportAlias] = set()
        self.divided: set[cst.ImportFrom] = set()
        self.notes: list[tuple[int, str]] = []
        self.known_as: str | None = None  # How the package is imported.
        self.first_import: cst.CSTNode | None = None
        self._roots: set[cst.CSTNode] = set()
        self._asked_of: dict[str, set[str]] = {}  # {name: its attributes}

    @property
    def is_needed(self) -> bool:
        """Whether there is anything to rewrite."""
        return bool(self.uses or self.strings or self.divided)

    def note(self, node: cst.CSTNode, text: str) -> None:
        position = self.get_metadata(metadata.PositionProvider, node)
        # By its type, it may also be the default that is not used.
        position = cast("metadata.CodeRange", position)
        self.notes.append((position.start.line, text))

    def parent_of(self, node: cst.CSTNode) -> cst.CSTNode:
        parent = self.get_metadata(metadata.ParentNodeProvider, node)
        return cast("cst.CSTNode", parent)  # Likewise.

    def full_names(self, node: cst.CSTNode) -> Iterator[str]:
        """The names that an expression has by the imports of the module."""
        names = self.get_metadata(metadata.QualifiedNameProvider, node, set())
        for name in names or ():
            if name.source is metadata.QualifiedNameSource.IMPORT:
                yield name.name

    def visit_Module(self, node: cst.Module) -> None:
        for found in m.findall(node, m.Attribute(value=m.Name())):
            found = cst.ensure_type(found, cst.Attribute)
            name = cst.ensure_type(found.value, cst.Name).value
            self._asked_of.setdefault(name, set()).add(found.attr.value)

    def visit_Attribute(self, node: cst.Attribute) -> bool:
        parent = self.parent_of(node)
        is_asked = isinstance(parent, cst.Attribute)
        for name in self.full_names(node):
            found = meaning(name)
            if found is None and name.endswith(".schedules"):
                if is_asked and parent.value is node:
                    continue  # One that legacy did not have.
                found = "schedules" if _is_module(name) else None
            if found is not None:
                self._use(node, found)
                return False
            if _is_other_name(name):
                self.note(node, advice.other_optimizer(name))
                return False
            if _is_module(name) and not is_asked:
                self._module(node, parent)
                return False
        return True

    def visit_Name(self, node: cst.Name) -> None:
        parent = self.parent_of(node)
        if isinstance(
            parent, (cst.Attribute, cst.ImportAlias, cst.AsName, cst.NameItem)
        ):
            return
        for name in self.full_names(node):
            if _is_module(name):
                self._module(node, parent)

    def _use(self, node: cst.CSTNode, found: str) -> None:
        self.uses[node] = found
        while isinstance(node, cst.Attribute):
            node = node.value
        self._roots.add(node)

    def _module(self, node: cst.CSTNode, parent: cst.CSTNode) -> None:
        """A module as a value: it may be given a name, or asked."""
        if isinstance(parent, cst.Assign) and parent.value is node:
            names = [
                t.target.value
                for t in parent.targets
                if isinstance(t.target, cst.Name)
            ]
            if all(self._asked_of.get(n, set()) <= _ATTRIBUTES for n in names):
                self._use(node, "")
            else:
                self.note(node, advice.MODULE_AS_VALUE)
        elif isinstance(parent, cst.Arg):
            call = self.parent_of(parent)
            if not m.matches(call, m.Call(func=m.Name("hasattr"))):
                self.note(node, advice.MODULE_AS_VALUE)

    def visit_Call(self, node: cst.Call) -> None:
        for text in advice.of_call(node, set(self.full_names(node.func))):
            self.note(node, text)
        is_compile = m.matches(
            node.func,
            m.Attribute(
                value=~m.OneOf(m.Name("re"), m.Name("regex")),
                attr=m.Name("compile"),
            ),
        )
        for index, argument in enumerate(node.args):
            value = argument.value
            if not isinstance(value, cst.SimpleString):
                continue
            if str(ast.literal_eval(value.value)).lower() not in _NAMES:
                continue
            by_name = advice.is_keyword(argument, "optimizer")
            first = index == 0 and argument.keyword is None
            if is_compile and (by_name or first):
                self.strings.add(value)
            elif by_name:
                self.note(argument, advice.STRING)

    def visit_Import(self, node: cst.Import) -> None:
        for alias in node.names:
            name = helpers.get_full_name_for_node(alias.name) or ""
            if name == PACKAGE:
                self.known_as = alias.evaluated_alias or PACKAGE
            self._imported(node, name)

    def visit_ImportFrom(self, node: cst.ImportFrom) -> None:
        if node.relative or node.module is None:
            return
        module = helpers.get_full_name_for_node(node.module) or ""
        self._imported(node, module)
        if isinstance(node.names, cst.ImportStar):
            if _is_module(module):
                self.note(node, advice.STAR)
            return
        for alias in node.names:
            name = f"{module}.{alias.evaluated_name}"
            if meaning(name) is not None:
                self.divided.add(node)
            elif _is_module(module) and not _is_module(name):
                self.note(alias, advice.other_optimizer(name))
            for text in advice.of_import(name):
                self.note(alias, text)

    def _imported(self, node: cst.CSTNode, module: str) -> None:
        is_relevant = module.partition(".")[0] in ("keras", "tensorflow")
        if is_relevant and self.first_import is None:
            self.first_import = node

    def leave_Module(self, original_node: cst.Module) -> None:
        scopes = set(self.metadata[metadata.ScopeProvider].values())
        for scope in scopes:
            if isinstance(scope, metadata.Scope):
                for assignment in scope.assignments:
                    if isinstance(assignment, metadata.ImportAssignment):
                        self._find_unused(assignment)

    def _find_unused(self, assignment: metadata.ImportAssignment) -> None:
        """Takes note of an import all of whose uses are rewritten."""
        nodes = []
        for access in assignment.references:
            node = access.node
            while isinstance(node, cst.Attribute):
                node = node.value
            nodes.append(node)
        if not nodes or not all(node in self._roots for node in nodes):
            return
        statement = assignment.node
        names = getattr(statement, "names", ())
        for alias in () if isinstance(names, cst.ImportStar) else names:
            bound = alias.evaluated_alias or alias.evaluated_name
            is_dotted = alias.asname is None and "." in bound
            if bound == assignment.name and not is_dotted:
                full = _full_name(statement, alias)
                if full is not None and _is_module(full):
                    self.unused.add(alias)


def _full_name(statement: cst.CSTNode, alias: cst.ImportAlias) -> str | None:
    if isinstance(statement, cst.Import):
        return alias.evaluated_name
    if isinstance(statement, cst.ImportFrom) and statement.module is not None:
        module = helpers.get_full_name_for_node(statement.module)
        return f"{module}.{alias.evaluated_name}"
    return None


class _Rewrite(cst.CSTTransformer):
    """Puts this package's names where a search has found legacy's."""

    def __init__(self, search: _Search, module: cst.Module):
        self._search = search
        self._name = search.known_as or PACKAGE
        uses_name = bool(search.uses or search.strings)
        self._needs_import = uses_name and search.known_as is None
        self._anchor = _anchor(module, search.first_import)

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
        found = self._search.uses.get(original)
        if found is None:
            return updated
        path = f"{self._name}.{found}" if found else self._name
        return cst.parse_expression(path).with_changes(
            lpar=updated.lpar, rpar=updated.rpar
        )

    def leave_SimpleString(
        self, original_node: cst.SimpleString, updated_node: cst.SimpleString
    ) -> cst.BaseExpression:
        if original_node not in self._search.strings:
            return updated_node
        return cst.parse_expression(f"{self._name}.get({original_node.value})")

    def leave_SimpleStatementLine(
        self,
        original_node: cst.SimpleStatementLine,
        updated_node: cst.SimpleStatementLine,
    ) -> cst.BaseStatement | cst.FlattenSentinel | cst.RemovalSentinel:
        statements: list[cst.BaseSmallStatement] = []
        for original, updated in zip(
            original_node.body, updated_node.body, strict=True
        ):
            statements += self._statements(original, updated)
        if list(updated_node.body) == statements:
            return updated_node
        return _lines(updated_node, statements)

    def _statements(
        self, original: cst.BaseSmallStatement, updated: cst.BaseSmallStatement
    ) -> list[cst.BaseSmallStatement]:
        if not isinstance(original, (cst.Import, cst.ImportFrom)):
            return [updated]
        if isinstance(original.names, cst.ImportStar):
            return [updated]
        kept, moved = [], {module: [] for module in _FROM_PACKAGE}
        for alias in original.names:
            full = _full_name(original, alias) or ""
            found = meaning(full) if original in self._search.divided else None
            if found is not None:
                module = PACKAGE
                if found.startswith("schedules."):
                    module, found = f"{PACKAGE}.schedules", found[10:]
                moved[module].append(_renamed(alias, found))
            elif alias not in self._search.unused:
                kept.append(alias)
        if len(kept) == len(original.names):
            return [updated]
        used = {module: names for module, names in moved.items() if names}
        if not kept and len(used) == 1:  # Its form stays, too.
            ((module, names),) = used.items()
            path = _dotted(module)
            return [updated.with_changes(module=path, names=names)]
        result = [updated.with_changes(names=_ended(kept))] if kept else []
        for module, names in used.items():
            result.append(cst.ImportFrom(_dotted(module), _ended(names)))
        return result

    def on_leave(
        self, original_node: cst.CSTNode, updated_node: cst.CSTNode
    ) -> Any:
        result = super().on_leave(original_node, updated_node)
        if not self._needs_import:
            return result
        line = cst.parse_statement(f"import {PACKAGE}\n")
        if original_node is self._anchor:
            if isinstance(result, cst.RemovalSentinel):
                leading = getattr(original_node, "leading_lines", ())
                return line.with_changes(leading_lines=leading)
            lines = (
                result if isinstance(result, cst.FlattenSentinel) else [result]
            )
            return cst.FlattenSentinel([*lines, line])
        if isinstance(result, cst.Module) and self._anchor is None:
            return _with_first(result, line)
        return result


def _dotted(name: str) -> cst.Name | cst.Attribute:
    """The expression that is a dotted name."""
    first, *rest = map(cst.Name, name.split("."))
    return functools.reduce(cst.Attribute, rest, first)


def _renamed(alias: cst.ImportAlias, name: str) -> cst.ImportAlias:
    """An alias of the same local name, for another name of a module."""
    renamed = alias.with_changes(name=cst.Name(name))
    if alias.asname is None and alias.evaluated_name != name:
        local = cst.AsName(cst.Name(alias.evaluated_name))
        renamed = renamed.with_changes(asname=local)
    return renamed


def _ended(aliases: Sequence[cst.ImportAlias]) -> list[cst.ImportAlias]:
    """Some of the aliases of an import, the last of which has no comma."""
    last = aliases[-1].with_changes(comma=cst.MaybeSentinel.DEFAULT)
    return [*aliases[:-1], last]


def _lines(
    line: cst.SimpleStatementLine, statements: Sequence[cst.BaseSmallStatement]
) -> cst.FlattenSentinel | cst.RemovalSentinel:
    """Each statement in a line of its own, comments at the first."""
    if not statements:
        return cst.RemoveFromParent()
    plain = [
        s.with_changes(semicolon=cst.MaybeSentinel.DEFAULT) for s in statements
    ]
    first = line.with_changes(body=[plain[0]])
    return cst.FlattenSentinel(
        [first, *(cst.SimpleStatementLine([s]) for s in plain[1:])]
    )


def _anchor(
    module: cst.Module, found: cst.CSTNode | None
) -> cst.CSTNode | None:
    """The statement of a module that an import is in, outside functions."""
    for statement in module.body:
        if isinstance(statement, (cst.FunctionDef, cst.ClassDef)):
            continue
        if found is not None and _contains(statement, found):
            return statement
    return None


def _contains(node: cst.CSTNode, searched: cst.CSTNode) -> bool:
    return node is searched or any(
        _contains(child, searched) for child in node.children
    )


def _with_first(
    module: cst.Module,
    line: cst.SimpleStatementLine | cst.BaseCompoundStatement,
) -> cst.Module:
    """A module that begins with a statement, after what must be first."""
    body = list(module.body)
    position = 0
    if body and module.get_docstring() is not None:
        position = 1
    while position < len(body) and m.matches(
        body[position],
        m.SimpleStatementLine(body=[m.ImportFrom(module=m.Name("__future__"))]),
    ):
        position += 1
    body.insert(position, line)
    return module.with_changes(body=body)
