"""Name-based checkpoints of TF1's `tf.train.Saver`, with its optimizers.

`tf.compat.v1.train.AdamOptimizer` keeps `m` and `v` of `dense/kernel` in
`dense/kernel/Adam` and `dense/kernel/Adam_1`, and the step in `beta1_power`.
The table below says the same of its siblings.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from keras_legacy_opt import hosts, saving
from keras_legacy_opt.checkpoints.object_graph import Reader
from keras_legacy_opt.checkpoints.plan import Plan
from keras_legacy_opt.checkpoints.report import CheckpointError, Report
from keras_legacy_opt.checkpoints.targets import Targets
from keras_legacy_opt.checkpoints.values import Value, constant

FORMAT = "TF1 name-based checkpoint"

# The number of steps that powers of a beta are followed; after them a float32
# power of 0.999 has underflowed.
_MAX_POWERS = 200_000


def _slots_of(optimizer: Any) -> list[str]:
    """Our slots, in the order in which the TF1 sibling made its own."""
    name = type(optimizer).__name__
    order = {
        "Adam": ["m", "v"],
        "Adamax": ["m", "v"],
        "Nadam": ["m", "v"],
        "Adagrad": ["accumulator"],
        "Adadelta": ["accum_grad", "accum_var"],
        "Ftrl": ["accumulator", "linear"],
        "SGD": ["momentum"] if getattr(optimizer, "_momentum", 0) else [],
        "RMSprop": ["rms", *(["mg"] * getattr(optimizer, "centered", False))]
        + ["momentum"],
    }
    for cls in type(optimizer).__mro__:
        if cls.__name__ in order:
            return order[cls.__name__]
    raise CheckpointError(
        f"{name} has no sibling in TF1: its state cannot be read from a"
        " name-based checkpoint. Pass optimizer=None and strict=False to read"
        " the model only."
    )


def plan(
    reader: Reader,
    targets: Targets,
    path: str,
    names: Mapping[str, Any] | Callable[[str], Any] | None = None,
) -> Plan:
    """What goes where from a name-based checkpoint."""
    result = Plan(Report(path, FORMAT), targets)
    left = set(reader.shapes)
    matched: dict[str, Any] = {}
    find = _finder(targets, names)
    for key in sorted(left):
        variable = find(key)
        if variable is not None:
            matched[key] = variable
            result.assign(reader.value(key), variable)
    left -= matched.keys()
    if targets.optimizer is not None:
        left -= _plan_slots(reader, left, matched, result)
        left -= _plan_scalars(reader, left, result)
    for key in sorted(left):
        _leave(reader.value(key), targets, result)
    return result


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


def _slot_keys(
    keys: set[str], variable_key: str
) -> Iterator[tuple[str, list[str]]]:
    """(TF1's name of the optimizer, keys of the slots in order)."""
    pattern = re.compile(re.escape(variable_key) + r"/([^/]+?)(?:_(\d+))?$")
    found: dict[str, dict[int, str]] = {}
    for key in keys:
        match = pattern.match(key)
        if match:
            found.setdefault(match[1], {})[int(match[2] or 0)] = key
    for name, numbered in found.items():
        yield name, [numbered[i] for i in sorted(numbered)]


def _plan_slots(
    reader: Reader, left: set[str], matched: dict[str, Any], result: Plan
) -> set[str]:
    targets, optimizer = result.targets, result.targets.optimizer
    slot_names = _slots_of(optimizer)
    used: set[str] = set()
    for variable_key, variable in matched.items():
        for tf1_name, keys in _slot_keys(left, variable_key):
            own = targets.slots(variable)
            if len(keys) != len(slot_names):
                for key in keys:
                    used.add(key)
                    result.unused(
                        reader.value(key),
                        f"{tf1_name!r} has {len(keys)} slots, but"
                        f" {type(optimizer).__name__} has {len(slot_names)} in"
                        f" TF1 ({slot_names}): another optimizer's file?",
                    )
                continue
            for slot_name, key in zip(slot_names, keys, strict=True):
                used.add(key)
                value = _converted(reader.value(key), optimizer)
                if slot_name in own:
                    result.assign(value, own[slot_name])
                elif slot_name == "momentum" and own:
                    result.ignored(
                        value, "the momentum slot of an RMSprop without any"
                    )
                else:
                    result.unused(
                        value, f"{targets.name(variable)} has no slot here"
                    )
    return used


def _converted(value: Value, optimizer: Any) -> Value:
    if type(optimizer).__name__ != "SGD":
        return value
    learning_rate = saving.fetch_all(
        [optimizer._decayed_lr(tf.as_dtype(value.dtype))]
    )[0]
    return steps_for_gradients(value, learning_rate)


def steps_for_gradients(value: Value, learning_rate: Any) -> Value:
    """The slot of SGD for the slot of TF1's MomentumOptimizer.

    The latter sums gradients, not yet multiplied by the learning rate.
    """
    rate = np.asarray(learning_rate, value.dtype)
    return value.map(
        lambda accumulator: (-rate * accumulator).astype(value.dtype),
        f"times -{rate:.6g}, the learning rate",
    )


def _plan_scalars(reader: Reader, left: set[str], result: Plan) -> set[str]:
    """Plans the iterations; TF1 has no variables for hyperparameters."""
    targets, optimizer = result.targets, result.targets.optimizer
    for child in targets.optimizer_children.values():
        result.not_expected(child)
    if "momentum_cache" in targets.optimizer_children:
        result.mismatch(
            "", "optimizer/momentum_cache", "TF1 had no such optimizer"
        )
    used: set[str] = set()
    steps: dict[str, int | None] = {}
    for key in sorted(left):
        last = key.rpartition("/")[2]
        match = re.fullmatch(r"beta([12])_power(_\d+)?", last)
        hyper = f"beta_{match[1]}" if match else ""
        if hyper in targets.optimizer_children:
            used.add(key)
            beta = optimizer._get_hyper(hyper)
            steps[key] = steps_of_power(
                reader.value(key).read(), saving.fetch_all([beta])[0]
            )
    known = {key: step for key, step in steps.items() if step is not None}
    global_steps = [k for k in left if k.rpartition("/")[2] == "global_step"]
    if len(set(known.values())) > 1 or (
        steps and not known and not global_steps
    ):
        result.mismatch(
            ", ".join(steps),
            "optimizer/iter",
            "are not the same power of beta_1 and beta_2 of this optimizer"
            f" ({known or 'no power'}): other betas?",
        )
    elif known:
        key, step = next(iter(known.items()))
        result.assign(
            constant(key, np.int64(step), "the exponent, less one"),
            optimizer.iterations,
        )
        for other in steps.keys() - {key}:
            result.ignored(reader.value(other), "says the same")
        for other in global_steps:
            used.add(other)
            result.ignored(reader.value(other), "counts the same, or more")
    elif global_steps:
        key = global_steps[0]
        used.add(key)
        value = reader.value(key)
        result.assign(
            Value(value.name, value.shape, np.int64, value.read),
            optimizer.iterations,
        )
        for other in steps:
            result.ignored(reader.value(other), "has become 0")
    return used


def steps_of_power(power: Any, beta: Any) -> int | None:
    """How often TF1 multiplied `beta` by itself to get `power`.

    The products are formed again, rounded as they were, so that the answer is
    exact; `None` if `power` is none of them, or has underflowed.

    >>> import numpy as np
    >>> from keras_legacy_opt.checkpoints import tf1
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


def _leave(value: Value, targets: Targets, result: Plan) -> None:
    last = value.name.rpartition("/")[2]
    if last == "global_step":
        result.ignored(value, "counts steps, also of other optimizers")
    elif targets.optimizer is None:
        result.unused(value, "no such variable in the model, or no optimizer")
    else:
        result.unused(
            value,
            "no such variable in the model; if it has another name there, pass"
            " `names`",
        )
