"""Loss scaling: gradients of float16 that do not underflow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from keras_legacy_opt import (
    distribution,
    hosts,
    originals,
    private_api,
    serialization,
)
from keras_legacy_opt.hosts import loading, overrides
from keras_legacy_opt.hosts.keras_3_api import (
    HALVES_OF_MINIMIZE,
    check_fit_calls_all,
    scaled_loss,
)
from keras_legacy_opt.optimizer import Optimizer
from keras_legacy_opt.state import hyperparameters
from keras_legacy_opt.state.saving import assign_all, fetch_all
from keras_legacy_opt.step import chain as chains
from keras_legacy_opt.step import gate, gradients, plan, stepper

DEFAULT_INITIAL_SCALE = 2.0**15
DEFAULT_GROWTH_STEPS = 2000

# A class that has its own idea of one of these gets unscaled gradients from
# them, not from the updates.
_HALVES_OF_MINIMIZE = (
    "_compute_gradients",
    "get_unscaled_gradients",
    "apply_gradients",
)


def _variable(name: str, value: Any, dtype: tf.DType) -> tf.Variable:
    return tf.Variable(value, dtype=dtype, trainable=False, name=name)


class _DynamicScale(private_api.Trackable):
    """The loss scale, and the number of steps since it last changed.

    It is doubled after so many steps in a row whose gradients were finite, and
    halved, but not below 1, at once when they are not.
    """

    def __init__(self, initial_scale: float, growth_steps: int):
        self.initial_scale = initial_scale
        self.growth_steps = growth_steps
        self.current_loss_scale = _variable(
            "current_loss_scale", initial_scale, tf.float32
        )
        self.good_steps = _variable("good_steps", 0, tf.int64)
        for name, variable in self.variables().items():
            hosts.track(variable)
            self._track_trackable(variable, name)

    def variables(self) -> dict[str, tf.Variable]:
        """The variables, by their names in files."""
        return {
            "current_loss_scale": self.current_loss_scale,
            "good_steps": self.good_steps,
        }

    def update(self, is_finite: Any) -> Any:
        """Goes on to the next step.

        Args:
          is_finite: bool scalar, whether all gradients of this step were.

        Returns:
          An `Operation`; in eager execution, None.
        """
        scale = tf.convert_to_tensor(self.current_loss_scale)
        steps = self.good_steps + 1
        grows = tf.greater_equal(steps, self.growth_steps)
        doubled = 2.0 * scale
        grown = tf.where(
            tf.logical_and(grows, tf.math.is_finite(doubled)), doubled, scale
        )
        halved = tf.maximum(scale / 2.0, 1.0)
        goes_on = tf.logical_and(is_finite, tf.logical_not(grows))
        steps = tf.where(goes_on, steps, tf.zeros_like(steps))
        scale = tf.where(is_finite, grown, halved)
        return tf.group(
            self.good_steps.assign(steps, read_value=False),
            self.current_loss_scale.assign(scale, read_value=False),
        )

    def __reduce__(self) -> tuple[Any, ...]:
        values = fetch_all(list(self.variables().values()))
        return _DynamicScale, (self.initial_scale, self.growth_steps), values

    def __setstate__(self, values: Sequence[Any]) -> None:
        assign_all(list(self.variables().values()), values)


class _SlotsInTF22(private_api.Trackable):
    """What checkpoints of TensorFlow up to 2.2 call the inner optimizer.

    There, the slots belonged to it; now they belong to the wrapper.
    """

    def __init__(self, optimizer: Optimizer):
        self._optimizer = optimizer

    def get_slot_names(self) -> list[str]:
        return self._optimizer.get_slot_names()

    def _create_or_restore_slot_variable(
        self, slot_variable_position: Any, slot_name: str, variable: Any
    ) -> Any | None:
        return self._optimizer._create_or_restore_slot_variable(
            slot_variable_position, slot_name, variable
        )


class _Inner:
    """An attribute that is the inner optimizer's."""

    def __init__(self, name: str = ""):
        self._name = name

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, owner: type) -> Any:
        if instance is None:
            return getattr(Optimizer, self._name)
        return getattr(instance._optimizer, self._name)

    def __set__(self, instance: Any, value: Any) -> None:
        setattr(instance._optimizer, self._name, value)


@hosts.public
class LossScaleOptimizer(Optimizer, hosts.LossScaleShield, hosts.LossScaleHost):
    """Wraps an optimizer to scale the loss, so that gradients do not underflow.

    In float16, small gradients become zero on their way back through the model.
    The loss is therefore multiplied by a large number, the loss scale, and the
    gradients are divided by it afterwards.

    By default the loss scale is found while training: it is doubled after
    `dynamic_growth_steps` steps, and halved when a gradient is infinite or NaN.
    Such a step changes no variable and no slot, but it counts as an iteration.

    `minimize`, and `fit` of both Kerases, do all of this:

    >>> opt = keras_legacy_opt.LossScaleOptimizer(keras_legacy_opt.SGD(0.25))
    >>> var = tf.Variable(1.0)
    >>> _ = opt.minimize(lambda: var**2, [var])
    >>> float(var)
    0.5

    Where gradients come from a `tf.GradientTape`, scale the loss and unscale
    the gradients, each once:

    >>> with tf.GradientTape() as tape:
    ...     loss = opt.get_scaled_loss(var**2)
    >>> grads = opt.get_unscaled_gradients(tape.gradient(loss, [var]))
    >>> _ = opt.apply_gradients(zip(grads, [var]))
    >>> float(var), float(opt.loss_scale), int(opt.dynamic_counter)
    (0.25, 32768.0, 2)

    A train step written for Keras 3 calls `scale_loss` instead, and leaves the
    unscaling to `apply_gradients`, or `apply`.

    ### Hyperparameters

    Those of the inner optimizer can be read and overwritten here; other
    attributes of it cannot.

    >>> opt = keras_legacy_opt.LossScaleOptimizer(keras_legacy_opt.Adam())
    >>> opt.beta_1 = 0.7
    >>> round(float(opt.inner_optimizer.beta_1), 4)
    0.7
    >>> hasattr(opt, "epsilon"), hasattr(opt.inner_optimizer, "epsilon")
    (False, True)

    ### Checkpoints

    are those of the inner optimizer, which also hold the loss scale: either of
    the two can be restored from what the other saved.

    ### Speed

    Where native ops update all variables, these also unscale, and leave out the
    updates of a step that is skipped; one read of the gradients says whether
    they are finite.
    """

    _HAS_AGGREGATE_GRAD = True

    # To TensorFlow, a class with this method has no values besides those of
    # its variables, whatever the classes of the Kerases behind it say.
    _gather_saveables_for_checkpoint = (
        private_api.Trackable._gather_saveables_for_checkpoint
    )

    # State that inherited methods and Keras look for.
    _known_variables = _Inner()
    _name = _Inner()
    _weights = _Inner()
    built = _Inner()
    lr = _Inner()

    _optimizer: Optimizer
    _loss_scale: _DynamicScale | float

    def __init__(
        self,
        inner_optimizer: Optimizer,
        dynamic: bool = True,
        initial_scale: float | None = None,
        dynamic_growth_steps: int | None = None,
    ):
        """Wraps an optimizer.

        Args:
          inner_optimizer: the `keras_legacy_opt` optimizer to wrap.
          dynamic: whether the loss scale changes while training.
          initial_scale: the loss scale at first, 2 ** 15 if `None`; for ever
            if not `dynamic`, and then needed.
          dynamic_growth_steps: after how many steps in a row with finite
            gradients the loss scale is doubled, 2000 if `None`; must be `None`
            if not `dynamic`.

        Raises:
          TypeError: if `inner_optimizer` is no optimizer of this package, or a
            LossScaleOptimizer, or `dynamic` is no bool.
          ValueError: if another LossScaleOptimizer wraps the optimizer, the
            strategy does not support loss scaling, or arguments do not fit
            together.
        """
        _check_inner(inner_optimizer)
        if not isinstance(dynamic, bool):
            raise TypeError(
                "`dynamic` must be True or False. Received:"
                f" dynamic={dynamic!r}."
            )
        _check_strategy()
        _check_scale(dynamic, initial_scale, dynamic_growth_steps)
        self._optimizer = inner_optimizer
        self._optimizer._is_wrapped_by_loss_scale_optimizer = True
        scale = float(_default(initial_scale, DEFAULT_INITIAL_SCALE))
        growth_steps = int(_default(dynamic_growth_steps, DEFAULT_GROWTH_STEPS))
        self._loss_scale = (
            _DynamicScale(scale, growth_steps) if dynamic else scale
        )
        self._loss_has_been_scaled = False
        self._gradients_have_been_unscaled = False
        # Whether `apply_gradients` gets gradients that are still scaled.
        self._unscales_later = False
        self._track()

    def _track(self) -> None:
        """Makes the loss scale part of the inner optimizer's checkpoints."""
        if self.dynamic:
            self._track_trackable(
                self._loss_scale, "loss_scale", overwrite=True
            )
        self._track_trackable(
            _SlotsInTF22(self._optimizer), "base_optimizer", overwrite=True
        )

    @property
    def inner_optimizer(self) -> Optimizer:
        """The optimizer that this one wraps."""
        return self._optimizer

    @property
    def dynamic(self) -> bool:
        """Whether the loss scale changes while training."""
        return isinstance(self._loss_scale, _DynamicScale)

    @property
    def loss_scale(self) -> tf.Tensor:
        """float32 scalar tensor: the current loss scale."""
        scale = self._loss_scale
        if isinstance(scale, _DynamicScale):
            scale = scale.current_loss_scale
        return tf.convert_to_tensor(scale)

    @property
    def dynamic_counter(self) -> tf.Variable | None:
        """int64 variable: the steps since the loss scale last changed.

        `None` if it never does.
        """
        scale = self._loss_scale
        return scale.good_steps if isinstance(scale, _DynamicScale) else None

    @property
    def initial_scale(self) -> float:
        """The loss scale at first."""
        scale = self._loss_scale
        return (
            scale.initial_scale if isinstance(scale, _DynamicScale) else scale
        )

    @property
    def dynamic_growth_steps(self) -> int | None:
        """After how many good steps in a row the loss scale is doubled.

        `None` if it never is.
        """
        scale = self._loss_scale
        return scale.growth_steps if isinstance(scale, _DynamicScale) else None

    # Scaling.

    def get_scaled_loss(self, loss: Any) -> Any:
        """The loss times the loss scale.

        Args:
          loss: a tensor, or a callable without arguments that returns one.

        Returns:
          A tensor, or such a callable.
        """
        self._loss_has_been_scaled = True
        if callable(loss):
            return lambda: self._scaled(loss())
        return self._scaled(loss)

    def _scaled(self, loss: Any) -> tf.Tensor:
        return loss * tf.cast(self.loss_scale, loss.dtype)

    def get_unscaled_gradients(self, grads: Sequence[Any]) -> list[Any]:
        """The gradients divided by the loss scale.

        Args:
          grads: list of tensors, `IndexedSlices` or `None`, the gradients of a
            loss that was scaled by `get_scaled_loss`.

        Returns:
          A list of as many; `None` stays `None`.
        """
        self._gradients_have_been_unscaled = True
        self._unscales_later = False
        factor = self._unscaling_factor()
        return [
            None if g is None else gradients.multiply(g, factor) for g in grads
        ]

    def _unscaling_factor(self) -> tf.Tensor:
        return 1.0 / self.loss_scale

    def scale_loss(self, loss: tf.Tensor) -> tf.Tensor:
        """The loss times the loss scale, undone by `apply_gradients`.

        Keras 3 calls this.  Gradients need not be unscaled then.
        """
        check_fit_calls_all(self)
        check_fit_calls_all(self._optimizer, HALVES_OF_MINIMIZE)
        self._gradients_have_been_unscaled = True
        self._unscales_later = True
        return scaled_loss(self._optimizer, self.get_scaled_loss(loss))

    # Gradients.

    @tf.autograph.experimental.do_not_convert
    def minimize(
        self,
        loss: Any,
        var_list: Any,
        grad_loss: Any = None,
        name: str | None = None,
        tape: tf.GradientTape | None = None,
    ) -> Any:
        """Scales, computes gradients, unscales and applies them.

        See `keras_legacy_opt.Optimizer.minimize`.
        """
        if not originals.is_own(self, _HALVES_OF_MINIMIZE):
            pairs = self._compute_gradients(loss, var_list, grad_loss, tape)
            return self.apply_gradients(pairs, name=name)
        pairs = self._compute_scaled_gradients(loss, var_list, grad_loss, tape)
        self._gradients_have_been_unscaled = True
        return self._apply(pairs, name, aggregate=True, scaled=True)

    def _compute_scaled_gradients(
        self, loss: Any, var_list: Any, grad_loss: Any, tape: Any
    ) -> list[tuple[Any, Any]]:
        tape = tf.GradientTape() if tape is None else tape
        with tape:
            loss = self.get_scaled_loss(loss)
        return self._optimizer._compute_gradients(
            loss, var_list, grad_loss, tape=tape
        )

    def _compute_gradients(
        self,
        loss: Any,
        var_list: Any,
        grad_loss: Any = None,
        tape: tf.GradientTape | None = None,
    ) -> list[tuple[Any, Any]]:
        """(gradient, variable) pairs: of the loss itself, by scaling it."""
        pairs = self._compute_scaled_gradients(loss, var_list, grad_loss, tape)
        unscaled = self.get_unscaled_gradients([g for g, _ in pairs])
        return [(g, v) for g, (_, v) in zip(unscaled, pairs, strict=True)]

    @tf.autograph.experimental.do_not_convert
    def get_gradients(self, loss: tf.Tensor, params: Any) -> list[Any]:
        """The gradients of `loss`, computed by scaling it, in a TF1 graph.

        See `keras_legacy_opt.Optimizer.get_gradients`.
        """
        loss = self.get_scaled_loss(loss)
        grads = self._optimizer.get_gradients(loss, params)
        return self.get_unscaled_gradients(grads)

    get_updates = Optimizer.get_updates
    apply = Optimizer.apply

    # One step.

    @tf.autograph.experimental.do_not_convert
    def apply_gradients(
        self,
        grads_and_vars: Iterable[tuple[Any, Any]],
        name: str | None = None,
        experimental_aggregate_gradients: bool = True,
    ) -> Any:
        """Applies gradients if all are finite, and updates the loss scale.

        Args:
          grads_and_vars: (gradient, variable) pairs; the gradients unscaled,
            unless the loss was scaled by `scale_loss`.
          name: (Optional) name of the returned operation.
          experimental_aggregate_gradients: whether to sum the gradients over
            the replicas of a strategy.

        Returns:
          An `Operation` (in eager execution: the `iterations`).

        Raises:
          ValueError: in cross-replica context, or if the strategy does not
            support loss scaling.  For other errors see
            `keras_legacy_opt.Optimizer.apply_gradients`.
        """
        return self._apply(
            grads_and_vars,
            name,
            experimental_aggregate_gradients,
            scaled=self._unscales_later,
        )

    def _apply(
        self,
        grads_and_vars: Any,
        name: str | None,
        aggregate: bool,
        scaled: bool,
    ) -> Any:
        """`apply_gradients`; unscales the gradients if they are `scaled`."""
        if tf.distribute.in_cross_replica_context():
            raise ValueError(
                "`apply_gradients()` cannot be called in cross-replica context:"
                " call it in a function that is passed to `strategy.run`."
            )
        _check_strategy()
        _warn_of_what_was_forgotten(
            self._loss_has_been_scaled, self._gradients_have_been_unscaled
        )
        items = gradients.listed(grads_and_vars)
        chain = (chains.Multiply(self._unscaling_factor()),) if scaled else ()
        pairs = items
        if not plan.knows(self._optimizer, items):
            pairs, chain = self._summed(items, aggregate, chain)
        if not pairs:
            return self._optimizer.apply_gradients([], name=name)
        step = gate.GatedStep(self._optimizer, pairs, name, chain)
        scale = self._loss_scale
        if not isinstance(scale, _DynamicScale):
            return step.take(step.grads)
        return gate.enter(step, scale.update)

    def _summed(
        self,
        items: Sequence[Any],
        aggregate: bool,
        chain: tuple[chains.Multiply, ...],
    ) -> tuple[list[Any], tuple[chains.Multiply, ...]]:
        """Pairs to apply, summed; and how they are still to be scaled."""
        inner = self._optimizer
        pairs = stepper.given(inner, items, aggregate)
        pairs, chain = chains.scale(inner, pairs, chain)
        if aggregate and pairs:
            pairs = stepper.summed(inner, pairs)
        return list(pairs), chain

    # Attributes.

    def __getattr__(self, name: str) -> Any:
        """Reads a hyperparameter of the inner optimizer."""
        inner = self.__dict__.get("_optimizer")
        if inner is not None and (
            name in inner._hyper or name in hyperparameters.KERAS_3_DEFAULTS
        ):
            return getattr(inner, name)
        raise AttributeError(
            f"{type(self).__name__!r} object has no attribute {name!r}"
        )

    def __setattr__(self, name: str, value: Any) -> None:
        """Overwrites a hyperparameter of the inner one, or an attribute."""
        inner = self.__dict__.get("_optimizer")
        if (
            inner is not None
            and name in inner._hyper
            and not hasattr(type(self), name)
        ):
            inner._set_hyper(name, value)
        else:
            value = overrides.guarded_on(self, name, value)
            object.__setattr__(self, name, value)

    def __dir__(self) -> list[str]:
        names = {*object.__dir__(self), *self._optimizer._hyper}
        # Keras' savers look at all: there is one name of the inner optimizer.
        return sorted(names - {"_optimizer"})

    # State that leaves the optimizer.

    def save_own_variables(self, store: Any) -> None:
        """Writes the loss scale into `store`, a mapping of a Keras 3 file.

        The file has the state of the inner optimizer beside it.
        """
        scale = self._loss_scale
        if isinstance(scale, _DynamicScale):
            variables = scale.variables()
            values = fetch_all(list(variables.values()))
            for name, value in zip(variables, values, strict=True):
                store[name] = value

    def load_own_variables(self, store: Mapping[str, Any]) -> None:
        """Reads the loss scale from `store`, a mapping of a Keras 3 file.

        It stays as it is if the file holds none, and in `model.load_weights`.
        """
        if loading.weights_only():
            return  # The inner optimizer tells.
        scale = self._loss_scale
        held = "current_loss_scale" in store.keys()
        if held and isinstance(scale, _DynamicScale):
            variables = scale.variables()
            values = [np.asarray(store[name]) for name in variables]
            assign_all(list(variables.values()), values)

    def __getstate__(self) -> dict[str, Any]:
        """Everything: the inner optimizer and the loss scale see to theirs."""
        return dict(self.__dict__)

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__.update(state)
        self._track()

    # Configuration.

    def get_config(self) -> dict[str, Any]:
        """The configuration: what `from_config` makes an equal optimizer of.

        Returns:
          A JSON-compatible dictionary.
        """
        return {
            "inner_optimizer": serialization.serialize(self._optimizer),
            "dynamic": self.dynamic,
            "initial_scale": self.initial_scale,
            "dynamic_growth_steps": self.dynamic_growth_steps,
        }

    @classmethod
    def from_config(
        cls,
        config: Mapping[str, Any],
        custom_objects: Mapping[str, Any] | None = None,
    ) -> Any:
        """The optimizer of a configuration.

        Args:
          config: dictionary, as returned by `get_config` of any release.
          custom_objects: maps names to classes that it names.

        Returns:
          An optimizer without state.

        Raises:
          ValueError: if the loss scale is of a kind that no release since
            TensorFlow 2.4 has.
        """
        config = dict(config)
        if "loss_scale" in config:  # Up to TensorFlow 2.3.
            config["inner_optimizer"] = config.pop("optimizer")
            config.update(_arguments_for(config.pop("loss_scale")))
        inner = config.pop("inner_optimizer")
        if not isinstance(inner, Optimizer):
            inner = serialization.deserialize(inner, custom_objects)
        return cls(inner, **config)


# All else is the inner optimizer's.
_own = {*vars(LossScaleOptimizer), *private_api.MARKS_OF_VALUES}
for _name in dir(Optimizer):
    if not _name.startswith("__") and _name not in _own:
        setattr(LossScaleOptimizer, _name, _Inner(_name))


def _default(value: Any, default: Any) -> Any:
    return default if value is None else value


def _check_inner(optimizer: Any) -> None:
    if isinstance(optimizer, LossScaleOptimizer):
        raise TypeError(
            "A LossScaleOptimizer cannot wrap another one. Received:"
            f" {optimizer}."
        )
    if not isinstance(optimizer, Optimizer):
        raise TypeError(
            "`inner_optimizer` must be an optimizer of keras_legacy_opt; other"
            " optimizers are wrapped by the LossScaleOptimizer of their Keras."
            f" Received: {optimizer!r}."
        )
    if getattr(optimizer, "_is_wrapped_by_loss_scale_optimizer", False):
        raise ValueError(
            "The optimizer is wrapped by a LossScaleOptimizer already, and its"
            f" checkpoints hold one loss scale only. Received: {optimizer!r}."
        )


def _check_scale(
    dynamic: bool, initial_scale: Any, dynamic_growth_steps: Any
) -> None:
    if not dynamic and initial_scale is None:
        raise ValueError(
            "With `dynamic=False`, give the loss scale as `initial_scale`."
        )
    if not dynamic and dynamic_growth_steps is not None:
        raise ValueError(
            "With `dynamic=False`, the loss scale never grows:"
            " `dynamic_growth_steps` must be None. Received:"
            f" dynamic_growth_steps={dynamic_growth_steps}."
        )


def _check_strategy() -> None:
    """Raises ValueError unless each replica has variables of its own."""
    if tf.distribute.has_strategy():
        strategy = tf.distribute.get_strategy()
        if not isinstance(strategy, distribution.WITH_OWN_VARIABLES):
            raise ValueError(
                "Loss scaling works under MirroredStrategy,"
                " MultiWorkerMirroredStrategy and OneDeviceStrategy only. (On"
                " TPUs, bfloat16 needs none.) Received:"
                f" strategy={strategy}."
            )


def _warn_of_what_was_forgotten(scaled: bool, unscaled: bool) -> None:
    forgotten = [
        f"`{method}`"
        for method, called in (
            ("get_scaled_loss", scaled),
            ("get_unscaled_gradients", unscaled),
        )
        if not called
    ]
    if forgotten:
        logging.warning(
            "Gradients are applied by a LossScaleOptimizer whose %s was never"
            " called: its numbers will be wrong, or lack precision. Compute"
            " the gradients of get_scaled_loss(loss), and apply"
            " get_unscaled_gradients(gradients).",
            " and ".join(forgotten),
        )


def _arguments_for(loss_scale: Any) -> dict[str, Any]:
    """The arguments that mean a loss scale of TensorFlow 2.3."""
    kind, config = loss_scale["class_name"], loss_scale["config"]
    if kind == "FixedLossScale":
        return {"dynamic": False, "initial_scale": config["loss_scale_value"]}
    if kind != "DynamicLossScale" or config.get("multiplier", 2) != 2:
        raise ValueError(
            "Of the loss scales of TensorFlow 2.3, only FixedLossScale and"
            " DynamicLossScale with a multiplier of 2 are supported. Received:"
            f" {loss_scale}."
        )
    return {
        "dynamic": True,
        "initial_scale": config["initial_loss_scale"],
        "dynamic_growth_steps": config["increment_period"],
    }
