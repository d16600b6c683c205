"""Name-based checkpoints of TF1's `tf.train.Saver`, with its optimizers.

`tf.compat.v1.train.AdamOptimizer` keeps `m` and `v` of `dense/kernel` in
`dense/kernel/Adam` and `dense/kernel/Adam_1`, and the step in `beta1_power`.
The tables below say the same of its siblings.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_legacy_opt import hosts
from keras_legacy_opt.checkpoints import contents
from keras_legacy_opt.checkpoints.contents import Contents, Item
from keras_legacy_opt.checkpoints.report import CheckpointError
from keras_legacy_opt.checkpoints.sources import Source
from keras_legacy_opt.checkpoints.targets import Targets
from keras_legacy_opt.checkpoints.values import Value, constant
from keras_legacy_opt.optimizer import Optimizer
from keras_legacy_opt.state import saving

FORMAT = "TF1 name-based checkpoint"
NO_PLACE = (
    "no such variable in the model; if it has another name there, pass `names`"
)

# {TF1's name of an optimizer: our class}
_CLASSES = {
    "AdaMax": "Adamax",
    "Adadelta": "Adadelta",
    "Adagrad": "Adagrad",
    "Adam": "Adam",
    "Ftrl": "Ftrl",
    "Momentum": "SGD",
    "Nadam": "Nadam",
    "RMSProp": "RMSprop",
}
# {our class: our slots, in the order in which TF1 made its own; or another}
_ORDERS: dict[str, Sequence[tuple[str, ...]]] = {
    "Adadelta": [("accum_grad", "accum_var")],
    "Adagrad": [("accumulator",)],
    "Adam": [("m", "v")],
    "Adamax": [("m", "v")],
    "Ftrl": [("accumulator", "linear")],
    "Nadam": [("m", "v")],
    "RMSprop": [("rms", "momentum"), ("rms", "mg", "momentum")],
    "SGD": [("momentum",)],
}
_COUNTS = "counts steps, also of other optimizers"
_AVERAGE = "ExponentialMovingAverage"
_POWER = re.compile(r"beta([12])_power(_\d+)?")
# TF1's defaults; it has no variables for them.
_BETAS = {"1": 0.9, "2": 0.999}
# The number of steps that powers of a beta are followed; after them a float32
# power of 0.999 has underflowed.
_MAX_POWERS = 200_000


def detect(source: Source) -> bool:
    """Whether it is a checkpoint; one with an object graph is not asked."""
    return source.bundle is not None


# Reading.


def read(source: Source) -> Contents:
    """What is in the checkpoint, if its optimizer has the defaults of TF1."""
    file = _read(source)
    steps = _steps(file.items, _BETAS)
    if steps.item is not None:
        item = dataclasses.replace(steps.item, reason=_COUNTS)
        file.items.append(item)
    elif len(steps.numbers) > 1:
        file.obstacle = (
            f"{', '.join(i.name for i in steps.powers)} tell of different"
            " numbers of steps: of several optimizers, or of other betas than"
            " the defaults. Restore it in Python, with"
            " keras_legacy_opt.checkpoints.restore, and write that with"
            " keras_legacy_opt.checkpoints.save."
        )
    return file


def _read(source: Source) -> Contents:
    bundle = source.bundle
    assert bundle is not None
    items: dict[str, Item] = {}
    classes: set[str] = set()
    for variable, groups in _groups(bundle.shapes).items():
        for name, keys in groups.items():
            found = _CLASSES.get(name, "")
            for order in _ORDERS.get(found, ()):
                if len(order) == len(keys):
                    classes.add(found)
                    items |= _slots(bundle.value, variable, order, keys)
    for key in sorted(bundle.shapes.keys() - items.keys()):
        last = key.rpartition("/")[2]
        is_step = last == "global_step"
        is_scalar = is_step or _POWER.match(last)
        items[key] = Item(
            contents.OTHER if is_scalar else contents.MODEL,
            tuple(key.split("/")),
            bundle.value(key),
            name=key,
            reason=_COUNTS if is_step else "",
        )
    return Contents(
        source.path,
        FORMAT,
        list(items.values()),
        sorted(classes),
        has_hyperparameters=False,
        source=source,
    )


def _groups(keys: Iterable[str]) -> dict[str, dict[str, list[str]]]:
    """{variable: {what may be an optimizer: keys of its slots, in order}}."""
    keys = set(keys)
    numbered: dict[str, dict[str, dict[int, str]]] = {}
    for key in keys:
        variable, _, last = key.rpartition("/")
        match = re.fullmatch(r"(.+?)(?:_(\d{1,9}))?", last)
        if variable in keys and match:
            found = numbered.setdefault(variable, {}).setdefault(match[1], {})
            found[int(match[2] or 0)] = key
    return {
        variable: {
            name: [slots[i] for i in sorted(slots)]
            for name, slots in sorted(numbered[variable].items())
        }
        for variable in sorted(numbered)
    }


def _slots(
    value: Callable[[str], Value],
    variable: str,
    order: Sequence[str],
    keys: Sequence[str],
) -> dict[str, Item]:
    path = tuple(variable.split("/"))
    return {
        key: Item(contents.SLOT, path, value(key), slot, variable)
        for slot, key in zip(order, keys, strict=True)
    }


@dataclasses.dataclass
class _Steps:
    """What the powers of betas and the global step tell of the iterations.

    Attributes:
      powers: {item of a power: exponent, less one, or `None`}.
      item: the iterations, if they are known.
      source: the item that tells them.
      others: {item: why it is not needed}.
      mismatch: (name in the file, name here, reason) if they contradict.
    """

    powers: dict[Item, int | None]
    item: Item | None = None
    source: Item | None = None
    others: dict[Item, str] = dataclasses.field(default_factory=dict)
    mismatch: tuple[str, str, str] | None = None

    @property
    def numbers(self) -> set[int]:
        """The numbers of steps that the powers tell."""
        return {n for n in self.powers.values() if n is not None}


def _steps(items: Iterable[Item], betas: Mapping[str, Any]) -> _Steps:
    items = [item for item in items if item.kind == contents.OTHER]
    totals = [item for item in items if item.path[-1] == "global_step"]
    result = _Steps({})
    for item in items:
        match = _POWER.fullmatch(item.path[-1])
        if match and match[1] in betas:
            power = item.value.read()
            result.powers[item] = steps_of_power(power, betas[match[1]])
    known = {i: n for i, n in result.powers.items() if n is not None}
    if len(result.numbers) > 1 or (result.powers and not known and not totals):
        told = {item.name: number for item, number in known.items()}
        result.mismatch = (
            ", ".join(item.name for item in result.powers),
            "optimizer/iter",
            "are not the same power of beta_1 and beta_2 of this optimizer"
            f" ({told or 'no power'}): other betas?",
        )
        result.others = dict.fromkeys(result.powers, "tells no number of steps")
        return result
    if known:
        result.source, step = next(iter(known.items()))
        note = "the exponent, less one"
        value = constant(result.source.name, np.int64(step), note)
        result.others = dict.fromkeys(result.powers, "says the same")
        result.others |= dict.fromkeys(totals, "counts the same, or more")
    elif totals:
        result.source = totals[0]
        value = result.source.value.map(lambda n: n.astype(np.int64), "")
        value = dataclasses.replace(value, dtype=np.int64)
        result.others = dict.fromkeys(result.powers, "has become 0")
    else:
        return result
    result.item = Item(contents.ITERATIONS, ("iter",), value)
    return result


def steps_of_power(power: Any, beta: Any) -> int | None:
    """How often TF1 multiplied `beta` by itself to get `power`.

    The products are formed again, rounded as they were, so that the answer is
    exact; `None` if `power` is none of them, or has underflowed.

    >>> import numpy as np
    >>> from keras_legacy_opt.checkpoints.formats import tf1
    >>> beta = np.float32(0.9)
    >>> tf1.steps_of_power(beta * beta * beta, beta)
    2
    """
    if np.shape(power):
        return None
    beta = np.asarray(beta, np.asarray(power).dtype)[()]
    current = beta
    if not 0 < beta < 1 or power <= np.finfo(beta.dtype).tiny:
        return None
    for step in range(_MAX_POWERS):
        if current == power:
            return step
        if current < power:
            return None
        current = current * beta
    return None


def with_learning_rate(file: Contents, learning_rate: Any) -> Contents:
    """Converts the slots of TF1's MomentumOptimizer to those of SGD.

    The former sum gradients, not yet multiplied by the learning rate.
    """

    def steps(value: Value) -> Value:
        rate = np.asarray(learning_rate, value.dtype)
        return value.map(
            lambda sums: (-rate * sums).astype(value.dtype),
            f"times -{rate:.6g}, the learning rate",
        )

    return dataclasses.replace(
        file,
        items=[
            dataclasses.replace(item, value=steps(item.value))
            if item.slot == "momentum"
            else item
            for item in file.items
        ],
    )


# Finding the variables.


def locate(
    file: Contents,
    targets: Targets,
    names: Mapping[str, Any] | Callable[[str], Any] | None = None,
) -> tuple[Contents, dict[tuple[str, ...], Any]]:
    """The file as the optimizer reads it, and {path: variable}."""
    find = _finder(targets, names)
    found = {key: find(key) for key in sorted(file.source.bundle.shapes)}
    located = {
        tuple(key.split("/")): variable
        for key, variable in found.items()
        if variable is not None
    }
    file = file.of_model(located)
    if targets.has_optimizer:
        file = _read_for(file, targets, located)
    return file, located


def _read_for(
    file: Contents,
    targets: Targets,
    located: Mapping[tuple[str, ...], Any],
) -> Contents:
    """The file, if it is of TF1's sibling of the optimizer inside wrappers."""
    optimizer = targets.innermost
    order = _order_of(optimizer)
    items = [i for i in file.items if i.kind != contents.ITERATIONS]
    if not file.of(contents.SLOT):
        items = _with_slots_of_a_name(items, located, order)
    betas = {
        number: saving.fetch_all([optimizer._get_hyper(f"beta_{number}")])[0]
        for number in _BETAS
        if f"beta_{number}" in targets.optimizer_children
    }
    steps = _steps(items, betas)
    items = [
        dataclasses.replace(i, reason=steps.others.get(i, i.reason))
        for i in items
        if i is not steps.source
    ]
    mismatches = [m for m in [steps.mismatch] if m is not None]
    if steps.item is not None:
        items.append(steps.item)
    if "momentum_cache" in targets.optimizer_children:
        told = ("", "optimizer/momentum_cache", "TF1 had no such optimizer")
        mismatches.append(told)
    if not getattr(optimizer, "_momentum", True):
        unneeded = "the momentum slot of an RMSprop without any"
        items = [
            dataclasses.replace(i, kind=contents.FOREIGN, reason=unneeded)
            if i.slot == "momentum" and "rms" in order
            else i
            for i in items
        ]
    file = dataclasses.replace(file, items=items, mismatches=mismatches)
    if type(optimizer).__name__ != "SGD" or not file.of(contents.SLOT):
        return file
    dtype = tf.as_dtype(file.of(contents.SLOT)[0].value.dtype)
    (rate,) = saving.fetch_all([optimizer._decayed_lr(dtype)])
    return with_learning_rate(file, rate)


def _order_of(optimizer: Optimizer) -> tuple[str, ...]:
    """Our slots, in the order in which the TF1 sibling made its own."""
    for cls in type(optimizer).__mro__:
        if cls.__name__ in _ORDERS:
            orders = _ORDERS[cls.__name__]
            return orders[-1 if getattr(optimizer, "centered", False) else 0]
    raise CheckpointError(
        f"{type(optimizer).__name__} has no sibling in TF1: its state cannot be"
        " read from a name-based checkpoint. Pass optimizer=None and"
        " strict=False to read the model only."
    )


def _with_slots_of_a_name(
    items: list[Item],
    located: Mapping[tuple[str, ...], Any],
    order: Sequence[str],
) -> list[Item]:
    """Takes for slots what an optimizer of any name has of each variable.

    It is not clear which are, if there are several of the right number.
    """
    stored = {i.value.name: i for i in items if i.kind == contents.MODEL}
    slots: dict[str, dict[str, Item]] = {}
    for variable, groups in _groups(stored).items():
        if tuple(variable.split("/")) not in located:
            continue
        for name, keys in groups.items():
            if len(keys) == len(order) and name not in {*_CLASSES, _AVERAGE}:
                found = _slots(lambda k: stored[k].value, variable, order, keys)
                slots.setdefault(name, {}).update(found)
    if len(slots) != 1:
        return items
    (found,) = slots.values()
    return [found.get(i.value.name, i) for i in items]


def _finder(targets: Targets, names: Any) -> Callable[[str], Any | None]:
    """The function from a name in the file to a variable of the model."""
    by_name = {targets.name(v): v for v in targets.weights}
    if isinstance(targets.model, Mapping):
        by_name.update((n, hosts.unwrap(v)) for n, v in targets.model.items())
    by_suffix: dict[str, list[Any]] = {}
    for name, variable in by_name.items():
        parts = name.split("/")
        for i in range(1, len(parts) - 1):
            by_suffix.setdefault("/".join(parts[i:]), []).append(variable)

    def find(key: str) -> Any | None:
        given = None
        if callable(names):
            given = names(key)
        elif names is not None:
            given = names.get(key)
        if given is None:
            given = key
        if not isinstance(given, str):
            return hosts.unwrap(given)
        if given in by_name:
            return by_name[given]
        candidates = by_suffix.get(given, [])
        return candidates[0] if len(candidates) == 1 else None

    return find


# Converting.


def unsaid(file: Contents, to_h5: bool) -> str | None:
    """What only the model's architecture tells, or `None`."""
    return "in which order a layer has its weights" if to_h5 else None


def as_objects(file: Contents) -> Callable[[Item], tuple[str, ...]]:
    """The function from an item to its path in an object checkpoint."""
    return lambda item: (
        item.path if item.kind == contents.OTHER else ("model", *item.path)
    )
