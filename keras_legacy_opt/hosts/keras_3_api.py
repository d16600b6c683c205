"""What Keras 3 calls on an optimizer and legacy optimizers did not have."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

import tensorflow as tf

from keras_legacy_opt import hosts, originals
from keras_legacy_opt.hosts import overrides
from keras_legacy_opt.state.base import OptimizerBase

# What makes gradients in `minimize`, which Keras 3 makes itself.
HALVES_OF_MINIMIZE = ("_compute_gradients", "_get_gradients")


def _unsupported(name: str, instead: str) -> Callable[..., NoReturn]:
    def method(self: Any, *args: Any, **kwargs: Any) -> NoReturn:
        raise NotImplementedError(
            f"`{name}` belongs to Keras 3's own optimizers; {instead}. Called"
            f" on optimizer {self._name!r} of class {type(self).__name__}."
        )

    method.__name__ = name
    method.__doc__ = f"Not supported: {instead}."
    return method


class Keras3Mixin(OptimizerBase):
    """The part of an optimizer that only Keras 3 knows of."""

    @property
    def name(self) -> str:
        """The name given to the constructor."""
        return self._name

    @name.setter
    def name(self, name: str) -> None:
        self._name = name

    @tf.autograph.experimental.do_not_convert
    def build(self, var_list: Sequence[Any]) -> None:
        """Creates the iterations, hyperparameters, and slots of `var_list`.

        Calling it is optional, and variables that come later are welcome.
        """
        with tf.name_scope(self._name), tf.init_scope():
            known = self._known_variables
            self._create_all_weights(
                [
                    known.unwrap(v)
                    for v in var_list
                    if not known.is_overwritten(v)
                ]
            )

    @tf.autograph.experimental.do_not_convert
    def apply(
        self,
        grads: Sequence[Any],
        trainable_variables: Iterable[Any] | None = None,
    ) -> None:
        """Applies `grads` to `trainable_variables`.

        Args:
          grads: list of gradients.
          trainable_variables: list of as many variables; those of `build` if
            `None`.

        Raises:
          ValueError: if the numbers differ, or no variables are known.
        """
        if trainable_variables is None:
            variables = self._known_variables.with_slots()
        else:
            variables = list(trainable_variables)
        if len(grads) != len(variables):
            raise ValueError(
                f"apply() of optimizer {self._name!r} got {len(grads)}"
                f" gradients for {len(variables)} variables. Pass"
                " `trainable_variables`, or call `build` with them first."
            )
        self.apply_gradients(zip(grads, variables, strict=True))

    def scale_loss(self, loss: tf.Tensor) -> tf.Tensor:
        """The loss times `loss_scale_factor`, undone by `apply_gradients`.

        Keras 3 calls this before it computes the gradients of the result.

        Raises:
          RuntimeError: if a subclass has its own `minimize`, or its own way to
            compute gradients, which would be left out.
        """
        overrides.guard(type(self))
        check_fit_calls_all(self)
        return scaled_loss(self, loss)

    def finalize_variable_values(self, var_list: Sequence[Any]) -> None:
        """Does nothing: there is no moving average to write back."""

    def assign(self, variable: Any, value: Any) -> None:
        """Assigns `value` to `variable`."""
        variable.assign(value)

    def assign_add(self, variable: Any, value: Any) -> None:
        """Adds `value` to `variable`."""
        variable.assign_add(value)

    def assign_sub(self, variable: Any, value: Any) -> None:
        """Subtracts `value` from `variable`."""
        variable.assign_sub(value)

    def _obj_type(self) -> str:
        return "Optimizer"

    update_step = _unsupported(
        "update_step",
        "a legacy optimizer overrides `_resource_apply_dense` and"
        " `_resource_apply_sparse`",
    )
    stateless_apply = _unsupported(
        "stateless_apply",
        "a legacy optimizer runs on TensorFlow only: use `apply_gradients`",
    )
    add_variable = _unsupported(
        "add_variable", "a legacy optimizer uses `add_weight`"
    )
    add_variable_from_reference = _unsupported(
        "add_variable_from_reference", "a legacy optimizer uses `add_slot`"
    )
    add_optimizer_variables = _unsupported(
        "add_optimizer_variables", "a legacy optimizer uses `add_slot`"
    )
    exclude_from_weight_decay = _unsupported(
        "exclude_from_weight_decay",
        "legacy optimizers have no weight decay: use a kernel_regularizer, or a"
        " subclass such as an AdamW",
    )


def scaled_loss(optimizer: Any, loss: tf.Tensor) -> tf.Tensor:
    """The loss whose gradients `optimizer.apply_gradients` takes."""
    loss = optimizer._transform_loss(loss)
    factor = optimizer.loss_scale_factor
    return loss if factor is None else loss * factor


def check_fit_calls_all(
    optimizer: Any, methods: Sequence[str] = ("minimize", *HALVES_OF_MINIMIZE)
) -> None:
    """Raises RuntimeError if `optimizer` overrides one of the `methods`."""
    for method in methods:
        if not originals.is_own(optimizer, (method,)):
            raise RuntimeError(
                f"{type(optimizer).__name__} overrides `{method}`, which Keras"
                " 3's `fit` does not call: training would go on without it."
                " Call `keras_legacy_opt.with_minimize(model)` once before"
                " `fit`. In a train step of your own, replace scale_loss,"
                " tape.gradient and apply_gradients by"
                " `optimizer.minimize(loss, variables, tape=tape)`."
            )


def passed_on(wrapper: Any, loss: tf.Tensor) -> tf.Tensor:
    """The scaled loss of an optimizer of Keras 3 that holds some of ours.

    Its LossScaleOptimizer, like legacy's, leaves the rest of the gradients'
    computation to the optimizer it wraps.  Its MultiOptimizer cannot, as each
    optimizer would want a loss of its own.
    """
    inner = getattr(wrapper, "inner_optimizer", None)
    if isinstance(inner, hosts.OptimizerHost):
        check_fit_calls_all(inner, HALVES_OF_MINIMIZE)
        return scaled_loss(inner, loss)
    for each in getattr(inner or wrapper, "optimizers", ()):
        if isinstance(each, hosts.OptimizerHost):
            check_fit_calls_all(
                each, ("minimize", *HALVES_OF_MINIMIZE, "_transform_loss")
            )
    return loss
