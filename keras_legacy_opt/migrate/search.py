"""Finds what names legacy's optimizers in a module."""

from __future__ import annotations

import ast
import dataclasses
import re
from collections.abc import Callable, Iterator
from typing import Any, cast

import libcst as cst
from libcst import helpers, metadata
from libcst import matchers as m

from keras_legacy_opt import legacy_names
from keras_legacy_opt.migrate import advice, names

# What a name for Keras' module may be asked for, if it is one for ours.
_ATTRIBUTES = {*legacy_names.attributes("keras.optimizers"), "schedules"}
_NAMES = {name.lower() for name in legacy_names.OPTIMIZERS}


def _empty(kind: Callable[[], Any]) -> Any:
    return dataclasses.field(default_factory=kind)


@dataclasses.dataclass(frozen=True)
class Found:
    """What is to be rewritten in a module, and to be told of.

    Attributes:
      uses: {node: dotted name in this package, or "" for the package itself}
      strings: names of optimizers that become calls.
      unused: imports all of whose uses are rewritten.
      divided: statements some of whose names come from this package.
      imports: statements that import TensorFlow or a Keras.
      touching: of the uses and strings, those that touch the word before.
      notes: (line, what its author has to look at).
    """

    uses: dict[cst.CSTNode, str] = _empty(dict)
    strings: set[cst.CSTNode] = _empty(set)
    unused: set[cst.ImportAlias] = _empty(set)
    divided: set[cst.ImportFrom] = _empty(set)
    imports: set[cst.CSTNode] = _empty(set)
    touching: set[cst.CSTNode] = _empty(set)
    notes: list[tuple[int, str]] = _empty(list)

    @property
    def is_needed(self) -> bool:
        """Whether there is anything to rewrite."""
        return bool(self.uses or self.strings or self.divided)


def find(code: str) -> tuple[cst.Module, Found]:
    """A module, and what there is to do, before anything is done.

    Raises:
      libcst.ParserSyntaxError: if it is not Python's.
    """
    wrapper = metadata.MetadataWrapper(cst.parse_module(code))
    search = _Search()
    wrapper.visit(search)
    return wrapper.module, search.found


class _Search(cst.CSTVisitor):
    METADATA_DEPENDENCIES = (
        metadata.ParentNodeProvider,
        metadata.PositionProvider,
        metadata.QualifiedNameProvider,
        metadata.ScopeProvider,
    )

    def __init__(self):
        self.found = Found()
        self._roots: set[cst.CSTNode] = set()
        self._lines: list[str] = []
        self._asked_of: dict[str, set[str]] = {}  # {name: its attributes}

    def note(self, node: cst.CSTNode, text: str) -> None:
        position = self.get_metadata(metadata.PositionProvider, node)
        # By its type, it may also be the default that is not used.
        position = cast("metadata.CodeRange", position)
        self.found.notes.append((position.start.line, text))

    def parent_of(self, node: cst.CSTNode) -> cst.CSTNode:
        parent = self.get_metadata(metadata.ParentNodeProvider, node)
        return cast("cst.CSTNode", parent)  # Likewise.

    def full_names(self, node: cst.CSTNode) -> Iterator[str]:
        """The names that an expression has by the imports of the module."""
        found = self.get_metadata(metadata.QualifiedNameProvider, node, set())
        for name in found or ():
            if name.source is metadata.QualifiedNameSource.IMPORT:
                yield name.name

    def visit_Module(self, node: cst.Module) -> None:
        self._lines = re.split(r"\r\n|\r|\n", node.code)
        for found in m.findall(node, m.Attribute(value=m.Name())):
            found = cst.ensure_type(found, cst.Attribute)
            name = cst.ensure_type(found.value, cst.Name).value
            self._asked_of.setdefault(name, set()).add(found.attr.value)

    def visit_Attribute(self, node: cst.Attribute) -> bool:
        parent = self.parent_of(node)
        is_asked = isinstance(parent, cst.Attribute)
        for name in self.full_names(node):
            found = names.meaning(name)
            if found is None and name.endswith(".schedules"):
                if is_asked and parent.value is node:
                    continue  # One that legacy did not have.
                found = "schedules" if names.is_module(name) else None
            if found is not None:
                self._use(node, found)
                return False
            if names.is_other_name(name):
                self.note(node, advice.other_optimizer(name))
                return False
            if names.is_module(name) and not is_asked:
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
            if names.is_module(name):
                self._module(node, parent)

    def _use(self, node: cst.CSTNode, found: str) -> None:
        self.found.uses[node] = found
        self._look_before(node)
        while isinstance(node, cst.Attribute):
            node = node.value
        self._roots.add(node)

    def _look_before(self, node: cst.CSTNode) -> None:
        position = self.get_metadata(metadata.PositionProvider, node)
        start = cast("metadata.CodeRange", position).start
        before = self._lines[start.line - 1][: start.column]
        if re.search(r"\w$", before):
            self.found.touching.add(node)

    def _module(self, node: cst.CSTNode, parent: cst.CSTNode) -> None:
        """A module as a value: it may be given a name, or asked."""
        if isinstance(parent, cst.Assign) and parent.value is node:
            targets = [
                t.target.value
                for t in parent.targets
                if isinstance(t.target, cst.Name)
            ]
            if all(
                self._asked_of.get(n, set()) <= _ATTRIBUTES for n in targets
            ):
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
                self.found.strings.add(value)
                self._look_before(value)
            elif by_name:
                self.note(argument, advice.STRING)

    def visit_Import(self, node: cst.Import) -> None:
        for alias in node.names:
            name = helpers.get_full_name_for_node(alias.name) or ""
            self._imported(node, name)

    def visit_ImportFrom(self, node: cst.ImportFrom) -> None:
        if node.relative or node.module is None:
            return
        module = helpers.get_full_name_for_node(node.module) or ""
        self._imported(node, module)
        if isinstance(node.names, cst.ImportStar):
            if names.is_module(module):
                self.note(node, advice.STAR)
            return
        for alias in node.names:
            name = f"{module}.{alias.evaluated_name}"
            if names.meaning(name) is not None:
                self.found.divided.add(node)
            elif names.is_module(module) and not names.is_module(name):
                self.note(alias, advice.other_optimizer(name))
            for text in advice.of_import(name):
                self.note(alias, text)

    def _imported(self, node: cst.CSTNode, module: str) -> None:
        if module.partition(".")[0] in ("keras", "tensorflow"):
            self.found.imports.add(node)

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
        aliases = getattr(statement, "names", ())
        for alias in () if isinstance(aliases, cst.ImportStar) else aliases:
            bound = alias.evaluated_alias or alias.evaluated_name
            is_dotted = alias.asname is None and "." in bound
            if bound == assignment.name and not is_dotted:
                full = full_name(statement, alias)
                if full is not None and names.is_module(full):
                    self.found.unused.add(alias)


def full_name(statement: cst.CSTNode, alias: cst.ImportAlias) -> str | None:
    """The full name of what an import imports."""
    if isinstance(statement, cst.Import):
        return alias.evaluated_name
    if isinstance(statement, cst.ImportFrom) and statement.module is not None:
        module = helpers.get_full_name_for_node(statement.module)
        return f"{module}.{alias.evaluated_name}"
    return None
