"""Every private TensorFlow API that this package uses, in one place.

Each was checked on TensorFlow 2.16 and 2.21.  The public API offers nothing
for these jobs:

* `Trackable`: the base of everything a checkpoint can hold.
* `MARKS_OF_VALUES`: by these methods TensorFlow tells which classes have values
  in a checkpoint besides those of their variables.
* `CheckpointInitialValueCallable`: the initializer that restores a slot.
* `ShardedVariable`: variables that are sharded over parameter servers.
* `maybe_merge_call`, `strategy_supports_no_merge_call`: how an update leaves
  the replica context of a `tf.distribute.Strategy`.
* `object_graph`: what a checkpoint says about the objects it was made of.
* `bundle_header`, `bundle_entry`: what the index of a checkpoint announces.
* `OPTIMIZER_IN_SAVED_MODEL`: the registered name under which a SavedModel
  restores an object that has slots; any other name makes loading fail.
* `let_save`: tf_keras saves to `.keras` files the state of its own classes
  only, and without a word drops that of legacy optimizers.
* `complete_loading`: tf_keras builds no legacy optimizer of a `.keras` file;
  Keras 3 builds it for what is not frozen.
* `complete_saved_models`: tf_keras leaves an optimizer's state in a SavedModel.
* `complete_hdf5_files`: the Kerases give an optimizer the weights in an HDF5
  file by their order, and leave their names in there; which may repeat.
* `model_of_legacy_config`: Keras 3 makes a model of the architecture in its
  HDF5 files only together with the weights.
* `weights_inside`: optimizers are not told that weights only are wanted, nor of
  which model.
* `call_rarely`: what `tf.cond` becomes costs a little for each tensor that a
  branch uses, whichever is taken.
* `has_random_state`: what a `tf.function` was traced to has no public name.
* `graph_backend`: in TF1 graphs, tf_keras keeps a session of its own and
  initializes the variables there that it was told of.
* `is_in_graph`, `eager_mode`: whether a session or eager execution has the
  value of a variable, wherever it is asked for.
* `pass_losses_on`, `scaled_by`: Keras 3's wrappers of optimizers scale the
  loss without a word to what they wrap.
* `forward_pass`: the first half of Keras 3's `train_step`, which has no public
  name.
* `tensorflow_trainer`: what Keras 3's `fit` does with a strategy.
* `per_replica`, `parts_of`, `names_in`, `constants_in`: to find what a Keras
  does wrong, without a cluster.
* `rename`: outside its layers' `build`, Keras 3 gives a `tf.Variable` no name
  that tells which layer it is of.
* `variable_without_value`: for models of which only the names are wanted.
* `order_updates_of_members`, `describe_members`, `export_captures_as`,
  `capture_as`, `serializable`: functions that capture one handle for many
  variables.
* `arguments_of_functions`: a function's argument is another variable in each
  call, but the trace sees the one of its first.
* `is_of_this_trace`: the graphs around that of a function have no public name.
* `loss_scale_class`: in graphs, tf_keras scales the loss for instances of one
  class only, whose public name is that of the base of two.
* `gradient_helpers`: old subclasses call these functions of Keras, of which
  TensorFlow has a copy.
* `variable_class`: up to Keras 3.6, `keras.Variable` is a subclass of what the
  layers make, and thus says of no variable that it is one.
* `is_plain`: the class of variables that their handle is all of.
* `variable_id`, `creation_number`, `shared_name`: the identity that legacy's
  slot keys and slot names are made of.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import importlib
import importlib.metadata
import types
import weakref
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, TypeVar

import tensorflow as tf

_Class = TypeVar("_Class", bound=type)

if TYPE_CHECKING:

    class Trackable:
        """What is used of TensorFlow's class, whose types are not known."""

        def _add_variable_with_custom_getter(
            self, name: str, shape: Any, **kwargs: Any
        ) -> Any: ...

        def _gather_saveables_for_checkpoint(self) -> dict[str, Any]: ...

        def _track_trackable(
            self, trackable: Any, name: str, overwrite: bool = False
        ) -> Any: ...

        def _trackable_children(
            self, save_type: str = "checkpoint", **kwargs: Any
        ) -> dict[str, Any]: ...

else:
    Trackable = tf.__internal__.tracking.Trackable
MARKS_OF_VALUES = (
    "_copy_trackable_to_cpu",
    "_gather_saveables_for_checkpoint",
    "_restore_from_tensors",
    "_serialize_to_tensors",
)
CheckpointInitialValueCallable = (
    tf.__internal__.tracking.CheckpointInitialValueCallable
)
OPTIMIZER_IN_SAVED_MODEL = "tf_deprecated_optimizer"
ShardedVariable = tf.__internal__.distribute.ShardedVariable
maybe_merge_call = tf.__internal__.distribute.interim.maybe_merge_call
strategy_supports_no_merge_call = (
    tf.__internal__.distribute.strategy_supports_no_merge_call
)


def compiled_by_xla() -> bool:
    """Whether the function being traced is compiled with `jit_compile=True`.

    A plain `tf.function` that was traced outside and is called inside such a
    function is not traced again, and keeps the answer of its own trace.
    """
    return tf.__internal__.get_enclosing_xla_context() is not None


def in_variable_creator_scope() -> bool:
    """Whether something intercepts the creation of variables."""
    return bool(tf.compat.v1.get_default_graph()._variable_creator_stack)


# {id of a variable: weak reference to it}, of those that are of no distributed
# one.  An eager handle says so by an exception, which costs microseconds.
_alone: dict[int, weakref.ref[Any]] = {}


def primary_variable(variable: Any) -> Any:
    """The distributed variable that `variable` is a component of, or itself."""
    known = _alone.get(id(variable))
    if known is not None and known() is variable:
        return variable
    if isinstance(variable, tf.distribute.DistributedValues):
        return variable  # Its `handle` raises in cross-replica context.
    if hasattr(variable, "_distributed_container"):
        return variable._distributed_container()
    handle = getattr(variable, "handle", None)
    container = getattr(handle, "_distributed_container", None)
    if container is not None:
        return container()
    if is_plain(variable):
        _remember_alone(variable)
    return variable


def _remember_alone(variable: Any) -> None:
    number, forget = id(variable), _alone.pop
    _alone[number] = weakref.ref(variable, lambda _: forget(number, None))


def sharded_container(variable: Any) -> Any | None:
    """The `ShardedVariable` that `variable` is a shard of, if it is one."""
    container = getattr(variable, "_sharded_container", None)
    return container() if container else None


def is_plain(variable: Any) -> bool:
    """Whether a variable is one handle: none of a strategy, nor of a graph."""
    return type(variable) is _plain_class()


@functools.cache
def _plain_class() -> type:
    name = "tensorflow.python.ops.resource_variable_ops"
    return importlib.import_module(name).ResourceVariable


def variable_id(variable: Any) -> str:
    """What tells `variable` from all others; its name in a TF1 graph."""
    if getattr(variable, "_in_graph_mode", False):
        return variable._shared_name
    return variable._unique_id


def gradient_helpers() -> dict[str, Callable[..., Any]]:
    """Functions that filter, sum and clip lists of (gradient, variable)."""
    name = "tensorflow.python.keras.optimizer_v2.utils"
    found = vars(importlib.import_module(name))
    return {
        k: v
        for k, v in found.items()
        if isinstance(v, types.FunctionType) and v.__module__ == name
    }


def creation_number(variable_id: str) -> int:
    """A number that grows from variable to variable, from a `variable_id`.

    In a TF1 graph, whose names need not have one, perhaps 0.
    """
    number = variable_id.rpartition("_")[2]
    return int(number) if number.isdecimal() else 0


def shared_name(variable: Any) -> str:
    """The name of `variable`, scopes included and without `:0`."""
    return variable._shared_name


def rename(variable: Any, name: str) -> None:
    """Gives an eager variable, and each of its replicas, another name."""
    before = shared_name(variable)
    for each in getattr(variable, "_values", (variable,)):
        suffix = each.name.removeprefix(before)  # Such as "/replica_1:0".
        each._handle_name = name + suffix
    if hasattr(variable, "_common_name"):
        variable._common_name = name


def devices_of(variable: Any) -> tuple[str, ...]:
    """The devices that hold a replica of `variable`."""
    if isinstance(variable, tf.distribute.DistributedValues):
        return tuple(variable._devices)
    return (variable.device,)


def object_graph(serialized: bytes) -> Any:
    """The object graph of a checkpoint, from the bytes stored in it."""
    from tensorflow.core.protobuf import trackable_object_graph_pb2

    return trackable_object_graph_pb2.TrackableObjectGraph.FromString(
        serialized
    )


def bundle_header(serialized: bytes) -> Any:
    """The header of a checkpoint, from the bytes stored in its index."""
    from tensorflow.core.protobuf import tensor_bundle_pb2

    return tensor_bundle_pb2.BundleHeaderProto.FromString(serialized)


def bundle_entry(serialized: bytes) -> Any:
    """What the index of a checkpoint says of a value, from its bytes."""
    from tensorflow.core.protobuf import tensor_bundle_pb2

    return tensor_bundle_pb2.BundleEntryProto.FromString(serialized)


def _module(keras: types.ModuleType, name: str) -> Any:
    """A private module of a Keras."""
    return importlib.import_module(f"{keras.__name__}.src.{name}")


def variable_class(keras: types.ModuleType) -> type:
    """The class of all variables of Keras 3."""
    module = f"{keras.__name__}.src.backend.common.variables"
    for cls in keras.Variable.__mro__:
        if cls.__module__ == module:
            return cls
    return keras.Variable


def own_optimizers(keras: types.ModuleType) -> types.ModuleType:
    """The module that has Keras 3's optimizers; the public one may have ours.

    That is so after `install`.  Checked on Keras 3.0 to 3.15.
    """
    return _module(keras, "optimizers")


def own_schedules(keras: types.ModuleType) -> types.ModuleType:
    """Likewise, of learning rate schedules."""
    return _module(keras, "optimizers.schedules.learning_rate_schedule")


def loss_scale_class(tf_keras: types.ModuleType) -> type:
    """The class of tf_keras that wraps legacy optimizers to scale the loss."""
    base = tf_keras.mixed_precision.LossScaleOptimizer
    for cls in base.__subclasses__():
        if issubclass(cls, tf_keras.optimizers.legacy.Optimizer):
            return cls
    return base


def let_save(tf_keras: types.ModuleType, base: type) -> None:
    """Makes tf_keras save to `.keras` files the state of objects of `base`."""
    library = _module(tf_keras, "saving.saving_lib")
    is_saved = library._is_keras_trackable

    @functools.wraps(is_saved)
    def is_saved_or_ours(obj: Any) -> bool:
        return isinstance(obj, base) or is_saved(obj)

    library._is_keras_trackable = is_saved_or_ours


def call_rarely(condition: Any, function: Callable[[], Any]) -> None:
    """Calls a function in the steps of a trace in which the condition holds.

    It is left a call, in which its inputs are passed at once.
    """

    def call() -> tf.Tensor:
        function()
        return tf.constant(True)

    without_autograph = tf.autograph.experimental.do_not_convert
    result = tf.cond(
        condition, without_autograph(call), lambda: tf.constant(False)
    )
    op = result.op
    while op.type == "Identity":
        op = op.inputs[0].op
    if op.type in ("If", "StatelessIf"):
        no = tf.compat.v1.AttrValue(b=False)
        op._set_attr("_lower_using_switch_merge", no)


def has_random_state(function: Any) -> bool:
    """Whether a `tf.function` draws random numbers from a state of its own.

    Each op that is not of `tf.random.stateless_*`, nor of a generator, has its
    state in the trace: another trace draws other numbers.
    """
    definitions = [
        concrete.graph.as_graph_def()
        for concrete in function._list_all_concrete_functions()
    ]
    return any(
        "seed2" in node.attr
        for definition in definitions
        for nodes in (
            definition.node,
            *(f.node_def for f in definition.library.function),
        )
        for node in nodes
    )


def graph_backend(tf_keras: types.ModuleType) -> Any:
    """The module of tf_keras with `get_session` and `track_variable`."""
    return _module(tf_keras, "backend")


def is_in_graph(value: Any) -> bool:
    """Whether a variable or tensor has its value in a TF1 session."""
    symbolic = not isinstance(value, tf.__internal__.EagerTensor)
    return getattr(value, "_in_graph_mode", symbolic)


def eager_mode() -> contextlib.AbstractContextManager:
    """Executes eagerly inside, even where a graph is being built."""
    if tf.executing_eagerly():
        return contextlib.nullcontext()
    return tf.__internal__.eager_context.eager_mode()


def complete_loading(
    keras: types.ModuleType,
    scope: Callable[[Any], AbstractContextManager[Any]],
    complete: Callable[[str, Any], None],
) -> None:
    """Makes a Keras load `.keras` files inside a scope, and complete them.

    Args:
      keras: the module.
      scope: makes a context manager, given the path.
      complete: function of (path, model), called with each loaded model.
    """
    library = _module(keras, "saving.saving_lib")
    library.load_model = _completed(library.load_model, complete)
    call_inside(library, "load_model", scope)


def complete_saved_models(
    tf_keras: types.ModuleType, complete: Callable[[str, Any], None]
) -> None:
    """The same for SavedModels, which only tf_keras loads."""
    library = _module(tf_keras, "saving.legacy.saved_model.load")
    library.load = _completed(library.load, complete)


def model_of_legacy_config(keras: types.ModuleType, config: Any) -> Any:
    """The model of a configuration in an HDF5 file of Keras 3."""
    library = _module(keras, "legacy.saving.saving_utils")
    return library.model_from_config(config)


def complete_hdf5_files(
    keras: types.ModuleType,
    scope: Callable[[Any], AbstractContextManager[Any]],
    complete: Callable[[Any, Any], None],
    saving: Callable[[Any], AbstractContextManager[Any]],
    note: Callable[[Any, Any], None],
) -> None:
    """The same for HDF5 files, inside a scope; they may be given open.

    Args:
      keras: the module.
      scope: as above.
      complete: as above.
      saving: makes a context manager, given a model that is saved.
      note: function of (file, optimizer), called in that when the weights of
        the optimizer are written.
    """
    name = "saving.legacy.hdf5_format"
    if int(keras.__version__.split(".")[0]) >= 3:
        name = "legacy.saving.legacy_h5_format"
    library = _module(keras, name)
    library.load_model_from_hdf5 = _completed(
        library.load_model_from_hdf5, complete
    )
    call_inside(library, "load_model_from_hdf5", scope)
    save = library.save_optimizer_weights_to_hdf5_group

    @functools.wraps(save)
    def save_and_note(file: Any, optimizer: Any) -> None:
        save(file, optimizer)
        note(file, optimizer)

    library.save_optimizer_weights_to_hdf5_group = save_and_note
    call_inside(library, "save_model_to_hdf5", saving)


def _completed(
    load: Callable[..., Any], complete: Callable[[str, Any], None]
) -> Callable[..., Any]:
    @functools.wraps(load)
    def load_and_complete(path: str, *args: Any, **kwargs: Any) -> Any:
        model = load(path, *args, **kwargs)
        complete(path, model)
        return model

    return load_and_complete


def call_inside(
    owner: Any, name: str, scope: Callable[[Any], AbstractContextManager[Any]]
) -> None:
    """Makes a function or method run inside `scope(its first argument)`."""
    function = getattr(owner, name)

    @functools.wraps(function)
    def inside(*args: Any, **kwargs: Any) -> Any:
        with scope([*args, *kwargs.values()][0]):
            return function(*args, **kwargs)

    setattr(owner, name, inside)


def weights_inside(
    keras: types.ModuleType,
    saving: Callable[[Any], AbstractContextManager[Any]],
    loading: Callable[[Any], AbstractContextManager[Any]],
) -> None:
    """Makes a Keras save and load files inside `saving` and `loading(model)`.

    The scope is that of loading only for files of weights into a model.
    """
    library = _module(keras, "saving.saving_lib")
    call_inside(library, "save_model", saving)
    call_inside(library, "save_weights_only", saving)
    call_inside(library, "load_weights_only", loading)


def pass_losses_on(
    keras: types.ModuleType, pass_on: Callable[[Any, Any], Any]
) -> None:
    """Makes Keras 3's wrappers return `pass_on(wrapper, scaled loss)`."""

    def pass_on_from(cls: type) -> None:
        scale_loss = cls.scale_loss

        @functools.wraps(scale_loss)
        def scale_and_pass_on(self: Any, loss: Any) -> Any:
            return pass_on(self, scale_loss(self, loss))

        cls.scale_loss = scale_and_pass_on

    for name in ("LossScaleOptimizer", "MultiOptimizer"):
        if hasattr(keras.optimizers, name):
            pass_on_from(getattr(keras.optimizers, name))


def scaled_by(wrapper: Any, loss: Any) -> Any:
    """The loss as a wrapper of Keras 3 scales it, which is not passed on."""
    return type(wrapper).scale_loss.__wrapped__(wrapper, loss)


def _release(package: str) -> tuple[int, int]:
    major, minor = importlib.metadata.version(package).split(".")[:2]
    return int(major), int(minor)


def forward_pass(model: Any, x: Any, y: Any, sample_weight: Any) -> Any:
    """Prediction and loss of a Keras 3 model in training, where it logs it."""
    losses = importlib.import_module("keras.src.losses.loss")
    y_pred = (
        model(x, training=True) if model._call_has_training_arg else model(x)
    )
    compute = getattr(model, "_compute_loss", None)
    if compute is None:  # Up to Keras 3.2.
        loss = model.compute_loss(x, y, y_pred, sample_weight)
    else:
        loss = compute(x, y, y_pred, sample_weight, training=True)
    # In earlier releases, the loss is not scaled for a strategy.
    unscale = getattr(losses, "unscale_loss_for_distribution", lambda x: x)
    batch = next(each for each in tf.nest.flatten(x) if each is not None)
    size = tf.shape(batch)[0]
    if _release("keras") < (3, 2):  # All batches count alike.
        size = None
    model._loss_tracker.update_state(unscale(loss), sample_weight=size)
    return y_pred, loss


def tensorflow_trainer(keras: types.ModuleType) -> types.ModuleType | None:
    """The module of a Keras 3 that trains with TensorFlow, if it does."""
    if keras.config.backend() != "tensorflow":
        return None
    return _module(keras, "backend.tensorflow.trainer")


def per_replica(values: Sequence[Any]) -> Any:
    """What `strategy.run` returns that differs between replicas."""
    from tensorflow.python.distribute import values as distributed

    return distributed.PerReplica(tuple(values))


def parts_of(value: Any) -> tuple[Any, ...]:
    """The replicas' values, without asking a strategy."""
    return value.values


def shard_policy(dataset: Any) -> Any:
    """How a distributed dataset was shared out; None if by a user's function.

    Afterwards, public API no longer says it.
    """
    original = getattr(dataset, "_original_dataset", None)
    if original is None:
        return None
    return original.options().experimental_distribute.auto_shard_policy


def names_in(function: Any) -> set[str]:
    """The names that a Python function, and functions inside it, use."""
    return {name for code in _codes_of(function) for name in code.co_names}


def constants_in(function: Any) -> list[Any]:
    """The constants that a Python function, and functions inside it, use."""
    return [value for code in _codes_of(function) for value in code.co_consts]


def _codes_of(function: Any) -> list[types.CodeType]:
    codes = [function.__code__]
    for code in codes:
        codes.extend(c for c in code.co_consts if isinstance(c, types.CodeType))
    return codes


def new_object_graph() -> Any:
    """An empty object graph, to be filled and stored in a checkpoint."""
    from tensorflow.core.protobuf import trackable_object_graph_pb2

    return trackable_object_graph_pb2.TrackableObjectGraph()


def variable_without_value(
    shape: Any, dtype: tf.DType, name: str | None, trainable: bool | None
) -> Any:
    """A variable that takes no memory: it has no value, nor initializer."""
    from tensorflow.python.ops import resource_variable_ops

    return resource_variable_ops.UninitializedVariable(
        shape=shape, dtype=dtype, name=name, trainable=trainable
    )


def order_updates_of_members(
    members_of: Callable[[tf.Tensor], Sequence[tf.Tensor]],
    check_captured: Callable[[tf.Tensor, Sequence[tf.Tensor]], None],
) -> None:
    """Makes ops in functions that take a handle updates of its members.

    Args:
      members_of: function from a tensor that a function captures to the handles
        of the variables that ops with this input update; mostly none.
      check_captured: function of a captured tensor with members and of the
        `arguments_of_functions` that capture it; raises if that cannot be.
    """
    from tensorflow.python.framework import auto_control_deps

    def conflicts_in(graph: Any) -> dict[int, list[tf.Tensor]]:
        """{id of an input: other inputs that share a variable with it}."""
        count = len(graph.inputs)
        if getattr(graph, "_keras_legacy_opt_conflicts", (None,))[0] != count:
            groups, sharing = {}, collections.defaultdict(list)
            for captured, placeholder in graph.captures:
                members = members_of(captured)
                if members:
                    check_captured(captured, arguments_of_functions(graph))
                    groups[id(placeholder)] = members
                for member in members or [captured]:
                    sharing[id(member)].append(placeholder)
            conflicts = {}
            for group, members in groups.items():
                others = [p for m in members for p in sharing[id(m)]]
                conflicts[group] = list({id(p): p for p in others}.values())
            graph._keras_legacy_opt_conflicts = count, conflicts
        return graph._keras_legacy_opt_conflicts[1]

    def keras_legacy_opt_members(op: Any, reads: Any, writes: Any) -> bool:
        del reads  # TensorFlow removes from them what is written.
        if not writes or not hasattr(op.graph, "captures"):
            return False
        conflicts = conflicts_in(op.graph)
        added = [
            other
            for tensor in writes
            for other in conflicts.get(id(tensor), ())
            if other not in writes
        ]
        writes.update(added)
        return bool(added)

    auto_control_deps.register_acd_resource_resolver(keras_legacy_opt_members)


def arguments_of_functions(graph: Any = None) -> list[tf.Tensor]:
    """The variables' handles that functions being traced have as arguments.

    Args:
      graph: that of the innermost function; the current one if `None`.
    """
    graph, handles = graph or tf.compat.v1.get_default_graph(), []
    while graph is not None:
        handles.extend(getattr(graph, "_resource_tensor_inputs", ()))
        graph = getattr(graph, "outer_graph", None)
    return handles


def is_of_this_trace(tensor: tf.Tensor) -> bool:
    """Whether a tensor can be used here: where it was made, or inside."""
    if not tf.is_symbolic_tensor(tensor):
        return tf.executing_eagerly()
    graph = None
    if not tf.executing_eagerly():
        graph = tf.compat.v1.get_default_graph()
    while graph is not None and graph is not tensor.graph:
        graph = getattr(graph, "outer_graph", None)
    return graph is not None


def export_captures_as(trackable_of: Callable[[tf.Tensor], Any]) -> None:
    """Makes a SavedModel of a function list what its captures stand for.

    TensorFlow lists the captured constants only: of a handle, it does not know
    what it belongs to.

    Args:
      trackable_of: function from a captured tensor to a `Trackable` or None.
    """
    from tensorflow.python.eager.polymorphic_function import concrete_function

    cls = concrete_function.ConcreteFunction
    children_of = cls._trackable_children

    @functools.wraps(children_of)
    def children_and_captures(
        self: Any, save_type: str = "checkpoint", **kwargs: Any
    ) -> dict[str, Any]:
        children = children_of(self, save_type, **kwargs)
        if save_type == "savedmodel":
            for n, (captured, _) in enumerate(self.graph.captures):
                trackable = trackable_of(captured)
                if trackable is not None:
                    children[f"capture_{n}"] = trackable
        return children

    cls._trackable_children = children_and_captures


def capture_as(function: Any, captured: Any, placeholder: tf.Tensor) -> None:
    """Lets a loaded `function` capture what has a handle in each replica.

    TensorFlow asks whatever says `is_distributed_variable` for its `handle`
    when it calls the function, and when it loads it, to do this.
    """
    function.graph.replace_capture(captured, placeholder)


def describe_members(handle: Any, members: Sequence[Any]) -> None:
    """Lets shape functions see the shapes and dtypes behind the `members`."""
    described = type(members[0]._handle_data)(is_set=True)
    for member in members:
        described.shape_and_type.extend(member._handle_data.shape_and_type)
    handle._handle_data = described


def serializable(package: str, name: str) -> Callable[[_Class], _Class]:
    """Registers a `Trackable` class that SavedModels are to restore."""
    from tensorflow.python.saved_model import registration

    return registration.register_serializable(package, name)
