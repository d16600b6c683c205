"""Groups: one handle for all variables and slots that an op updates.

Every input of an op costs microseconds, more than the update of a small
variable: Python converts it, a function hands it on, the kernel looks it up.
A group is one input.  What TensorFlow derives from an op's inputs, it is told
here: the order of reads and updates in functions, and what a SavedModel holds.
"""

from __future__ import annotations

import functools
import itertools
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf
from absl import logging

from keras_legacy_opt import private_api
from keras_legacy_opt.fused import loader, places

# By the identities of the members' handles, which a group keeps alive.
_groups: weakref.WeakValueDictionary[tuple[int, ...], tf.Tensor] = (
    weakref.WeakValueDictionary()
)


def group_of(ops: Any, *lists: Sequence[tf.Variable]) -> tf.Tensor | None:
    """The handle of the group of these variables, made eagerly.

    Args:
      ops: the native ops.
      *lists: the variables, then each slot of all of them; on one device.

    Returns:
      None for variables of a TF1 graph or of a strategy's replicas, for those
      that TensorFlow has not created yet or that are arguments of the function
      being traced, and where groups cannot `connect`.
    """
    members = list(itertools.chain(*lists))
    if not connect() or not all(map(_is_eager, members)):
        return None
    handles = [variable.handle for variable in members]
    if _arguments_among(handles, private_api.arguments_of_functions()):
        return None
    try:
        return _group_of_replica(ops, members)
    except tf.errors.FailedPreconditionError:
        return None


def _group_of_replica(ops: Any, members: Sequence[tf.Variable]) -> tf.Tensor:
    """The group of `members`, or of what stands for them in this replica."""
    handles = tuple(variable.handle for variable in members)
    key = tuple(map(id, handles))
    group = _groups.get(key)
    if group is None:
        with tf.init_scope(), tf.device(handles[0].device):
            group = ops.variable_group(handles)
        private_api.describe_members(group, handles)
        group.members = handles
        group.variables = [weakref.ref(variable) for variable in members]
        _groups[key] = group
    return group


def _is_eager(variable: tf.Variable) -> bool:
    # In this order: outside its replicas, a distributed one has no handle.
    return not (
        _is_distributed(variable) or tf.is_symbolic_tensor(variable.handle)
    )


def _is_distributed(variable: tf.Variable) -> bool:
    primary = private_api.primary_variable(variable)
    return isinstance(primary, tf.distribute.DistributedValues)


def _arguments_among(
    handles: Sequence[tf.Tensor], arguments: Sequence[tf.Tensor]
) -> list[int]:
    """The positions of `handles` that are among `arguments`."""
    ids = set(map(id, arguments))
    return (
        [i for i, handle in enumerate(handles) if id(handle) in ids]
        if ids
        else []
    )


def _check_captured(group: tf.Tensor, arguments: Sequence[tf.Tensor]) -> None:
    """Raises ValueError if a member of a captured `group` is an argument.

    The function that updates the group was traced before, and would update the
    variable of that trace, whichever the argument is.
    """
    among = _arguments_among(group.members, arguments)
    if among:
        variable = group.variables[among[0]]()
        raise ValueError(
            f"Variable {getattr(variable, 'name', '?')!r} is an argument of the"
            " function being traced, which calls another function that updates"
            " it and was traced before: its updates would go to this variable"
            " whatever the argument. Pass the variable to the inner function,"
            " too, or let both take it from outside."
        )


def _members(group: tf.Tensor) -> Sequence[tf.Tensor]:
    return getattr(group, "members", ())


class VariableGroup(tf.saved_model.experimental.TrackableResource):
    """A group in a SavedModel, which names its members by their numbers.

    Args:
      group: its handle; `None` if each replica of a strategy has a group of its
        own, as of the variables that are loaded in the strategy's scope.
      variables: the members.
    """

    def __init__(
        self, group: tf.Tensor | None, variables: Sequence[tf.Variable]
    ):
        super().__init__()
        self.dtype = tf.resource
        self._resource_handle = group
        self._variables = list(variables)

    @property
    def is_distributed_variable(self) -> bool:
        """Whether TensorFlow is to ask for the `handle` in each replica."""
        return self._resource_handle is None

    @property
    def handle(self) -> tf.Tensor:
        """The handle of the group of this replica."""
        return _group_of_replica(_native_ops(), self._variables)

    def __tf_experimental_restore_capture__(
        self, function: Any, placeholder: tf.Tensor
    ) -> VariableGroup:
        private_api.capture_as(function, self, placeholder)
        return self

    def _create_resource(self) -> tf.Tensor:
        handles = [variable.handle for variable in self._variables]
        return _native_ops().variable_group(handles)

    def _deserialization_dependencies(
        self, children: Mapping[str, Any]
    ) -> dict[str, Any]:
        # Slots may not be children of anything but their optimizer.
        del children
        return {str(i): variable for i, variable in enumerate(self._variables)}

    def _export_to_saved_model_graph(
        self, object_map: Any, tensor_map: Any, **kwargs: Any
    ) -> list[Any]:
        del kwargs
        handles = [object_map[variable].handle for variable in self._variables]
        captured = (
            self if self.is_distributed_variable else self._resource_handle
        )
        tensor_map[captured] = _native_ops().variable_group(handles)
        return [captured]

    @classmethod
    def _deserialize_from_proto(
        cls, dependencies: Mapping[Any, Any], **kwargs: Any
    ) -> VariableGroup:
        del kwargs
        count = sum(str(key).isdecimal() for key in dependencies)
        variables = [dependencies[str(i)] for i in range(count)]
        ops, group = _native_ops(), None
        eager = tf.compat.v1.executing_eagerly_outside_functions()
        if eager and places.kind_of(variables) is not None:
            if any(map(_is_distributed, variables)):
                return cls(None, variables)
            group = group_of(ops, variables)
        if group is None:
            raise NotImplementedError(
                "This SavedModel contains a training step of keras_legacy_opt"
                f" that updates {variables[0].name!r}, and cannot be loaded in"
                " a TF1 graph, nor where its variables are on a parameter"
                " server, or on different devices. Save it in"
                " `keras_legacy_opt.fused.disabled()` for that."
            )
        return cls(group, variables)


def _native_ops() -> Any:
    ops = loader.load()
    if ops is None:
        raise RuntimeError(
            "A training step that uses keras_legacy_opt's native library can"
            f" only be saved or loaded with it: {loader.why_not()}."
        )
    return ops


def _exported(group: Any) -> VariableGroup | None:
    """What stands for a captured `group` in a SavedModel."""
    if isinstance(group, VariableGroup):
        return group
    if not _members(group):
        return None
    known = getattr(group, "_parent_trackable", lambda: None)()
    if known is None:
        variables = [
            private_api.primary_variable(reference())
            for reference in group.variables
        ]
        if any(variable is None for variable in variables):
            return None
        known = VariableGroup(group, variables)
    return known


@functools.cache
def connect() -> bool:
    """Tells TensorFlow's functions and SavedModels what a group is, once.

    Returns:
      Whether that was possible: these are private parts of TensorFlow.
    """
    try:
        private_api.order_updates_of_members(_members, _check_captured)
        private_api.export_captures_as(_exported)
        register = private_api.serializable("keras_legacy_opt", "VariableGroup")
        register(VariableGroup)
    except (AttributeError, ImportError, TypeError, ValueError) as error:
        logging.warning(
            "keras_legacy_opt passes every variable to its native ops one by"
            " one, which takes longer: TensorFlow %s is not as it was (%s).",
            tf.__version__,
            error,
        )
        return False
    return True


# SavedModels may have groups in them.
loader.on_load.append(connect)
