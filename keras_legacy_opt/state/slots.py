"""Slots: the variables that an optimizer keeps beside each trained variable."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from keras_legacy_opt import distribution, hosts, private_api
from keras_legacy_opt.state.base import OptimizerBase
from keras_legacy_opt.state.variables import make_own, var_key

_INITIALIZERS = {
    "zeros": tf.zeros_initializer,
    "ones": tf.ones_initializer,
    "constant": tf.constant_initializer,
    "random_normal": tf.random_normal_initializer,
    "normal": tf.random_normal_initializer,
    "random_uniform": tf.random_uniform_initializer,
    "uniform": tf.random_uniform_initializer,
}


def resolve_initializer(initializer: Any) -> Any:
    """The callable `initializer(shape=, dtype=)` that a name or class means.

    Raises:
      ValueError: if the name is unknown.
    """
    if isinstance(initializer, str):
        if initializer.lower() not in _INITIALIZERS:
            raise ValueError(
                f"Unknown initializer {initializer!r}. Use one of"
                f" {sorted(_INITIALIZERS)}, or pass an initializer object or a"
                " function of (shape, dtype)."
            )
        initializer = _INITIALIZERS[initializer.lower()]
    return initializer() if inspect.isclass(initializer) else initializer


class SlotMixin(OptimizerBase):
    """The part of an optimizer that keeps its slots."""

    _slot_names: list[str]
    # {slot name: {variable key: [checkpoint positions]}}
    _deferred_slot_restorations: dict[str, dict[str, list[Any]]]
    # {(variable key, slot name)} of slots that a checkpoint brought.
    _slots_out_of_turn: set[tuple[str, str]]
    # {key of a variable: {slot name: what `add_slot` would make it of}}, while
    # it is asked again for slots that are there.
    _slots_anew: dict[str, dict[str, Any]]

    def get_slot_names(self) -> list[str]:
        """The names of this optimizer's slots, in the order of creation."""
        return self._slot_names

    def get_slot(self, var: Any, slot_name: str) -> Any:
        """The slot variable `slot_name` of `var`.

        Args:
          var: a variable that the optimizer has updated or was built with; of a
            `ShardedVariable`, the result is the `ShardedVariable` of the slots.
          slot_name: one of `get_slot_names()`.

        Raises:
          KeyError: if `var` has no such slot.
        """
        return self._slots[var_key(hosts.unwrap(var))][slot_name]

    def add_slot(
        self,
        var: Any,
        slot_name: str,
        initializer: Any = "zeros",
        shape: Any = None,
    ) -> Any:
        """Adds the slot variable `slot_name` to `var`, unless it is there.

        Args:
          var: the variable to train.
          slot_name: String.
          initializer: a name ("zeros", "ones", ...), an initializer, a function
            of (shape, dtype), or the initial value itself.
          shape: shape of the slot; the shape of `var` if `None`.

        Returns:
          The slot variable, of the dtype of `var` and beside it: on its device,
          mirrored or sharded as it is.

        Raises:
          ValueError: if `var` belongs to another `tf.distribute.Strategy`.
        """
        var = self._known_variables.unwrap(var)
        if slot_name not in self._slot_names:
            self._slot_names.append(slot_name)
        key = var_key(var)
        slots = self._slots.setdefault(key, {})
        if slot_name in slots:
            _line_up(self, key, slot_name)
            if key in self._slots_anew:
                value = _first_value(initializer, var, shape)
                self._slots_anew[key][slot_name] = value
            return slots[slot_name]
        name = f"{self._known_variables.name(var)}/{slot_name}"
        with self._distribution_strategy_scope():
            distribution.check_created_in_scope(
                var, self._known_variables.name(var)
            )
            strategy = tf.distribute.get_strategy()
            with strategy.extended.colocate_vars_with(var):
                slot = tf.Variable(
                    name=name,
                    dtype=_dtype(var),
                    trainable=False,
                    initial_value=_initial_value(initializer, var, shape),
                )
        unique = self._known_variables.unique_name(var)
        make_own(slot, f"{self._name}/{unique}/{slot_name}")
        slots[slot_name] = slot
        self._restore_slot_variable(
            slot_name=slot_name, variable=var, slot_variable=slot
        )
        self._weights.append(slot)
        return slot

    def _create_slots(self, var_list: Sequence[Any]) -> None:
        """Creates the slots of `var_list`; for subclasses to override."""

    def _first_slots(
        self, var_list: Sequence[Any]
    ) -> dict[str, dict[str, Any]]:
        """What `_create_slots` makes the slots of: {key: {name: tensor}}.

        Without those that it does not ask for once they are there.
        """
        asked = {var_key(var): {} for var in var_list}
        self._slots_anew = asked
        try:
            if var_list:
                self._create_slots(var_list)
        finally:
            self._slots_anew = {}
        return asked

    def _create_slots_for_sharded_variables(
        self, var_list: Sequence[Any]
    ) -> None:
        """Joins the slots of shards, for `get_slot` and for checkpoints.

        A checkpoint knows sharded variables as wholes, and restores their slots
        as wholes: once all the shards have them.
        """
        containers = {}
        for var in var_list:
            container = private_api.sharded_container(var)
            if container is not None:
                containers[var_key(container)] = container
        for key, container in containers.items():
            joined = self._slots.setdefault(key, {})
            shards = [
                self._slots.get(var_key(v), {}) for v in container.variables
            ]
            for name in self._slot_names:
                if name in joined or any(name not in slots for slots in shards):
                    continue
                if shards[0][name].shape.rank == 0:
                    continue  # Each shard has its number.
                joined[name] = private_api.ShardedVariable(
                    [slots[name] for slots in shards],
                    name=f"{container.name}/{name}",
                )
                self._restore_slot_variable(name, container, joined[name])

    # A checkpoint finds and restores slots through the two methods below.

    def _restore_slot_variable(
        self, slot_name: str, variable: Any, slot_variable: Any
    ) -> None:
        """Restores a slot, just created, from checkpoints read before."""
        positions = self._deferred_slot_restorations.get(slot_name, {}).pop(
            var_key(hosts.unwrap(variable)), []
        )
        # The latest restore first: the others then have nothing left to do.
        for position in sorted(
            positions, key=lambda position: position.restore_uid, reverse=True
        ):
            position.restore(slot_variable)

    def _create_or_restore_slot_variable(
        self,
        slot_variable_position: Any,
        slot_name: str,
        variable: Any,
        slot_variable_shape: Any = None,
    ) -> Any | None:
        """The slot variable that a checkpoint's value must be restored into.

        Args:
          slot_variable_position: the position of the slot in the checkpoint.
          slot_name: String.
          variable: the variable that the slot belongs to.
          slot_variable_shape: shape of the slot; as in the checkpoint if
            `None`.

        Returns:
          The slot variable: an existing one, or one created here if variables
          can be created now.  Else `None`, and the restoration waits until the
          slot is created.
        """
        variable = self._known_variables.unwrap(variable)
        key = var_key(variable)
        slot = self._slots.get(key, {}).get(slot_name)
        if (
            slot is None
            and not isinstance(variable, private_api.ShardedVariable)
            and tf.executing_eagerly()
            and slot_variable_position.is_simple_variable()
            # A scope that wants to see `variable` created must not be shown its
            # slots; a strategy's scope must.
            and (
                not private_api.in_variable_creator_scope()
                or self._distribution_strategy
            )
        ):
            if slot_variable_shape is None:
                slot_variable_shape = slot_variable_position.value_shape()
            self._slots_out_of_turn.add((key, slot_name))
            with tf.name_scope(self._name):
                return self.add_slot(
                    var=variable,
                    initializer=private_api.CheckpointInitialValueCallable(
                        checkpoint_position=slot_variable_position
                    ),
                    slot_name=slot_name,
                    shape=slot_variable_shape,
                )
        if slot is None:
            self._deferred_slot_restorations.setdefault(
                slot_name, {}
            ).setdefault(key, []).append(slot_variable_position)
            return None
        return slot

    # Updates of some rows of a variable, for sparse gradients.

    def _resource_scatter_add(self, x: Any, i: Any, v: Any) -> tf.Tensor:
        """Adds rows `v` to the rows `i` of variable `x`; returns its value."""
        op = tf.raw_ops.ResourceScatterAdd(
            resource=x.handle, indices=i, updates=v
        )
        return _value_after(op, x)

    def _resource_scatter_update(self, x: Any, i: Any, v: Any) -> tf.Tensor:
        """Sets the rows `i` of variable `x` to `v`; returns its value."""
        op = tf.raw_ops.ResourceScatterUpdate(
            resource=x.handle, indices=i, updates=v
        )
        return _value_after(op, x)


def _line_up(optimizer: SlotMixin, key: str, slot_name: str) -> None:
    """Moves a slot that a checkpoint brought to its place in `weights`.

    A checkpoint creates slots in an order of its own; when `_create_slots` then
    asks for them one by one, they line up as if it had created them.
    """
    if (key, slot_name) in optimizer._slots_out_of_turn:
        optimizer._slots_out_of_turn.remove((key, slot_name))
        slot = optimizer._slots[key][slot_name]
        others = [w for w in optimizer._weights if w is not slot]
        optimizer._weights[:] = [*others, slot]


def _dtype(var: Any) -> tf.DType:
    # tf_keras' AutoCastVariable reports the dtype it casts to.
    return getattr(var, "true_dtype", var.dtype)


def _initial_value(initializer: Any, var: Any, shape: Any) -> Any:
    if not isinstance(initializer, str) and not callable(initializer):
        return initializer
    initializer = resolve_initializer(initializer)
    restores = isinstance(
        initializer, private_api.CheckpointInitialValueCallable
    )
    if shape is None and not restores:
        shape = var.shape
    return functools.partial(initializer, shape=shape, dtype=_dtype(var))


def _first_value(initializer: Any, var: Any, shape: Any) -> tf.Tensor:
    """The value that a slot made of this has."""
    value = _initial_value(initializer, var, shape)
    value = _called(value) if callable(value) else value
    return tf.convert_to_tensor(value, _dtype(var).base_dtype)


def _called(function: Any) -> Any:
    return function()


def _value_after(op: tf.Operation | None, variable: Any) -> tf.Tensor:
    with tf.control_dependencies([op] if op is not None else []):
        return variable.value()
