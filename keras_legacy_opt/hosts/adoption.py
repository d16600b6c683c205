"""How one class is an optimizer of every Keras in the process.

`model.compile` accepts only instances of its own Keras' optimizer base: Keras 3
wants `keras.optimizers.Optimizer`, tf_keras wants its OptimizerV2.  Our classes
end their method resolution order in an empty host class.  When a Keras is, or
becomes, imported, its base is appended to the bases of that host class, after
everything of ours: instances are then accepted.  Likewise, a Keras puts its own
LossScaleOptimizer around any other optimizer of a mixed_float16 model, unless
that is an instance of its LossScaleOptimizer.

No code of a host must run.  What Keras calls is defined by us; a name that only
the host's base has is hidden by a shield that stands before the host.
`tests/test_hosts.py` holds this for every name.

The hooks are `wrapt.when_imported`; an exception in one becomes a warning and
never breaks the user's import.
"""

from __future__ import annotations

import contextlib
import functools
import types
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeGuard, TypeVar

import tensorflow as tf
import wrapt

from keras_legacy_opt import clusters, originals, private_api
from keras_legacy_opt.hosts import loading

PACKAGE = "keras_legacy_opt"

_Class = TypeVar("_Class", bound=type)
_Base = TypeVar("_Base")


class OptimizerHost(private_api.Trackable):
    """Empty; its bases become the optimizer bases of the imported Kerases."""


class OptimizerShield:
    """Hides from our optimizers what only the hosts' bases define."""


class _LossScaleRoot:
    """`object`'s own subclasses cannot have their bases replaced."""


class LossScaleHost(_LossScaleRoot):
    """Empty; its bases become the LossScaleOptimizers of the Kerases."""

    inner_optimizer: OptimizerHost


class LossScaleShield:
    """Hides what only the LossScaleOptimizers of the Kerases define."""


class _Hidden:
    """An attribute that is not there, unless the instance has it itself."""

    def __init__(self, name: str):
        self._name = name

    def __get__(self, instance: Any, owner: type) -> Any:
        raise AttributeError(
            f"{owner.__name__!r} object has no attribute {self._name!r}"
        )


class _ScheduleRoot:
    """`object`'s own subclasses cannot have their bases replaced."""


class ScheduleHost(_ScheduleRoot):
    """Empty; its bases become the schedule bases of the imported Kerases."""


_public_classes: list[type] = []
_registrars: list[Any] = []
_adopted: dict[str, types.ModuleType] = {}
_variable_classes: tuple[type, ...] = ()
_optimizer_classes: tuple[type, ...] = ()
_schedule_classes: tuple[type, ...] = ()
_model_classes: dict[type, bool] = {}
# What builds graphs and keeps a session for them, of the adopted Kerases.
_graph_backends: list[Any] = []
# What `track` was given: a Keras that comes later is told of it, too.
_tracked: weakref.WeakSet[Any] = weakref.WeakSet()


def public(cls: _Class) -> _Class:
    """Makes `cls` known by name to every Keras, for (de)serialization."""
    _public_classes.append(cls)
    for register in _registrars:
        register(cls)
    return originals.recorded(cls)


class Hooks(NamedTuple):
    """What modules above this one do in an adopted Keras.

    Attributes:
      complete_saved_model: function of (path, model, optimizer), restores what
        tf_keras' `load_model` leaves in a SavedModel.
      complete_hdf5: function of (path or open file, model, optimizer, weights),
        gives the optimizer the weights that were loaded from an HDF5 file.
      note_hdf5: function of (open file, model, optimizer, weights), writes down
        which variables these weights of it in an HDF5 file are of.
      complete_archive: function of (model, optimizer), makes the variables that
        the state in a `.keras` file is waiting for.
      pass_loss_on: function of (optimizer of Keras 3 that holds ours, the loss
        that it has scaled), returns the loss.
    """

    complete_saved_model: Callable[[str, Any, Any], None]
    complete_hdf5: Callable[[Any, Any, Any, list[Any]], None]
    note_hdf5: Callable[[Any, Any, Any, list[Any]], None]
    complete_archive: Callable[[Any, Any], None]
    pass_loss_on: Callable[[Any, Any], Any]


_hooks: Hooks


def adopt(keras: types.ModuleType) -> None:
    """Makes our classes optimizers and schedules of the module `keras`."""
    global _variable_classes, _optimizer_classes, _schedule_classes
    if keras.__name__ in _adopted:
        return
    optimizers = keras.optimizers
    is_keras_3 = int(keras.__version__.split(".")[0]) >= 3
    base = optimizers.Optimizer if is_keras_3 else optimizers.legacy.Optimizer
    _add_base(OptimizerHost, base, is_keras_3)
    _optimizer_classes += (base, optimizers.Optimizer)
    _hide_names_of(base, OptimizerHost, OptimizerShield)
    if is_keras_3:
        loss_scale_base = keras.mixed_precision.LossScaleOptimizer
    else:
        loss_scale_base = private_api.loss_scale_class(keras)
    _add_base(LossScaleHost, loss_scale_base, is_keras_3)
    _hide_names_of(loss_scale_base, LossScaleHost, LossScaleShield)
    schedule_base = optimizers.schedules.LearningRateSchedule
    _add_base(ScheduleHost, schedule_base, is_keras_3)
    _schedule_classes += (schedule_base,)
    if is_keras_3:
        _variable_classes += (private_api.variable_class(keras),)
        private_api.pass_losses_on(keras, _hooks.pass_loss_on)
    else:
        _adopt_graph_backend(private_api.graph_backend(keras))
        private_api.let_save(keras, OptimizerHost)
        private_api.complete_saved_models(keras, _complete_saved_model)
    _model_classes[keras.Model] = is_keras_3
    private_api.weights_inside(keras, loading.saving, loading.of_weights)
    private_api.complete_loading(keras, loading.of_model, _complete_archive)
    private_api.complete_hdf5_files(
        keras, loading.of_hdf5, _complete_hdf5, loading.saving, _note_hdf5
    )
    if is_keras_3:  # tf_keras' takes a checkpoint.
        private_api.call_inside(
            keras.callbacks.BackupAndRestore,
            "on_train_begin",
            loading.of_everything,
        )
        clusters.correct(keras, unwrap)
    register = keras.saving.register_keras_serializable(package=PACKAGE)
    _registrars.append(register)
    for cls in _public_classes:
        register(cls)
    _adopted[keras.__name__] = keras


def model_class(model: Any) -> tuple[type, bool]:
    """The `Model` of the Keras of `model`, and whether that is Keras 3.

    Raises:
      TypeError: if `model` is of no adopted Keras.
    """
    for cls, is_keras_3 in _model_classes.items():
        if isinstance(model, cls):
            return cls, is_keras_3
    raise TypeError(
        "Expected a model of Keras 3 or tf_keras. Received:"
        f" {model!r} of type {type(model).__name__}."
    )


def schedule_classes() -> tuple[type, ...]:
    """The schedule bases of the adopted Kerases."""
    return _schedule_classes


def is_kind_of(cls: Any, base: type) -> TypeGuard[type]:
    """Whether `cls` is an optimizer or schedule class, of whichever Keras.

    Args:
      cls: anything.
      base: `OptimizerHost` or `ScheduleHost`.
    """
    of_hosts = {
        OptimizerHost: _optimizer_classes,
        ScheduleHost: _schedule_classes,
    }
    return isinstance(cls, type) and issubclass(cls, (base, *of_hosts[base]))


def public_classes(base: type[_Base]) -> list[type[_Base]]:
    """Our public subclasses of `base`, by their names."""
    found = [cls for cls in _public_classes if issubclass(cls, base)]
    return sorted(found, key=lambda cls: cls.__name__)


def public_class(name: str, base: type[_Base]) -> type[_Base] | None:
    """Our public subclass of `base` called `name`, in any letter case."""
    for cls in public_classes(base):
        if cls.__name__.lower() == name.lower():
            return cls
    return None


def public_names(base: type) -> list[str]:
    """The names of our public subclasses of `base`."""
    return [cls.__name__ for cls in public_classes(base)]


def registered_object(name: str) -> Any | None:
    """What an adopted Keras has registered for serialization as `name`."""
    for keras in _adopted.values():
        found = keras.saving.get_registered_object(name)
        if found is not None:
            return found
    return None


def registered_name(cls: type) -> str:
    """The name under which an adopted Keras knows `cls`, or its own name."""
    for keras in _adopted.values():
        name = keras.saving.get_registered_name(cls)
        if name != cls.__name__:
            return name
    return cls.__name__


def keras_of(cls: type) -> types.ModuleType | None:
    """The adopted Keras that `cls` is a class of, or a subclass of one."""
    for base in cls.__mro__:
        keras = _adopted.get(originals.package_of(base))
        if keras is not None:
            return keras
    return None


def keras_of_model(model: Any) -> types.ModuleType:
    """The adopted Keras of a model.

    Raises:
      TypeError: see `model_class`.
    """
    cls, _ = model_class(model)
    return next(keras for keras in _adopted.values() if keras.Model is cls)


def serialize(value: Any) -> Any:
    """`value` as its Keras serializes it; an array, tensor, ... as any does."""
    keras = keras_of(type(value)) or next(iter(_adopted.values()), None)
    return (
        value if keras is None else keras.saving.serialize_keras_object(value)
    )


@contextlib.contextmanager
def custom_object_scope(custom_objects: Mapping[str, Any]) -> Iterator[None]:
    """Lets every adopted Keras, and us, find `custom_objects` by name."""
    with contextlib.ExitStack() as stack:
        for keras in _adopted.values() if custom_objects else ():
            scope = keras.saving.custom_object_scope(dict(custom_objects))
            stack.enter_context(scope)
        yield


def adopted() -> frozenset[str]:
    """The names of the Kerases whose `compile` accepts our optimizers."""
    return frozenset(_adopted)


def track(variable: Any) -> None:
    """Lets the session of a Keras initialize `variable`, if it is in a graph.

    Every variable that an optimizer makes comes here.
    """
    if tf.compat.v1.executing_eagerly_outside_functions():
        return
    _tracked.add(variable)
    for backend in _graph_backends:
        backend.track_variable(variable)


def session(tensors: Sequence[Any]) -> tf.compat.v1.Session | None:
    """The session that variables and tensors in a graph are read and set in.

    It is the default session; without one, that of an adopted Keras' backend.
    Such a Keras first initializes the variables that it was told of.
    """
    default = tf.compat.v1.get_default_session()
    may_add_ops = default is None or not default.graph.finalized
    if _graph_backends and may_add_ops:
        return _graph_backends[0].get_session(tensors)
    return default


def _adopt_graph_backend(backend: Any) -> None:
    _graph_backends.append(backend)
    for variable in _tracked:
        with variable.graph.as_default():
            backend.track_variable(variable)


def unwrap(variable: Any) -> Any:
    """The `tf.Variable` inside a `keras.Variable`; anything else as it is.

    Raises:
      TypeError: if the variable is sharded, or not backed by TensorFlow.
    """
    if not isinstance(variable, _variable_classes):
        return variable
    value = variable._value  # `.value` may be an autocast copy.
    if isinstance(value, private_api.ShardedVariable):
        raise TypeError(
            f"keras.Variable {variable.path!r} is sharded, which layers of"
            " Keras 3 cannot train: make the strategy without"
            " `variable_partitioner`. Or have tables that are sharded as"
            " `tf.Variable`s, looked up by tf.nn.embedding_lookup in a loop of"
            " your own, or a model of tf_keras."
        )
    if not isinstance(value, tf.Variable):
        raise TypeError(
            f"keras.Variable {variable.path!r} holds a {type(value).__name__},"
            " not a tf.Variable: build the model first, and run Keras on"
            " TensorFlow (set the environment variable"
            " KERAS_BACKEND=tensorflow before importing it)."
        )
    return value


def is_keras_variable(variable: Any) -> bool:
    """Whether `variable` is a Keras 3 variable."""
    return isinstance(variable, _variable_classes)


def path_of(variable: Any) -> str:
    """The path of a `keras.Variable`, or the name of a `tf.Variable`."""
    if is_keras_variable(variable):
        return variable.path
    return private_api.shared_name(variable)


def _complete_saved_model(path: str, model: Any) -> None:
    optimizer = _our_optimizer(model)
    if optimizer is not None:
        _hooks.complete_saved_model(path, model, optimizer)


def _complete_hdf5(file: Any, model: Any) -> None:
    loading.complete_hdf5(functools.partial(_hooks.complete_hdf5, file, model))


def _note_hdf5(file: Any, optimizer: Any) -> None:
    model, own = loading.model(), _ours(optimizer)
    if model is not None and own is not None:
        _hooks.note_hdf5(file, model, own, list(optimizer.variables))


def _complete_archive(path: str, model: Any) -> None:
    del path
    loading.complete(model)
    optimizer = _our_optimizer(model)
    if optimizer is not None and model.built:
        _hooks.complete_archive(model, optimizer)


def _our_optimizer(model: Any) -> Any | None:
    return _ours(getattr(model, "optimizer", None))


def _ours(optimizer: Any) -> Any | None:
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    return optimizer if isinstance(optimizer, OptimizerHost) else None


def _add_base(host: type, base: type, is_keras_3: bool) -> None:
    *others, root = host.__bases__
    # In one order, whichever Keras came first: the bases of tf_keras are
    # Trackables, which those of early Keras 3 are not, and Trackable is last.
    bases = (base, *others) if is_keras_3 else (*others, base)
    host.__bases__ = (*bases, root)


def _hide_names_of(base: type, host: type, shield: type) -> None:
    roots = (private_api.Trackable, object)
    for cls in host.__subclasses__():
        for name in dir(base):
            definer = next(c for c in cls.__mro__ if name in vars(c))
            if definer in roots or originals.package_of(definer) == PACKAGE:
                continue
            root = next((c for c in roots if name in vars(c)), None)
            hidden = vars(root)[name] if root else _Hidden(name)
            setattr(shield, name, hidden)


def _adopt_or_warn(keras: types.ModuleType) -> None:
    try:
        adopt(keras)
    except Exception as error:
        warnings.warn(
            f"{PACKAGE} could not join {keras.__name__}"
            f" {getattr(keras, '__version__', '?')}, whose model.compile will"
            f" not accept its optimizers: {error!r}",
            stacklevel=2,
        )


def watch_imports(hooks: Hooks) -> None:
    """Adopts each Keras: now if it is imported, else when it will be."""
    global _hooks
    _hooks = hooks
    for name in ("keras", "tf_keras"):
        wrapt.when_imported(name)(_adopt_or_warn)
