"""The optimizer in a call of `compile`: what is a name there, or may be one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import libcst as cst
from libcst import matchers as m
from libcst import metadata

from keras_legacy_opt import legacy_names
from keras_legacy_opt.migrate import names

_NAMES = {name.lower() for name in legacy_names.OPTIMIZERS}
# What returns a string, where it is not known what it is asked of.
_STRINGS_METHODS = m.OneOf(
    *map(m.Name, ("get", "pop", "setdefault")),
    *map(m.Name, ("capitalize", "format", "lower", "strip", "title", "upper")),
)
_RETURNS_STRING = m.OneOf(
    m.Attribute(attr=_STRINGS_METHODS), m.Name("getattr"), m.Name("str")
)
_LITERAL = (cst.Dict, cst.List, cst.Set, cst.Tuple)


class Module(Protocol):
    """What a search knows of the module that it is in."""

    def parent_of(self, node: cst.CSTNode) -> cst.CSTNode:
        """The node around a node."""
        ...

    def full_names(self, node: cst.CSTNode) -> list[str]:
        """What an expression is by the imports."""
        ...

    def assignments_of(self, node: cst.Name) -> Iterable[metadata.Assignment]:
        """Where a name may get its value."""
        ...

    def values_of(self, attribute: str) -> Sequence[cst.BaseExpression]:
        """What attributes of this name are set to."""
        ...


def optimizer_in(call: cst.Call, first: int = 0) -> cst.Arg | None:
    """The optimizer among the arguments of `compile`.

    Args:
      call: of a method.
      first: the place of its first argument: 1 if the model is given, too.
    """
    for argument in call.args:
        if argument.keyword is not None:
            if argument.keyword.value == "optimizer":
                return argument
    positional = []
    for argument in call.args:
        if argument.keyword is not None or argument.star:
            break
        positional.append(argument)
    return positional[first] if len(positional) > first else None


def strings_in(value: cst.BaseExpression) -> Iterator[cst.SimpleString]:
    """The names of optimizers that an expression is, perhaps conditionally."""
    for branch in _branches(value):
        if isinstance(branch, cst.SimpleString) and _is_name(branch):
            yield branch


def may_be_name(call: cst.Call, value: cst.BaseExpression, of: Module) -> bool:
    """Whether what `compile` gets may be a name that is not `strings_in` it."""
    is_own = m.Attribute(attr=m.Name("optimizer"))
    for branch in _branches(value):
        if isinstance(branch, cst.SimpleString):
            continue
        if m.matches(branch, is_own) and m.matches(call.func, m.Attribute()):
            model = cst.ensure_type(call.func, cst.Attribute).value
            if cst.ensure_type(branch, cst.Attribute).value.deep_equals(model):
                continue  # That of the model itself.
        if isinstance(branch, cst.Dict) or _may_be_name(branch, of, set()):
            return True
    return False


def _branches(value: cst.BaseExpression) -> Iterator[cst.BaseExpression]:
    if isinstance(value, cst.IfExp):
        yield from _branches(value.body)
        yield from _branches(value.orelse)
    elif isinstance(value, cst.BooleanOperation):
        yield from _branches(value.left)
        yield from _branches(value.right)
    else:
        yield value


def _is_name(value: cst.SimpleString | cst.ConcatenatedString) -> bool:
    return str(value.evaluated_value).lower() in _NAMES


def _may_be_name(
    value: cst.BaseExpression, of: Module, seen: set[cst.CSTNode]
) -> bool:
    """Whether an expression, wherever it is, may be a name of an optimizer.

    Args:
      value: the expression.
      of: its module.
      seen: expressions that need not be looked at again.
    """
    if value in seen:
        return False
    seen.add(value)
    branches = list(_branches(value))
    if branches != [value]:
        return any(_may_be_name(branch, of, seen) for branch in branches)
    if isinstance(value, (cst.SimpleString, cst.ConcatenatedString)):
        return _is_name(value)
    if isinstance(value, cst.Name):
        assignments = of.assignments_of(value)
        return any(_is_assigned(each, value, of, seen) for each in assignments)
    if isinstance(value, (cst.Attribute, cst.Call)):
        if any(names.is_of_known(name) for name in _names_of(value, of)):
            return False
    if isinstance(value, cst.Attribute):
        values = of.values_of(value.attr.value)
        found = (_may_be_name(each, of, seen) for each in values)
        return any(found) if values else True
    if isinstance(value, cst.Subscript):
        return _is_in_one(value.value, of, seen)
    if isinstance(value, cst.Call):
        return _is_returned(value)
    if isinstance(value, cst.NamedExpr):
        return _may_be_name(value.value, of, seen)
    return isinstance(value, (cst.FormattedString, cst.BinaryOperation))


def _names_of(value: cst.Attribute | cst.Call, of: Module) -> list[str]:
    return of.full_names(value.func if isinstance(value, cst.Call) else value)


def _is_returned(call: cst.Call) -> bool:
    """Whether a function returns a string, or is to choose among names."""
    if m.matches(call.func, _RETURNS_STRING):
        return True
    return any(
        _is_name(cst.ensure_type(string, cst.SimpleString))
        for argument in call.args
        if argument.keyword is None or argument.keyword.value != "name"
        for string in m.findall(argument, m.SimpleString())
    )


def _is_in_one(
    values: cst.BaseExpression, of: Module, seen: set[cst.CSTNode]
) -> bool:
    """Whether what is in a list or dictionary may be a name."""
    literals: list[cst.BaseExpression | None] = [values]
    if isinstance(values, cst.Name):
        assignments = of.assignments_of(values)
        literals = [_assigned(each, of) for each in assignments]
    for literal in literals or [None]:
        if not isinstance(literal, _LITERAL):
            return True
        for element in literal.elements:
            if _may_be_name(element.value, of, seen):
                return True
    return False


def _is_assigned(
    assignment: metadata.Assignment,
    name: cst.Name,
    of: Module,
    seen: set[cst.CSTNode],
) -> bool:
    """Whether a name may get the name of an optimizer where it is assigned."""
    if isinstance(assignment, metadata.ImportAssignment):
        return not any(map(names.is_of_known, of.full_names(name)))
    if isinstance(assignment.node, cst.Param):
        return _is_passed(assignment.node)
    target = of.parent_of(assignment.node)
    if isinstance(target, (cst.For, cst.CompFor)):
        return _is_in_one(target.iter, of, seen)
    if isinstance(target, cst.Element):  # Of several targets.
        while isinstance(target, (cst.Element, cst.List, cst.Tuple)):
            target = of.parent_of(target)
        if isinstance(target, (cst.For, cst.CompFor)):
            return True
        value = value_of(target, of)
        return isinstance(value, _LITERAL) and _is_in_one(value, of, seen)
    value = value_of(target, of)
    return value is not None and _may_be_name(value, of, seen)


def _assigned(
    assignment: metadata.Assignment, of: Module
) -> cst.BaseExpression | None:
    if not isinstance(assignment.node, cst.Name):
        return None
    return value_of(of.parent_of(assignment.node), of)


def value_of(target: cst.CSTNode, of: Module) -> cst.BaseExpression | None:
    """What a statement, or a part of it, assigns."""
    if isinstance(target, cst.AssignTarget):
        target = of.parent_of(target)
    if isinstance(target, (cst.Assign, cst.AnnAssign, cst.NamedExpr)):
        return target.value
    return None


def _is_passed(parameter: cst.Param) -> bool:
    """Whether a parameter may be a string, by its annotation and default."""
    if parameter.annotation is not None:
        return bool(m.findall(parameter.annotation, m.Name("str")))
    default = parameter.default
    if isinstance(default, cst.SimpleString):
        return _is_name(default)
    return default is None or m.matches(default, m.Name("None"))
