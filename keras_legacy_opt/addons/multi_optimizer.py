"""Several optimizers, each for some of the layers."""

from __future__ import annotations

import copy
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from keras_legacy_opt import hosts, serialization
from keras_legacy_opt.addons import wrapper
from keras_legacy_opt.optimizer import Optimizer
from keras_legacy_opt.state import saving, slot_numbers
from keras_legacy_opt.state.variables import numbered, var_key
from keras_legacy_opt.step.clipping import GradsAndVars


@hosts.public
class MultiOptimizer(wrapper.Holder):
    """Trains each layer of a model by an optimizer of its own.

    For transfer learning, for instance: small steps in layers that were trained
    before, large ones in the others.

    >>> bottom, top = tf.keras.layers.Dense(4), tf.keras.layers.Dense(1)
    >>> model = tf.keras.Sequential([bottom, top])
    >>> opt = keras_legacy_opt.addons.MultiOptimizer([
    ...     (keras_legacy_opt.SGD(1e-3), bottom),
    ...     (keras_legacy_opt.Adam(1e-2), [top])])
    >>> model.compile(opt, "mse")
    >>> _ = model.fit(tf.ones((2, 3)), tf.ones((2, 1)), verbose=0)

    Variables are known by their identity, as those that the layers have when
    they are first trained: names may repeat, and layers may be built later.
    Every variable that is trained must be under exactly one of the optimizers.

    Each of them counts its own steps, and this one all.  If several have the
    same name, the later ones get a number: `Adam_1`.  There is no learning
    rate: change that of one of the `optimizers`.

    A configuration knows the variables by their paths.  Those of a model that
    is loaded are found again by them, unless paths repeat.
    """

    _HAS_AGGREGATE_GRAD = True

    def __init__(
        self,
        optimizers_and_layers: Sequence[tuple[Any, Any]] | None = None,
        optimizer_specs: Sequence[Mapping[str, Any]] | None = None,
        name: str = "MultiOptimizer",
        **kwargs: Any,
    ):
        """Creates it.

        Args:
          optimizers_and_layers: list of pairs of an optimizer and a layer, a
            model, a variable, or a list of these.
          optimizer_specs: what `get_config` makes of it; give one of the two.
          name: name of the optimizer.
          **kwargs: see `keras_legacy_opt.Optimizer`; `global_clipnorm` and its
            like clip the gradients of all variables before.

        Raises:
          TypeError: if an optimizer is none of this package, or something has
            no variables.
          ValueError: if not exactly one of the first two is given, or it is
            empty, or has an optimizer twice.
        """
        if (optimizers_and_layers is None) == (optimizer_specs is None):
            raise ValueError(
                "Give either `optimizers_and_layers`, or `optimizer_specs`."
                f" Received: {optimizers_and_layers!r} and"
                f" {optimizer_specs!r}."
            )
        if optimizers_and_layers is not None:
            pairs = [_pair(each) for each in optimizers_and_layers]
            shares = _Shares([owners for _, owners in pairs])
            shares.check()
        else:
            specs = optimizer_specs or ()
            pairs = [(spec["optimizer"], spec["weights"]) for spec in specs]
            shares = _Shares((), [names for _, names in pairs])
        optimizers = [
            wrapper.checked_optimizer(each, "MultiOptimizer")
            for each, _ in pairs
        ]
        if not pairs or len({id(each) for each in optimizers}) < len(pairs):
            raise ValueError(
                "There must be at least one optimizer, and each once: give one"
                " that is for several layers a list of them. Received:"
                f" {optimizers}."
            )
        super().__init__(name, **kwargs)
        # Keras looks for what to save in lists: there, for optimizers only.
        self._optimizers = optimizers
        self._layers = shares
        # In HDF5 files, names are all that tells iterations apart.
        used: dict[str, None] = {}
        for each in wrapper.all_inside(self):
            each._name = numbered(each._name, used)
            used[each._name] = None
        self._track()

    def _track(self) -> None:
        for i, optimizer in enumerate(self._optimizers):
            self._track_trackable(optimizer, f"optimizer_{i}", overwrite=True)

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        super().__setstate__(state)
        self._track()

    @property
    def optimizers(self) -> list[Optimizer]:
        """The optimizers, in the order in which they were given."""
        return list(self._optimizers)

    @property
    def optimizer_specs(self) -> list[dict[str, Any]]:
        """What is updated by which: their `optimizer`, paths of `weights`."""
        return [
            {"optimizer": optimizer, "weights": names}
            for optimizer, names in zip(
                self._optimizers, self._layers.names(), strict=True
            )
        ]

    def _inside(self) -> Sequence[Optimizer]:
        return self._optimizers

    def _shares(
        self, variables: Sequence[Any]
    ) -> list[tuple[Optimizer, list[Any]]]:
        split = self._split(variables, variables)
        return list(zip(self._optimizers, split, strict=True))

    def _scope_of(self, optimizer: Optimizer) -> Any:
        """Each has iterations, which files may know by their names."""
        scopes: list[str] = []
        for each in self._optimizers:
            number = sum(each._name == other for other in scopes)
            scopes.append(each._name)
            if each is optimizer:
                suffix = f"_{number}" if number else ""
                return tf.name_scope(each._name + suffix)
        raise ValueError(f"{optimizer!r} is not inside {self!r}.")

    def _split(
        self, variables: Sequence[Any], items: Sequence[Any]
    ) -> list[list[Any]]:
        """For each optimizer the items whose variables are under it."""
        numbers = self._layers.numbers_of(self._known_variables, variables)
        split: list[list[Any]] = [[] for _ in self._optimizers]
        for number, item in zip(numbers, items, strict=True):
            split[number].append(item)
        return split

    def _adds_itself(self, variable: Any, takes_own: bool) -> str:
        (number,) = (
            i for i, (_, share) in enumerate(self._shares([variable])) if share
        )
        kind = type(self._optimizers[number]).__name__
        return f" leaves it to optimizers[{number}], {kind}"

    def _step(
        self, pairs: GradsAndVars, name: str | None, aggregate: bool
    ) -> Any:
        pairs, aggregate = self._changed(pairs, aggregate)
        split = self._split([v for _, v in pairs], pairs)
        ops = [
            self._hand_over(optimizer, share, name, aggregate)
            for optimizer, share in zip(self._optimizers, split, strict=True)
            if share
        ]
        if tf.executing_eagerly():
            return self.iterations.assign_add(1)
        with tf.control_dependencies([tf.group(*ops)]):
            return self.iterations.assign_add(1, read_value=False)

    def save_own_variables(self, store: Any) -> None:
        """Writes its own; see `keras_legacy_opt.Optimizer`.

        And of which classes the others are, whose order some files do not tell.
        """
        super().save_own_variables(store)
        classes = [type(each).__name__ for each in self._optimizers]
        store[saving.CLASSES] = slot_numbers.encoded("\n".join(classes))

    def load_own_variables(self, store: Mapping[str, Any]) -> None:
        """Reads what `save_own_variables` wrote."""
        names = [name for name in store.keys() if name != saving.CLASSES]
        super().load_own_variables({name: store[name] for name in names})

    def get_config(self) -> dict[str, Any]:
        """The configuration; see `keras_legacy_opt.Optimizer.get_config`."""
        return {
            **super().get_config(),
            "optimizer_specs": [
                {
                    "optimizer": serialization.serialize(spec["optimizer"]),
                    "weights": spec["weights"],
                }
                for spec in self.optimizer_specs
            ],
        }

    @classmethod
    def from_config(
        cls,
        config: Mapping[str, Any],
        custom_objects: Mapping[str, Any] | None = None,
    ) -> Any:
        """The optimizer of a configuration; see `keras_legacy_opt.Optimizer`.

        Args:
          config: dictionary, as `get_config` returned it, here or in
            tensorflow_addons.
          custom_objects: maps names to classes that it names.
        """
        specs = [dict(spec) for spec in config["optimizer_specs"]]
        for spec in specs:
            if not isinstance(spec["optimizer"], hosts.OptimizerHost):
                spec["optimizer"] = serialization.deserialize(
                    spec["optimizer"], custom_objects
                )
        return cls(**{**config, "optimizer_specs": specs})

    def __repr__(self) -> str:
        return f"<MultiOptimizer of {len(self._optimizers)} optimizers>"


def _pair(item: Any) -> tuple[Any, Any]:
    if not isinstance(item, (tuple, list)) or len(item) != 2:
        raise TypeError(
            "`optimizers_and_layers` must be a list of pairs of an optimizer"
            f" and layers. Received: {item!r}."
        )
    return item[0], item[1]


class _Shares:
    """Which optimizer each variable is under, by their numbers.

    A copy is for the same layers; a pickle knows their variables by paths.
    """

    def __init__(
        self, owners: Sequence[Any], names: Sequence[Sequence[str]] = ()
    ):
        """Takes down what is under the optimizers.

        Args:
          owners: for each of them, what it was given.
          names: instead, the paths of variables.
        """
        self._owners = [_owners(each) for each in owners]
        self._names = [[_plain(name) for name in each] for each in names]
        self._numbers: dict[str, int] = {}

    def variables(self) -> list[list[Any]]:
        """For each optimizer its variables, of the layers as they are now."""
        return [
            [v for owner in each for v in getattr(owner, "weights", [owner])]
            for each in self._owners
        ]

    def names(self) -> list[list[str]]:
        """For each optimizer the paths of its variables."""
        return self._names or [
            [hosts.path_of(v) for v in each] for each in self.variables()
        ]

    def numbers_of(self, known: Any, variables: Sequence[Any]) -> list[int]:
        """The numbers of the optimizers of `tf.Variable`s.

        Raises:
          ValueError: if a variable has none, or several.
        """
        keys = [var_key(variable) for variable in variables]
        if any(key not in self._numbers for key in keys):
            names = [_plain(known.name(variable)) for variable in variables]
            self._numbers |= self._find(keys, names)
        return [self._numbers[key] for key in keys]

    def check(self) -> None:
        """Raises ValueError if a variable is under several optimizers."""
        variables = [v for each in self.variables() for v in each]
        keys = [var_key(hosts.unwrap(v)) for v in variables]
        self._find(keys, list(map(hosts.path_of, variables)))

    def _find(
        self, keys: Sequence[str], names: Sequence[str]
    ) -> dict[str, int]:
        shares: list[Any] = [
            {var_key(hosts.unwrap(v)) for v in each}
            for each in self.variables()
        ]
        found = {}
        for key, name in zip(keys, names, strict=True):
            numbers = [i for i, share in enumerate(shares) if key in share]
            if self._names:
                numbers = self._by_name(name)
            if len(numbers) != 1:
                which = "none" if not numbers else f"those at {numbers}"
                raise ValueError(
                    "Each variable must be under one of the optimizers, but"
                    f" {name!r} is under {which}. Give its layer to one, or set"
                    " `trainable = False` if it is not to be trained."
                )
            found[key] = numbers[0]
        return found

    def _by_name(self, name: str) -> list[int]:
        """The numbers of the optimizers that a name, or what ends so, has."""
        for are_same in (operator.eq, slot_numbers.are_of_one):
            numbers = [
                i
                for i, names in enumerate(self._names)
                if any(are_same(name, each) for each in names)
            ]
            if numbers:
                return numbers
        return []

    def __deepcopy__(self, memo: Any) -> _Shares:
        copied = copy.copy(self)
        copied._numbers = dict(self._numbers)
        return copied

    def __reduce__(self) -> Any:
        return _Shares, ((), self.names())


def _owners(given: Any) -> list[Any]:
    owners = list(given) if isinstance(given, (list, tuple)) else [given]
    for each in owners:
        if not (hasattr(each, "weights") or hasattr(each, "assign")):
            raise TypeError(
                "An optimizer is given a layer, a model, a variable, or a list"
                f" of these. Received: {each!r} of type {type(each).__name__}."
            )
    return owners


def _plain(name: str) -> str:
    """A name without what those of tensors end with."""
    return name.removesuffix(":0")
