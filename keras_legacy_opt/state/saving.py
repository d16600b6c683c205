"""State that leaves the optimizer: weights, Keras files, pickles, copies."""

from __future__ import annotations

import copy
import copyreg
import json
import warnings
from collections.abc import (
    Callable,
    Collection,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from typing import Any

import numpy as np
import tensorflow as tf

from keras_legacy_opt import distribution, hosts, private_api
from keras_legacy_opt.hosts import loading, model_parts
from keras_legacy_opt.state import slot_numbers
from keras_legacy_opt.state.base import OptimizerBase
from keras_legacy_opt.state.variables import var_key

# Under this name, Keras 3's files hold the names of the variables that have
# slots: UTF-8, one a line.
VARIABLE_NAMES = "variable_names"
# Under this one, by which paths they are reached in the model: JSON.
VARIABLE_PATHS = "variable_paths"
# And under this one, of which classes those are that a MultiOptimizer holds.
CLASSES = "classes"

# Among values that wait for their variables: the keys of these.
_KEYS = "variable_keys"

# By these words, the warning about a file of old is known.
NO_STATE = "holds no state"
# By these, that about state that was left in a file.
SKIPPED = "load_weights() has left optimizer"

# What belongs to this process and is made anew in a pickle's reader.
PROCESS_STATE = frozenset(
    [
        "_averaging",
        "_clip_limits",
        "_deferred_slot_restorations",
        "_early_slots",
        "_distribution_strategy",
        "_first_values",
        "_hypers_created",
        "_iterations",
        "_known_variables",
        "_slots",
        "_slots_anew",
        "_slots_out_of_turn",
        "_sparse_keys",
        "_uncopied",
        "_watch",
        "_weights",
        "built",
    ]
)


def fetch_all(variables: Sequence[Any]) -> list[np.ndarray]:
    """The values of variables or tensors, read in a TF1 session if need be."""
    if any(map(private_api.is_in_graph, variables)):
        return _session("read", variables).run(list(variables))
    with private_api.eager_mode():
        return [v.numpy() for v in variables]


def assign_all(variables: Sequence[Any], values: Iterable[Any]) -> None:
    """Assigns arrays to variables, in a TF1 session if need be."""
    if tf.compat.v1.executing_eagerly_outside_functions():
        for variable, value in zip(variables, values, strict=True):
            value = np.asarray(value, variable.dtype.as_numpy_dtype)
            for copied in distribution.copies(variable):
                copied.assign(value)
        return
    session = _session("set", variables)
    for variable, value in zip(variables, values, strict=True):
        variable.load(value, session)


def _session(verb: str, variables: Sequence[Any]) -> tf.compat.v1.Session:
    session = hosts.session(variables)
    if session is None:
        raise RuntimeError(
            f"To {verb} an optimizer's variables in a TF1 graph, call this"
            " inside `with tf.compat.v1.Session() as session:`, after the"
            " variables were initialized."
        )
    return session


class CallableList(list[Any]):
    """A list that also answers to a call: legacy's `variables()`."""

    def __call__(self) -> list[Any]:
        """The same, as a plain list."""
        return list(self)


class SavingMixin(OptimizerBase):
    """The part of an optimizer that hands its state out and takes it in."""

    # As what TensorFlow restores us from a SavedModel: an object with slots.
    _object_identifier = private_api.OPTIMIZER_IN_SAVED_MODEL

    # Values that came before the variables: a list from `set_weights`, a
    # dictionary from `load_own_variables` or a pickle.
    _pending_weights: list[Any] | dict[str, Any] | None
    # Of variables that are yet to come.
    _early_slots: list[slot_numbers.Early]
    # Whether `set_weights` may lack the iterations, as Keras 1 saved them.
    _takes_weights_without_iterations = False

    @property
    def weights(self) -> list[Any]:
        """The optimizer's variables: iterations, then slots as created."""
        return self._weights

    @property
    def variables(self) -> CallableList:
        """`weights`, as an attribute (Keras 3) and as a method (legacy)."""
        return CallableList(self.weights)

    def get_weights(self) -> list[np.ndarray]:
        """The values of `weights`, in their order.

        The first is the number of iterations.

        Returns:
          List of NumPy arrays, for `set_weights` of an equal optimizer.
        """
        if isinstance(self._pending_weights, list):
            return [w.copy() for w in self._pending_weights]
        return fetch_all(self.weights)

    def set_weights(self, weights: Sequence[Any]) -> None:
        """Sets the values of `weights`.

        Before the optimizer has any slot variables, the values are kept, and
        set (and checked) when these are created; the iterations are set at
        once if they exist.

        Args:
          weights: list of arrays, as returned by `get_weights`.

        Raises:
          ValueError: if the number of arrays or a shape does not fit; nothing
            was changed then.
        """
        variables, weights = self.weights, list(weights)
        if loading.wait_for_names(self, weights):
            return
        if not self.built and len(weights) != len(variables):
            self._pending_weights = [np.array(w) for w in weights]
            if variables and not np.shape(weights[0]):
                assign_all(variables[:1], weights[:1])  # The iterations.
            return
        if (
            self._takes_weights_without_iterations
            and len(variables) == len(weights) + 1
        ):
            weights = [np.array(0), *weights]
        if len(variables) != len(weights):
            raise ValueError(
                f"set_weights() of optimizer {self._name!r} got {len(weights)}"
                " weights, but the optimizer was expecting"
                f" {len(variables)}: {[v.name for v in variables]}."
            )
        for i, (variable, weight) in enumerate(
            zip(variables, weights, strict=True)
        ):
            if tuple(variable.shape) != np.shape(weight):
                raise ValueError(
                    f"set_weights() of optimizer {self._name!r} got shape"
                    f" {np.shape(weight)} for weight {i} ({variable.name}),"
                    f" but it has shape {tuple(variable.shape)}."
                )
        assign_all(variables, weights)
        self._pending_weights = None

    # Keras 3's files (.keras, .weights.h5) save and load through these two.

    def save_own_variables(self, store: Any) -> None:
        """Writes all variables into `store`, a mapping of a Keras 3 file.

        Those of an optimizer that this one holds are written by that one, if
        Keras finds it; a warning tells of those that are not.
        """
        _warn_of_what_is_not_saved(self)
        _store_variables(self, store)

    def load_own_variables(self, store: Mapping[str, Any]) -> None:
        """Reads all variables from `store`, a mapping of a Keras 3 file.

        Slots of variables that were not trained before it was saved become
        what new ones are, averages what their variables are.

        Before the optimizer is built, the values are kept until it is.  In
        `model.load_weights`, the optimizer is left alone, as legacy's is.

        Raises:
          ValueError: if `store` has other variables, or a shape differs;
            nothing was changed then.
        """
        if loading.weights_only():
            _say_what_was_skipped(self, store.keys())
            return
        values = {name: np.asarray(store[name]) for name in store.keys()}
        if not values:
            _say_there_is_none(self)
            return
        _check_origin(self, values)
        if VARIABLE_PATHS in values and loading.is_making_model():
            loading.once_loaded(lambda: self.load_own_variables(values))
            return
        _know_by_path(values)
        if not self.built:
            self._pending_weights = values
            return
        _load(self, values)

    # Copies and pickles.

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any], Any]:
        # The stubs lack what all pickles have.
        make = copyreg.__newobj__  # pyright: ignore[reportAttributeAccessIssue]
        return make, (type(self),), self.__getstate__()

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.__reduce__()

    def __getstate__(self) -> dict[str, Any]:
        """Everything but variables, and the values of these.

        The reader creates its own variables, and sets them to the values, when
        it first sees the variables to train.
        """
        state = {
            name: None if isinstance(value, tf.Variable) else value
            for name, value in self.__dict__.items()
            if name not in PROCESS_STATE and not name.startswith("_self_")
        }
        state["_hyper"] = {
            name: fetch_all([value])[0].item()
            if isinstance(value, tf.Variable)
            else value
            for name, value in self._hyper.items()
        }
        if self._pending_weights is None and self._iterations is not None:
            pending: dict[str, Any] = {}
            _store_variables(self, pending)
            state["_pending_weights"] = pending
        elif isinstance(self._pending_weights, dict):
            state["_pending_weights"] = {
                name: value
                for name, value in self._pending_weights.items()
                if name != _KEYS
            }
        return state

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self._init_process_state()
        self.__dict__.update(state)
        for name, value in self._hyper.items():
            if isinstance(value, private_api.Trackable):
                self._track_trackable(value, name, overwrite=True)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """A copy with variables of its own, for the same variables to train."""
        result = type(self).__new__(type(self))
        memo[id(self)] = result
        for name, value in self.__dict__.items():
            if name == "_first_values":  # Initializers may be large.
                value = dict(value)
            elif name != "_distribution_strategy":  # It is one of its kind.
                value = copy.deepcopy(value, memo)
            result.__dict__[name] = value
        for original, copied in zip(
            self._weights, result._weights, strict=True
        ):
            copied.path = getattr(original, "path", copied.name)
        return result


def restore_wrapped(wrapper: SavingMixin, variables: Sequence[Any]) -> None:
    """Restores optimizers that `wrapper` holds, now that it has its slots.

    Some wrappers only call `_create_slots` of the optimizer that they hold, and
    have it count with their own iterations.
    """
    for inner in held(wrapper):
        known = inner._known_variables
        if any(var_key(variable) in inner._slots for variable in variables):
            known.of_wrapper = known.of_wrapper or not inner.built
            known.add_with_slots(variables)
            inner.built = True
        if inner.built and inner._pending_weights is not None:
            apply_pending_weights(inner)
        apply_early_slots(
            inner, [v for v in variables if var_key(v) in inner._slots]
        )
        if known.of_wrapper:
            _forget_unused_iterations(inner)


def _forget_unused_iterations(inner: SavingMixin) -> None:
    """Drops what `inner` counted with before its wrapper gave it its own.

    tf_keras' loader has it created, by looking at every attribute.
    """
    unused = inner._trackable_children().get("iter")
    inner._weights = [
        w for w in inner._weights if w is not unused or w is inner._iterations
    ]


def apply_pending_weights(optimizer: SavingMixin) -> None:
    """Sets what came before the optimizer's variables, now that they exist.

    It is kept if that fails: no later step must train without it.
    """
    pending = optimizer._pending_weights
    if pending is None:
        return

    def apply() -> None:
        if isinstance(pending, list):
            optimizer.set_weights(pending)
        else:
            optimizer.load_own_variables(pending)
        optimizer._pending_weights = None

    distribution.once_for_all_replicas(apply)


def apply_early_slots(optimizer: SavingMixin, variables: Sequence[Any]) -> None:
    """Sets slots that were stored before the optimizer met their variables."""
    if not optimizer._early_slots:
        return

    def apply() -> None:
        for variable in variables:
            name = optimizer._known_variables.name(variable)
            early = _early(optimizer, name, var_key(variable))
            if early is None:
                continue
            slots = optimizer._slots[var_key(variable)]
            shapes = {name: tuple(slot.shape) for name, slot in slots.items()}
            values = early.values
            if shapes != {name: np.shape(v) for name, v in values.items()}:
                raise ValueError(
                    f"The saved state of optimizer {optimizer._name!r} has"
                    f" slots {sorted(values)} of variable {early.name!r}, which"
                    f" do not fit {name!r} with slots of shapes {shapes}."
                    " Compile the model with a new optimizer."
                )
            assign_all([slots[name] for name in values], values.values())
            optimizer._early_slots.remove(early)

    distribution.once_for_all_replicas(apply)


def complete_loading(model: Any, optimizer: SavingMixin) -> None:
    """Makes the variables that the state of a loaded model is waiting for.

    Some may have been frozen after they were trained.
    """
    if optimizer._pending_weights:
        optimizer.build(model.trainable_variables)
    optimizers = [optimizer, *held(optimizer)]
    waited_for = [
        v
        for v in model.variables
        for each in optimizers
        if _early(each, hosts.path_of(v), var_key(hosts.unwrap(v)))
    ]
    if waited_for:
        optimizer.build(list({id(v): v for v in waited_for}.values()))
    for each in optimizers:
        if each._early_slots:
            warnings.warn(
                f"The file holds state of optimizer {each._name!r} for"
                f" {[early.name for early in each._early_slots]}, which the"
                " model has not. It is kept until the optimizer gets these"
                " variables.",
                stacklevel=2,
            )


def _early(
    optimizer: SavingMixin, name: str, key: str
) -> slot_numbers.Early | None:
    """The slots that wait for a variable, if they do."""
    found = [
        early
        for early in optimizer._early_slots
        if (
            slot_numbers.are_of_one(early.name, name)
            if early.key is None
            else early.key == key
        )
    ]
    return found[0] if len(found) == 1 else None


def _say_there_is_none(optimizer: SavingMixin) -> None:
    """Warns that a file has none of an optimizer's variables."""
    warnings.warn(
        f"The file {NO_STATE} of optimizer {optimizer._name!r}: its"
        " iterations and slots start anew. Legacy optimizers never"
        " saved any into .keras files, and of one that several models"
        " share, Keras saves it for the first only.",
        stacklevel=3,
    )
    loading.tell(_own_variables(optimizer).values(), loading.LEFT)


def _check_origin(optimizer: SavingMixin, names: Iterable[str]) -> None:
    if _is_of_keras_3(names):
        raise ValueError(
            "The file holds the state of one of Keras 3's own optimizers,"
            f" but the model was compiled with {type(optimizer).__name__} of"
            " keras_legacy_opt. Load it into a model compiled with the"
            " former, and convert that model's optimizer with"
            " `keras_legacy_opt.checkpoints.from_keras_3`."
        )


def _is_of_keras_3(names: Iterable[str]) -> bool:
    return all(name.isdigit() for name in names)


def _say_what_was_skipped(
    optimizer: SavingMixin, names: Collection[str]
) -> None:
    """Warns that `model.load_weights` has left state in the file."""
    if not names:
        return
    how = "keras_legacy_opt.checkpoints.restore(path, model)"
    if _is_of_keras_3(names):
        how = (
            "load it into a model compiled with the optimizer of Keras 3 that"
            " it belongs to, and see keras_legacy_opt.checkpoints.from_keras_3"
        )
    warnings.warn(
        f"{SKIPPED} {optimizer._name!r} as it is: the"
        " state of one in the file was skipped, as legacy optimizers do. To"
        f" restore it: {how}, or load the whole model.",
        stacklevel=3,
    )


def held(optimizer: SavingMixin) -> list[SavingMixin]:
    """The optimizers that Keras' savers find in another: in its attributes.

    And in theirs, each once.
    """
    found = {id(optimizer): optimizer}

    def visit(optimizer: SavingMixin) -> None:
        for each in _in_attributes(optimizer):
            if id(each) not in found:
                found[id(each)] = each
                visit(each)

    visit(optimizer)
    return list(found.values())[1:]


def _in_attributes(optimizer: SavingMixin) -> Iterator[SavingMixin]:
    for value in vars(optimizer).values():
        if isinstance(value, Mapping):
            value = list(value.values())
        for each in value if isinstance(value, (list, tuple, set)) else [value]:
            if isinstance(each, hosts.LossScaleHost):
                each = each.inner_optimizer
            if isinstance(each, SavingMixin):
                yield each


def _store_variables(optimizer: SavingMixin, store: Any) -> None:
    named = _own_variables(optimizer)
    values = fetch_all(list(named.values()))
    for name, value in zip(named, values, strict=True):
        store[name] = value
    names = optimizer._known_variables.names_with_slots()
    keys = list(optimizer._known_variables.keys_with_slots)
    for early in optimizer._early_slots:
        for slot_name, value in early.values.items():
            store[f"{slot_name}.{len(names)}"] = value
        names.append(early.name)
        keys.append(early.key or "")
    store[VARIABLE_NAMES] = slot_numbers.encoded("\n".join(names))
    weights = model_parts.weights_by_path(loading.model())
    if weights:
        paths = {var_key(hosts.unwrap(w)): path for path, w in weights.items()}
        text = json.dumps([paths.get(key) for key in keys])
        store[VARIABLE_PATHS] = slot_numbers.encoded(text)


def _know_by_path(values: dict[str, Any]) -> None:
    """Finds stored variables by their paths in the model, if it is known.

    They get the names that they have in it.
    """
    variables = slot_numbers.at_paths(
        values.pop(VARIABLE_PATHS, None),
        model_parts.weights_by_path(loading.model()),
        bytes(values.get(VARIABLE_NAMES, b"")).count(b"\n") + 1,
    )
    if variables is not None:
        names = "\n".join(map(hosts.path_of, variables))
        values[VARIABLE_NAMES] = slot_numbers.encoded(names)
        values[_KEYS] = [var_key(hosts.unwrap(v)) for v in variables]


def _numbered_as_here(
    optimizer: SavingMixin, values: dict[str, Any]
) -> tuple[dict[str, Any], list[slot_numbers.Early], set[str]]:
    """Stored values by the numbers that their variables have here.

    See `slot_numbers.renumbered`.
    """
    known = optimizer._known_variables
    names = known.names_with_slots()
    stored = bytes(values.pop(VARIABLE_NAMES, b"")).decode().split("\n")
    keys = values.pop(_KEYS, [None] * len(stored))
    if not _have_slots(values):
        return values, [], set(map(str, range(len(names))))
    numbers = known.numbers(keys)
    if None in keys:
        numbers = slot_numbers.numbers_here(stored, names)
    if numbers is None:
        return values, [], set()
    return slot_numbers.renumbered(values, stored, names, keys, numbers)


def _check_stored(
    optimizer: SavingMixin,
    named: Mapping[str, Any],
    values: Mapping[str, np.ndarray],
    slotless: Collection[str],
) -> None:
    """Refuses values that are not those of the optimizer's variables."""
    unexpected = sorted(values.keys() - named.keys())
    missing = sorted(
        name
        for name in named.keys() - values.keys()
        if name.rpartition(".")[2] not in slotless
    )
    if not _have_slots(values):
        # Saved before the first step, which makes some with the slots.
        with_slots = optimizer._first_values.keys() - {"iter"}
        missing = [name for name in missing if name not in with_slots]
    if unexpected or missing:
        raise ValueError(
            f"The saved state is not that of optimizer {optimizer._name!r}: it"
            f" lacks {missing} and also has {unexpected}. Names"
            " are '<slot>.<number of the trainable variable>'. To load only"
            " the model's weights, compile afterwards, or pass"
            " `skip_mismatch=True`."
        )
    for name, value in values.items():
        if tuple(named[name].shape) != value.shape:
            raise ValueError(
                f"Saved variable {name!r} of optimizer {optimizer._name!r} has"
                f" shape {value.shape}, but {named[name].name} has shape"
                f" {tuple(named[name].shape)}."
            )


def _have_slots(names: Iterable[str]) -> bool:
    return any("." in name for name in names)


def _load(optimizer: SavingMixin, values: dict[str, Any]) -> None:
    """Sets the variables of an optimizer to stored values, or new ones."""
    named = _own_variables(optimizer)
    if "iter" not in named:  # It is the wrapper's.
        values.pop("iter", None)
    values, early, slotless = _numbered_as_here(optimizer, values)
    _check_stored(optimizer, named, values, slotless)
    lacking = named.keys() - values.keys()
    first = _first_values(optimizer, lacking)
    _tell(optimizer, named, lacking, first)
    values |= first
    assign_all([named[name] for name in values], values.values())
    if first and loading.is_under_way():

        def begin() -> None:
            """Averages begin as weights, some of which came just now."""
            now = _first_values(optimizer, lacking)
            assign_all([named[name] for name in now], now.values())

        loading.once_loaded(begin)
    optimizer._pending_weights = None
    optimizer._early_slots = early


def _first_values(
    optimizer: SavingMixin, names: Iterable[str]
) -> dict[str, np.ndarray]:
    """What variables of a new optimizer have, as far as that is known.

    Args:
      optimizer: an optimizer.
      names: names of variables, as in files.

    Returns:
      {name: value}.
    """
    if tf.compat.v1.executing_eagerly_outside_functions():
        first = _asked_for(optimizer, names)
    else:  # A graph, which may be finalized, has them.
        own = _own_variables(optimizer)
        first = {name: own[name].initial_value for name in names}
    return dict(zip(first, fetch_all(list(first.values())), strict=True))


def _asked_for(
    optimizer: SavingMixin, names: Iterable[str]
) -> dict[str, tf.Tensor]:
    """What the optimizer makes its variables of, if it is asked again."""
    first = {n: optimizer._first_values[n]() for n in names if "." not in n}
    known = optimizer._known_variables
    numbers = {int(n.rpartition(".")[2]) for n in names if "." in n}
    slots = optimizer._first_slots(known.numbered(numbers))
    for i, key in enumerate(known.keys_with_slots):
        for slot_name, value in slots.get(key, {}).items():
            first[f"{slot_name}.{i}"] = value
    return first


def _tell(
    optimizer: SavingMixin,
    named: Mapping[str, Any],
    lacking: Collection[str],
    anew: Collection[str],
) -> None:
    """Tells what variables get that a file lacks, some of which stay."""
    count = optimizer._iterations
    # One that a function being traced has made reads as an empty array.
    is_new = count is None or not np.any(fetch_all([count])[0])
    left = [] if is_new else [named[n] for n in sorted({*lacking} - {*anew})]
    loading.tell([named[name] for name in lacking], loading.ANEW)
    loading.tell(left, loading.LEFT)
    if left:
        warnings.warn(
            f"The saved state of optimizer {optimizer._name!r} has nothing of"
            f" {[variable.name for variable in left]}, and its `_create_slots`"
            " does not say what new ones have: they are left as they are."
            " Restore it into a new optimizer.",
            stacklevel=4,
        )


def _warn_of_what_is_not_saved(optimizer: SavingMixin) -> None:
    """Warns of weights that are not of `optimizer`, nor of what Keras finds."""
    saved = {
        id(variable)
        for each in [optimizer, *held(optimizer)]
        for variable in _own_variables(each).values()
    }
    lost = [w.name for w in optimizer.weights if id(w) not in saved]
    if lost:
        warnings.warn(
            f"Files of Keras will not have these `weights` of"
            f" {type(optimizer).__name__}: {lost}. Save them with"
            " tf.train.Checkpoint, or `get_weights()`.",
            stacklevel=3,
        )


def _own_variables(optimizer: SavingMixin) -> dict[str, Any]:
    """All variables by a name that does not depend on this process."""
    optimizer._create_hypers()
    named = {
        name: child
        for name, child in optimizer._trackable_children().items()
        if isinstance(child, tf.Variable)
    }
    # Before a wrapper's first step, that optimizer may have no iterations yet.
    if optimizer._iterations is not None or (
        not optimizer._known_variables.of_wrapper
    ):
        named["iter"] = optimizer.iterations
    for i, key in enumerate(optimizer._known_variables.keys_with_slots):
        for slot_name, slot in optimizer._slots.get(key, {}).items():
            named[f"{slot_name}.{i}"] = slot
    return named
