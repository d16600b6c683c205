"""The base class of all optimizers, and the order of one step."""

from __future__ import annotations

import contextlib
import functools
import inspect
import warnings
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

import tensorflow as tf

from keras_legacy_opt import (
    distribution,
    hosts,
    originals,
    private_api,
    serialization,
)
from keras_legacy_opt.hosts import overrides
from keras_legacy_opt.hosts.keras_3_api import Keras3Mixin, scaled_loss
from keras_legacy_opt.state import reads, saving
from keras_legacy_opt.state.hyperparameters import HyperparameterMixin
from keras_legacy_opt.state.saving import SavingMixin
from keras_legacy_opt.state.slots import SlotMixin
from keras_legacy_opt.state.variables import KnownVariables
from keras_legacy_opt.state.weights import WeightMixin
from keras_legacy_opt.step import clipping, gradients, stepper
from keras_legacy_opt.step.around import Around
from keras_legacy_opt.step.clipping import ClippingMixin
from keras_legacy_opt.step.own import OwnMixin

_ALLOWED_KWARGS = ("clipnorm", "clipvalue", "decay", "global_clipnorm", "lr")
_KWARGS_OF_KERAS_3 = {
    "ema_momentum": "it has no moving average of the weights",
    "ema_overwrite_frequency": "it has no moving average of the weights",
    "gradient_accumulation_steps": "sum the gradients before applying them",
    "jit_compile": "pass it to model.compile or tf.function",
    "loss_scale_factor": "set it as an attribute",
    "use_ema": "it has no moving average of the weights",
    "weight_decay": "use a kernel_regularizer or a subclass with weight decay",
}
_VALID_DTYPES = frozenset(
    [
        tf.bfloat16,
        tf.complex64,
        tf.complex128,
        tf.float16,
        tf.float32,
        tf.float64,
    ]
)

GradsAndVars = Sequence[tuple[Any, Any]]


@originals.recorded
class Optimizer(
    HyperparameterMixin,
    SlotMixin,
    SavingMixin,
    WeightMixin,
    ClippingMixin,
    OwnMixin,
    Keras3Mixin,
    overrides.OverrideMixin,
    hosts.OptimizerShield,
    hosts.OptimizerHost,
):
    """Base class of the legacy Keras optimizers (OptimizerV2).

    Use one of its subclasses, such as `keras_legacy_opt.SGD`, or write one.
    All of them are accepted by `model.compile` of Keras 3 and of tf_keras.

    ### Usage

    The loss is a callable without arguments.  In eager execution `minimize`
    updates the variables; in a TF1 graph it returns the op that does.

    >>> var1, var2 = tf.Variable(2.0), tf.Variable(5.0)
    >>> opt = keras_legacy_opt.SGD(learning_rate=0.1)
    >>> _ = opt.minimize(lambda: 3 * var1**2 + 2 * var2**2, [var1, var2])
    >>> print(round(float(var1), 4), round(float(var2), 4))
    0.8 3.0

    Where variables come into being when the loss is first computed, as those
    of a model without an input shape do, pass a callable `var_list`.

    >>> model = tf.keras.Sequential([tf.keras.layers.Dense(1)])
    >>> loss = lambda: tf.reduce_sum(model(tf.ones((1, 2))) ** 2)
    >>> _ = opt.minimize(loss, lambda: model.trainable_variables)

    ### Processing gradients before they are applied

    Compute them with a `tf.GradientTape`, process them, and hand them to
    `apply_gradients`:

    >>> with tf.GradientTape() as tape:
    ...     loss = 3 * var1**2
    >>> grads = [tf.minimum(g, 1.0) for g in tape.gradient(loss, [var1])]
    >>> _ = opt.apply_gradients(zip(grads, [var1]))
    >>> round(float(var1), 4)
    0.7

    ### tf.distribute

    In the replica context of a `tf.distribute.Strategy`, gradients are summed
    over the replicas: divide the loss by the global batch size to average
    them.  A gradient that is `None` on some of the replicas counts as zeros
    there.  With `apply_gradients(..., experimental_aggregate_gradients=False)`
    the summing is yours.

    ### Hyperparameters

    Each may be a number, a tensor, a variable, or a callable without arguments
    that is called at every step; the learning rate may also be a schedule of
    `keras_legacy_opt.schedules`, of Keras 3 or of tf_keras.  They are read and
    overwritten as attributes, without a new trace of a `tf.function`:

    >>> opt.learning_rate = 0.05
    >>> _ = opt.minimize(lambda: 3 * var1 + 2 * var2, [var1, var2])
    >>> round(float(var1), 4)
    0.55

    ### Slots

    `Adam` and others keep variables beside each variable they train.

    >>> opt = keras_legacy_opt.Adam()
    >>> _ = opt.minimize(lambda: var1**2, [var1])
    >>> opt.get_slot_names(), opt.get_slot(var1, "m").shape
    (['m', 'v'], TensorShape([]))

    ### Constraints

    A variable's constraint is applied to it after its update, whether its
    gradient is dense or sparse.

    ### Threads

    Optimizers are thread-compatible, not thread-safe: callers synchronize.

    ### Writing an optimizer

    Override `_resource_apply_dense` and `_resource_apply_sparse` (the update of
    a variable), `_create_slots` if it needs slots, and `get_config`, with all
    hyperparameters.  `examples/custom_optimizer.py` is one.
    """

    # Also of a wrapper that never calls this constructor.
    _known_variables = cast(
        KnownVariables, functools.cached_property(lambda self: KnownVariables())
    )

    def __init__(
        self,
        name: str | None,
        gradient_aggregator: Callable[..., GradsAndVars] | None = None,
        gradient_transformers: Sequence[Callable[..., GradsAndVars]]
        | None = None,
        **kwargs: Any,
    ):
        """Creates an optimizer; called by the constructors of subclasses.

        Args:
          name: String, the prefix of the names of the optimizer's variables.
          gradient_aggregator: function from a list of (gradient, variable)
            tuples to another, which aggregates the gradients over the replicas
            of a strategy.  If `None`, they are summed.
          gradient_transformers: list of such functions, applied in order after
            the aggregation.
          **kwargs: `clipvalue` clips every element of every gradient to plus or
            minus it; `clipnorm` clips the L2 norm of each gradient;
            `global_clipnorm` that of all gradients together.  `decay` divides
            the learning rate by `1 + decay * iterations`.  `lr` is an old name
            of `learning_rate`.

        Raises:
          TypeError: for an unknown keyword.
          ValueError: for a negative value, or options that exclude each other.
        """
        _check_kwargs(kwargs, type(self).__name__)
        if "lr" in kwargs:
            warnings.warn(
                "The argument `lr` is an old name: use `learning_rate`.",
                stacklevel=3,
            )
        self._init_process_state()
        self._use_locking = True
        self._init_set_name(name)
        self._hyper = {}
        self._slot_names = []
        self._pending_weights = None
        self._initial_decay = kwargs.get("decay", 0.0)
        self.gradient_aggregator = (
            gradient_aggregator or gradients.all_reduce_sum
        )
        self.gradient_transformers = gradient_transformers or []
        self.clipnorm = kwargs.get("clipnorm")
        self.global_clipnorm = kwargs.get("global_clipnorm")
        if self.clipnorm is not None and self.global_clipnorm is not None:
            raise ValueError(
                "Cannot accept both `clipnorm` and `global_clipnorm`: they"
                f" exclude each other. Received: clipnorm={self.clipnorm},"
                f" global_clipnorm={self.global_clipnorm}."
            )
        self.clipvalue = kwargs.get("clipvalue")

    def _init_process_state(self) -> None:
        """Sets up what is never pickled: variables, and what refers to them."""
        overrides.guard(type(self))
        self._iterations = None
        self._hypers_created = False
        self._traced_without_decay = False
        self._slots = {}
        self._weights = []
        self._deferred_slot_restorations = {}
        self._slots_out_of_turn = set()
        self._slots_anew = {}
        self._first_values = {}
        self._early_slots = []
        self._distribution_strategy = distribution.current_strategy()
        self._known_variables = KnownVariables()
        self._clip_limits = clipping.ClipLimits()
        self._averaging = None
        self._watch = None
        self.built = False  # Whether any variable has got its slots.

    def _init_set_name(self, name: str | None, zero_based: bool = True) -> None:
        self._name = name or _unique_name(type(self).__name__, zero_based)

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
        """Computes the gradients of `loss` and applies them to `var_list`.

        Args:
          loss: a callable without arguments that returns the value to minimize,
            or a `Tensor`, for which `tape` is needed.
          var_list: list or tuple of variables, or a callable that returns it,
            called after `loss`.
          grad_loss: (Optional) tensor, the gradient of `loss`.
          name: (Optional) name of the returned operation.
          tape: (Optional) `tf.GradientTape` that recorded `loss`.

        Returns:
          An `Operation` that updates the variables and counts one iteration (in
          eager execution: the `iterations`).

        Raises:
          ValueError: if `tape` is missing, or no variable has a gradient.
        """
        grads_and_vars = self._compute_gradients(
            loss, var_list=var_list, grad_loss=grad_loss, tape=tape
        )
        return self.apply_gradients(grads_and_vars, name=name)

    def _compute_gradients(
        self,
        loss: Any,
        var_list: Any,
        grad_loss: Any = None,
        tape: tf.GradientTape | None = None,
    ) -> list[tuple[Any, Any]]:
        """The first half of `minimize`: (gradient, variable) pairs."""
        if not callable(loss) and tape is None:
            raise ValueError(
                "`tape` is required: a `Tensor` as the loss needs the `tape`"
                " that recorded it."
                f" Received: loss={loss}, tape=None."
            )
        tape = tf.GradientTape() if tape is None else tape
        if callable(loss):
            with tape:
                if not callable(var_list):
                    tape.watch(tf.nest.map_structure(hosts.unwrap, var_list))
                loss = loss()
                if callable(var_list):
                    var_list = var_list()
        with tape:
            loss = scaled_loss(self, loss)
        var_list = [
            self._known_variables.unwrap(v) for v in tf.nest.flatten(var_list)
        ]
        with tf.name_scope(self._name + "/gradients"):
            grads_and_vars = self._get_gradients(
                tape, loss, var_list, grad_loss
            )
        self._assert_valid_dtypes(
            [v for g, v in grads_and_vars if g is not None]
        )
        return grads_and_vars

    def _transform_loss(self, loss: Any) -> Any:
        """Transforms the loss before gradients are computed; to override."""
        return loss

    def _get_gradients(
        self,
        tape: tf.GradientTape,
        loss: Any,
        var_list: Sequence[Any],
        grad_loss: Any = None,
    ) -> list[tuple[Any, Any]]:
        """Computes the gradients in `minimize`; to override."""
        grads = tape.gradient(loss, var_list, grad_loss)
        return list(zip(grads, var_list, strict=True))

    def _transform_unaggregated_gradients(
        self, grads_and_vars: GradsAndVars
    ) -> GradsAndVars:
        """Transforms each replica's gradients; to override."""
        return grads_and_vars

    def _aggregate_gradients(
        self, grads_and_vars: GradsAndVars
    ) -> GradsAndVars:
        """Aggregates the gradients over the replicas; to override."""
        return self.gradient_aggregator(grads_and_vars)

    def _transform_gradients(
        self, grads_and_vars: GradsAndVars
    ) -> GradsAndVars:
        """Clips the aggregated gradients, then applies the transformers."""
        grads_and_vars = clipping.clip(self, grads_and_vars)
        for transform in self.gradient_transformers:
            grads_and_vars = transform(grads_and_vars)
        return grads_and_vars

    @tf.autograph.experimental.do_not_convert
    def get_gradients(self, loss: tf.Tensor, params: Any) -> list[Any]:
        """The gradients of `loss` with respect to `params`, in a TF1 graph.

        Args:
          loss: the loss, a tensor.
          params: list of variables.

        Returns:
          List of gradient tensors.

        Raises:
          ValueError: if a gradient cannot be computed.
        """
        params = [
            self._known_variables.unwrap(p) for p in tf.nest.flatten(params)
        ]
        with tf.name_scope(self._name + "/gradients"):
            grads = tf.compat.v1.gradients(loss, params)
        for grad, param in zip(grads, params, strict=True):
            if grad is None:
                raise ValueError(
                    f"Variable {param.name!r} has `None` for gradient: the loss"
                    " does not depend on it, or only through an operation that"
                    " has none, such as argmax or round."
                )
        return grads

    @tf.autograph.experimental.do_not_convert
    def get_updates(self, loss: tf.Tensor, params: Any) -> list[Any]:
        """The update ops of one step, in a TF1 graph."""
        params = [
            self._known_variables.unwrap(p) for p in tf.nest.flatten(params)
        ]
        grads = self.get_gradients(loss, params)
        self._assert_valid_dtypes(params)
        return [self.apply_gradients(list(zip(grads, params, strict=True)))]

    # Others inside, see `addons.wrapper`.

    def _shares(
        self, variables: Sequence[Any]
    ) -> list[tuple[Optimizer, list[Any]]]:
        """Which optimizers inside update which of some `tf.Variable`s."""
        del variables
        return []

    def _adds(self, variable: Any, takes_own: bool) -> str:
        """What it adds to the step of an optimizer inside, for people.

        Args:
          variable: a `tf.Variable`.
          takes_own: whether what updates it there moves averages in its pass.
        """
        raise NotImplementedError

    def _around_planned(self) -> Around | None:
        """What it does in eager steps that are planned, around one inside.

        None: it has none inside, or has no planned steps.
        """

    # One step.

    # As legacy: AutoGraph would slow tracing and rewrite subclasses' methods.
    @tf.autograph.experimental.do_not_convert
    def apply_gradients(
        self,
        grads_and_vars: Iterable[tuple[Any, Any]],
        name: str | None = None,
        experimental_aggregate_gradients: bool = True,
    ) -> Any:
        """Applies gradients to variables: the second half of `minimize`.

        Args:
          grads_and_vars: (gradient, variable) pairs.  A gradient is a tensor of
            the variable's shape and dtype, `IndexedSlices`, or `None`.
          name: (Optional) name of the returned operation.
          experimental_aggregate_gradients: whether to sum the gradients over
            the replicas of a strategy.  If `False`, that is up to the caller:

            >>> v = tf.Variable(1.0)
            >>> grads = [tf.constant(2.0)]
            >>> replica = tf.distribute.get_replica_context()
            >>> grads = replica.all_reduce("sum", grads)
            >>> _ = keras_legacy_opt.SGD(0.1).apply_gradients(
            ...     zip(grads, [v]), experimental_aggregate_gradients=False)
            >>> round(float(v), 4)
            0.8

        Returns:
          An `Operation` that updates the variables and counts one iteration (in
          eager execution: the `iterations`).

        Raises:
          TypeError: if `grads_and_vars` is malformed.
          ValueError: if no variable has a gradient, or a gradient does not fit
            its variable.
          RuntimeError: in cross-replica context.
          NotImplementedError: if a variable is a tensor, or the strategy must
            aggregate and shall not.
        """
        return stepper.take(
            self, grads_and_vars, name, experimental_aggregate_gradients
        )

    def _create_all_weights(self, var_list: Sequence[Any]) -> None:
        """Creates the iterations, hyperparameters, and slots of `var_list`.

        What exists already is left as it is: variables may come at any time.
        """
        var_list = [self._known_variables.unwrap(v) for v in var_list]
        _ = self.iterations
        self._create_hypers()
        if tf.executing_eagerly():
            clipping.create_limits(self)
        if not var_list:
            return
        self._known_variables.add_with_slots(var_list)
        self._create_slots(var_list)
        self._create_slots_for_sharded_variables(var_list)
        self.built = True
        saving.restore_wrapped(self, var_list)
        saving.apply_pending_weights(self)
        saving.apply_early_slots(self, var_list)

    def _prepare(
        self, var_list: Sequence[Any]
    ) -> dict[tuple[str, tf.DType], dict[str, Any]]:
        """The step's coefficients, per device and dtype of the variables."""
        keys = {
            (device, var.dtype.base_dtype): None
            for var in var_list
            for device in private_api.devices_of(var)
        }
        apply_state = {}
        for device, dtype in keys:
            apply_state[device, dtype] = {}
            with tf.device(device):
                self._prepare_local(device, dtype, apply_state)
        return apply_state

    def _prepare_local(
        self, var_device: str, var_dtype: tf.DType, apply_state: dict
    ) -> None:
        """Adds coefficients to `apply_state[var_device, var_dtype]`."""
        if "learning_rate" in self._hyper:
            lr_t = reads.once(self._decayed_lr(var_dtype))
            apply_state[var_device, var_dtype]["lr_t"] = lr_t

    def _fallback_apply_state(
        self, var_device: str, var_dtype: tf.DType
    ) -> dict[str, Any]:
        """The coefficients, for subclasses that do not pass `apply_state`."""
        apply_state = {(var_device, var_dtype): {}}
        self._prepare_local(var_device, var_dtype, apply_state)
        return apply_state[var_device, var_dtype]

    @tf.autograph.experimental.do_not_convert
    def _distributed_apply(
        self,
        distribution: tf.distribute.Strategy,
        grads_and_vars: GradsAndVars,
        apply_state: dict,
        name: str | None,
    ) -> Any:
        """Updates each variable on its devices, then counts the iteration."""
        return stepper.run(
            self, distribution, grads_and_vars, apply_state, name
        )

    def _count_skipped_step(self) -> Any:
        """Counts a step that a loss scale has skipped: an iteration, too."""
        return self.iterations.assign_add(1, read_value=False)

    # The update of one variable; for subclasses to override.

    def _resource_apply_dense(
        self, grad: tf.Tensor, handle: Any, apply_state: dict
    ) -> Any:
        """Updates variable `handle` by a dense gradient.

        Args:
          grad: tensor of the shape and dtype of the variable.
          handle: the variable.
          apply_state: the result of `_prepare`.  A subclass may leave this
            argument out of its signature.

        Returns:
          An `Operation` that updates the variable.
        """
        raise NotImplementedError(
            "`_resource_apply_dense` must be implemented in subclasses:"
            f" {type(self).__name__} has none."
        )

    def _resource_apply_sparse_duplicate_indices(
        self, grad: tf.Tensor, handle: Any, indices: tf.Tensor, **kwargs: Any
    ) -> Any:
        """Updates rows of variable `handle`; `indices` may repeat.

        Sums the gradients of equal indices and calls `_resource_apply_sparse`.
        Override it if the update can do without that.

        Args:
          grad: tensor, the gradients of the rows.
          handle: the variable.
          indices: integer tensor, the rows.
          **kwargs: `apply_state`, if `_resource_apply_sparse` takes it.

        Returns:
          An `Operation` that updates the variable.
        """
        grad, indices = gradients.deduplicate(
            grad, indices, gradients.rows_of(handle)
        )
        return self._resource_apply_sparse(grad, handle, indices, **kwargs)

    def _resource_apply_sparse(
        self,
        grad: tf.Tensor,
        handle: Any,
        indices: tf.Tensor,
        apply_state: dict,
    ) -> Any:
        """Updates rows of variable `handle`; `indices` are unique.

        Args:
          grad: tensor, the gradients of the rows.
          handle: the variable.
          indices: integer tensor, the rows.
          apply_state: the result of `_prepare`.  A subclass may leave this
            argument out of its signature.

        Returns:
          An `Operation` that updates the variable.
        """
        raise NotImplementedError(
            "`_resource_apply_sparse` must be implemented in subclasses:"
            f" {type(self).__name__} has none."
        )

    @property
    def _dense_apply_args(self) -> list[str]:
        return _argument_names(_function(self._resource_apply_dense))

    @property
    def _sparse_apply_args(self) -> list[str]:
        return _argument_names(_function(self._resource_apply_sparse))

    # Variables.

    def _distribution_strategy_scope(self) -> Any:
        return distribution.scope_of(self._distribution_strategy)

    def _assert_valid_dtypes(self, tensors: Iterable[Any]) -> None:
        """Raises ValueError if a tensor is of none of the `_valid_dtypes`."""
        valid_dtypes = self._valid_dtypes()
        for tensor in tensors:
            dtype = tensor.dtype.base_dtype
            if dtype not in valid_dtypes and dtype != tf.resource:
                raise ValueError(
                    f"Invalid type {dtype.name} for {tensor.name!r}, expected:"
                    f" one of {sorted(d.name for d in valid_dtypes)}."
                )

    def _valid_dtypes(self) -> Iterable[tf.DType]:
        """The dtypes that variables may have; to override."""
        return _VALID_DTYPES

    def _trackable_children(
        self, save_type: str = "checkpoint", **kwargs: Any
    ) -> dict[str, Any]:
        """What a checkpoint holds: iterations, hyperparameters, weights.

        A SavedModel's functions may read the clip values, too, and all
        hyperparameters.
        """
        children = dict(
            private_api.Trackable._trackable_children(self, save_type, **kwargs)
        )
        if save_type == "savedmodel":
            children.update(
                {f"_{k}": v for k, v in self._clip_limits.variables.items()}
            )
            for name, value in self._hyper.items():
                if isinstance(value, tf.Variable) and (
                    not self._is_checkpointed(name)
                ):
                    children.setdefault(f"_hyper_{name}", value)
        return children

    # Configuration.

    def get_config(self) -> dict[str, Any]:
        """The configuration: what `from_config` makes an equal optimizer of.

        Returns:
          A JSON-compatible dictionary.  Subclasses add their hyperparameters.
        """
        config: dict[str, Any] = {"name": self._name}
        for option in ("clipnorm", "clipvalue", "global_clipnorm"):
            if getattr(self, option) is not None:
                config[option] = getattr(self, option)
        return config

    @classmethod
    def from_config(
        cls,
        config: Mapping[str, Any],
        custom_objects: Mapping[str, Any] | None = None,
    ) -> Any:
        """The optimizer of a configuration.

        Args:
          config: dictionary, as returned by `get_config` of any release; the
            old spelling `lr` of the learning rate is understood.
          custom_objects: maps names to classes that a schedule may name.

        Returns:
          An optimizer without state.
        """
        config = dict(config)
        if "lr" in config:
            config["learning_rate"] = config.pop("lr")
        if isinstance(config.get("learning_rate"), Mapping):
            config["learning_rate"] = serialization.deserialize_schedule(
                config["learning_rate"], custom_objects
            )
        return cls(**config)


_name_counts: dict[str, int] = {}


def _unique_name(class_name: str, zero_based: bool) -> str:
    """`sgd`, `sgd_1`, ...: names of optimizers that were given none."""
    snake = "".join(
        f"_{c.lower()}"
        if c.isupper() and i and not class_name[i - 1].isupper()
        else c.lower()
        for i, c in enumerate(class_name)
    )
    count = _name_counts.get(snake, 0 if zero_based else 1)
    _name_counts[snake] = count + 1
    return f"{snake}_{count}" if count else snake


def _check_kwargs(kwargs: Mapping[str, Any], class_name: str) -> None:
    for name, value in kwargs.items():
        if name not in _ALLOWED_KWARGS:
            hint = _KWARGS_OF_KERAS_3.get(name)
            raise TypeError(
                f"Unexpected keyword argument of {class_name}: {name!r}."
                f" Allowed are {', '.join(_ALLOWED_KWARGS)}."
                + (f" {name!r} is Keras 3's: {hint}." if hint else "")
            )
        if value is not None and not callable(value) and value < 0:
            raise ValueError(f"Expected {name} >= 0, received: {value}.")


def _function(method: Any) -> Any:
    return getattr(method, "__func__", method)


# A class made at run time must not stay alive for its methods' sake.
_signatures: weakref.WeakKeyDictionary[Any, list[str]] = (
    weakref.WeakKeyDictionary()
)


def _argument_names(function: Callable[..., Any]) -> list[str]:
    try:
        return _signatures[function]
    except (KeyError, TypeError):
        names = list(inspect.signature(function).parameters)
    with contextlib.suppress(TypeError):  # No function, but callable.
        _signatures[function] = names
    return names
