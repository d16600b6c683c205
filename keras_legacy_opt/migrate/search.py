"""Finds what names legacy's optimizers in a module."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import libcst as cst
from libcst import helpers, metadata
from libcst import matchers as m

from keras_legacy_opt.migrate import advice, compiled, names
from keras_legacy_opt.migrate.names import ADDONS, PACKAGE

# Where a module is looked at, and does not get to anybody else.
_LOOKS = m.OneOf(
    m.Comparison(), m.ComparisonTarget(), m.Del(), m.Expr(), m.If(), m.IfExp()
)


def _empty(kind: Callable[[], Any]) -> Any:
    return dataclasses.field(default_factory=kind)


@dataclasses.dataclass(frozen=True)
class Found:
    """What is to be rewritten in a module, and to be told of.

    Attributes:
      uses: {node: dotted name in this package, or "" for the package itself}
      strings: names of optimizers that become calls.
      unused: imports all of whose uses are rewritten.
      shortened: of these, `import a.b` that is to become `import a`.
      divided: statements some of whose names come from this package.
      imports: statements that import TensorFlow or a Keras.
      bound: names that mean something else somewhere, than what is imported.
      touching: of the uses and strings, those that touch the word before.
      notes: (line, what its author has to look at).
    """

    uses: dict[cst.CSTNode, str] = _empty(dict)
    strings: set[cst.CSTNode] = _empty(set)
    unused: set[cst.ImportAlias] = _empty(set)
    shortened: set[cst.ImportAlias] = _empty(set)
    divided: set[cst.ImportFrom] = _empty(set)
    imports: set[cst.CSTNode] = _empty(set)
    bound: set[str] = _empty(set)
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
        metadata.ExpressionContextProvider,
        metadata.ParentNodeProvider,
        metadata.PositionProvider,
        metadata.QualifiedNameProvider,
        metadata.ScopeProvider,
    )

    def __init__(self):
        self.found = Found()
        self._roots: set[cst.CSTNode] = set()
        self._followed: set[cst.CSTNode] = set()  # At the moment.
        self._lines: list[str] = []
        self._asked_of: dict[str, set[str]] = {}  # {name: its attributes}
        # {attribute: what it is set to, of whatever}
        self._values: dict[str, list[cst.BaseExpression]] = {}
        self._exported: set[str] = set()  # The names in `__all__`.

    def note(self, node: cst.CSTNode, text: str) -> None:
        position = self.get_metadata(metadata.PositionProvider, node)
        # By its type, it may also be the default that is not used.
        position = cast("metadata.CodeRange", position)
        self.found.notes.append((position.start.line, text))

    def parent_of(self, node: cst.CSTNode) -> cst.CSTNode:
        parent = self.get_metadata(metadata.ParentNodeProvider, node)
        return cast("cst.CSTNode", parent)  # Likewise.

    def full_names(self, node: cst.CSTNode) -> list[str]:
        """The names that an expression has by the imports of the module."""
        found = self.get_metadata(metadata.QualifiedNameProvider, node, set())
        imported = [
            name.name
            for name in found or ()
            if name.source is metadata.QualifiedNameSource.IMPORT
        ]
        root = _root(node)
        if not isinstance(root, cst.Name) or root in self._followed:
            return sorted(imported)
        self._followed.add(root)
        path = helpers.get_full_name_for_node(node) or root.value
        rest = path.removeprefix(root.value)
        imported += [name + rest for name in self._names_of_alias(root)]
        self._followed.remove(root)
        return sorted(imported)

    def _names_of_alias(self, node: cst.Name) -> Iterator[str]:
        """Those of the module that a name was given to by `name = module`."""
        assignments = list(self.assignments_of(node))
        if len(assignments) != 1 or not isinstance(
            assignments[0].node, cst.Name
        ):
            return
        target = self.parent_of(assignments[0].node)
        value = compiled.value_of(target, self)
        if isinstance(value, (cst.Attribute, cst.Name)):
            for name in self.full_names(value):
                if names.has_modules(name) or (
                    names.is_module(name)
                    and not self._becomes_ours({node.value}, name)
                ):
                    yield name

    def _becomes_ours(self, targets: set[str], module: str) -> bool:
        """Whether names of a module may be of what follows it in ours.

        Not if nothing is asked of them here: that may be done anywhere.
        """
        asked = self._asked_of_any(targets)
        return bool(asked) and asked <= names.askable(module)

    def _asked_of_any(self, targets: set[str]) -> set[str]:
        return set().union(*(self._asked_of.get(t, set()) for t in targets))

    def assignments_of(self, node: cst.Name) -> Iterator[metadata.Assignment]:
        scope = self.get_metadata(metadata.ScopeProvider, node, None)
        if isinstance(scope, metadata.Scope):
            for assignment in scope[node.value]:
                if isinstance(assignment, metadata.Assignment):
                    yield assignment

    def values_of(self, attribute: str) -> list[cst.BaseExpression]:
        return self._values.get(attribute, [])

    def visit_Module(self, node: cst.Module) -> None:
        self._lines = re.split(r"\r\n|\r|\n", node.code)
        for found in m.findall(node, m.Attribute(value=m.Name())):
            found = cst.ensure_type(found, cst.Attribute)
            name = cst.ensure_type(found.value, cst.Name).value
            self._asked_of.setdefault(name, set()).add(found.attr.value)
        for found in m.findall(node, m.Assign() | m.AnnAssign()):
            self._find_assigned(found)

    def _find_assigned(self, node: cst.CSTNode) -> None:
        if isinstance(node, cst.Assign):
            targets = [each.target for each in node.targets]
        else:
            node = cst.ensure_type(node, cst.AnnAssign)
            targets = [node.target]
        for target in targets:
            if isinstance(target, cst.Attribute) and node.value is not None:
                self._values.setdefault(target.attr.value, []).append(
                    node.value
                )
            if m.matches(target, m.Name("__all__")) and node.value is not None:
                for string in m.findall(node.value, m.SimpleString()):
                    string = cst.ensure_type(string, cst.SimpleString)
                    self._exported.add(str(string.evaluated_value))

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
                self._module(node, parent, name)
                return False
        return True

    def visit_Name(self, node: cst.Name) -> None:
        parent = self.parent_of(node)
        context = self.get_metadata(
            metadata.ExpressionContextProvider, node, None
        )
        is_read = context is metadata.ExpressionContext.LOAD
        if not is_read or isinstance(parent, cst.Attribute):
            return
        for name in self.full_names(node):
            if names.is_module(name):
                self._module(node, parent, name)

    def _use(self, node: cst.CSTNode, found: str) -> None:
        self.found.uses[node] = found
        self._look_before(node)
        self._roots.add(_root(node))

    def _look_before(self, node: cst.CSTNode) -> None:
        position = self.get_metadata(metadata.PositionProvider, node)
        start = cast("metadata.CodeRange", position).start
        before = self._lines[start.line - 1][: start.column]
        if re.search(r"\w$", before):
            self.found.touching.add(node)

    def _module(
        self, node: cst.CSTNode, parent: cst.CSTNode, name: str
    ) -> None:
        """A module as a value: it may be given a name, or handed on."""
        is_policy = name.endswith(".mixed_precision")
        targets = _targets(parent) if _value(parent) is node else None
        if targets is not None:
            if self._becomes_ours(targets, name):
                self._use(node, names.successor(name))
                return
            asked = self._asked_of_any(targets)
            is_policy &= not asked & names.attributes(name).keys()
        elif m.matches(parent, _LOOKS):
            return
        elif isinstance(parent, cst.Arg):
            call = self.parent_of(parent)
            if m.matches(call, m.Call(func=m.Name("hasattr"))):
                return
        if not is_policy:
            self.note(node, advice.MODULE_AS_VALUE)

    def visit_Param(self, node: cst.Param) -> None:
        if node.name.value == "optimizer" and node.default is not None:
            if self._is_in_compile(node):
                for _ in compiled.strings_in(node.default):
                    self.note(node, advice.STRING)

    def visit_Call(self, node: cst.Call) -> None:
        for text in advice.of_call(node, set(self.full_names(node.func))):
            self.note(node, text)
        if m.matches(node.func, m.Attribute(attr=m.Name("compile"))):
            if not self._is_compile_of_module(node):
                self._compile(node)
            return
        for argument in node.args:
            if advice.is_keyword(argument, "optimizer"):
                for _ in compiled.strings_in(argument.value):
                    self.note(argument, advice.STRING)

    def _compile(self, node: cst.Call) -> None:
        of = cst.ensure_type(node.func, cst.Attribute).value
        is_unbound = any(map(names.is_of_keras, self.full_names(of)))
        argument = compiled.optimizer_in(node, first=int(is_unbound))
        if argument is not None:
            for string in compiled.strings_in(argument.value):
                self.found.strings.add(string)
                self._look_before(string)
        # What is inside of a `compile` passes on what that gets.
        by_name = any(advice.is_keyword(a, "optimizer") for a in node.args)
        is_about_keras = by_name or bool(self.found.imports)
        if not is_about_keras or self._is_in_compile(node):
            return
        if argument is None:
            text = advice.of_compile_without(node)
            if text is not None:
                self.note(node, text)
        elif compiled.may_be_name(node, argument.value, self):
            self.note(argument, advice.MAYBE_NAME)

    def _is_compile_of_module(self, node: cst.Call) -> bool:
        """Whether it is a function such as `re.compile`."""
        of = cst.ensure_type(node.func, cst.Attribute).value
        if m.matches(of, m.Name("re") | m.Name("regex")):
            return True
        return isinstance(of, cst.Name) and any(
            isinstance(each.node, cst.Import)
            for each in self.assignments_of(of)
        )

    def _is_in_compile(self, node: cst.CSTNode) -> bool:
        while not isinstance(node, cst.Module):
            if m.matches(node, m.FunctionDef(name=m.Name("compile"))):
                return True
            node = self.parent_of(node)
        return False

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

    def _imported(self, node: cst.CSTNode, module: str) -> None:
        if names.is_of_known(module) and not names.is_of(module, PACKAGE):
            self.found.imports.add(node)

    def leave_Module(self, original_node: cst.Module) -> None:
        by_statement: dict[cst.CSTNode, list[metadata.ImportAssignment]] = {}
        for scope in set(self.metadata[metadata.ScopeProvider].values()):
            for assignment in getattr(scope, "assignments", ()):
                if not isinstance(assignment, metadata.ImportAssignment):
                    self.found.bound.add(assignment.name)
                # What is imported in a class may be asked of its instances.
                elif not isinstance(scope, metadata.ClassScope):
                    statement = assignment.node
                    by_statement.setdefault(statement, []).append(assignment)
        for statement, assignments in by_statement.items():
            aliases = getattr(statement, "names", ())
            if not isinstance(aliases, cst.ImportStar):
                for alias in aliases:
                    self._find_unused(statement, alias, assignments)
        for statement in self.found.imports:
            self._note_addons(statement)

    def _find_unused(
        self,
        statement: cst.CSTNode,
        alias: cst.ImportAlias,
        assignments: Sequence[metadata.ImportAssignment],
    ) -> None:
        """Takes note of an import all of whose uses are rewritten."""
        bound = alias.evaluated_alias or alias.evaluated_name
        full = full_name(statement, alias) or ""
        is_dotted = alias.asname is None and "." in bound
        roots = [
            _root(access.node)
            for assignment in assignments
            if f"{bound}.".startswith(f"{assignment.name}.")
            and (not is_dotted or names.is_gone(assignment.name))
            for access in assignment.references
        ]
        if not roots or not self._roots.issuperset(roots):
            return
        if bound in self._exported:
            return
        if is_dotted and names.is_gone(full) and not names.is_of(full, ADDONS):
            self.found.shortened.add(alias)
        elif names.is_of(full, ADDONS):
            self.found.unused.add(alias)
        elif names.is_module(full) and not is_dotted:
            self.found.unused.add(alias)

    def _note_addons(self, statement: cst.CSTNode) -> None:
        """Tells of what is imported from tensorflow_addons, and is not ours."""
        aliases = getattr(statement, "names", ())
        for alias in () if isinstance(aliases, cst.ImportStar) else aliases:
            full = full_name(statement, alias) or ""
            stays = alias not in self.found.unused and not names.meaning(full)
            if names.is_of(full, ADDONS) and stays:
                self.note(alias, advice.ADDONS)


def _value(node: cst.CSTNode) -> cst.CSTNode | None:
    """What an assignment assigns."""
    if isinstance(node, (cst.Assign, cst.NamedExpr)):
        return node.value
    return None


def _targets(node: cst.CSTNode) -> set[str] | None:
    """The names that it is assigned to; None if to anything else, too."""
    if isinstance(node, cst.NamedExpr):
        targets = [node.target]
    else:
        node = cst.ensure_type(node, cst.Assign)
        targets = [target.target for target in node.targets]
    found = {t.value for t in targets if isinstance(t, cst.Name)}
    return found if len(found) == len(targets) else None


def _root(node: cst.CSTNode) -> cst.CSTNode:
    """The name that a dotted one begins with."""
    while isinstance(node, cst.Attribute):
        node = node.value
    return node


def full_name(statement: cst.CSTNode, alias: cst.ImportAlias) -> str | None:
    """The full name of what an import imports."""
    if isinstance(statement, cst.Import):
        return alias.evaluated_name
    if isinstance(statement, cst.ImportFrom) and statement.module is not None:
        module = helpers.get_full_name_for_node(statement.module)
        return f"{module}.{alias.evaluated_name}"
    return None
