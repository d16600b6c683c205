"""Whole-model HDF5 files of Keras 2 (and 1): `model.save("model.h5")`."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_legacy_opt import hosts, saving, serialization
from keras_legacy_opt.checkpoints import releases
from keras_legacy_opt.checkpoints.plan import Plan
from keras_legacy_opt.checkpoints.report import CheckpointError, Report
from keras_legacy_opt.checkpoints.targets import Targets, trainable_of
from keras_legacy_opt.checkpoints.values import Value, constant, readable

FORMAT = "Keras 2 HDF5"
_ATTRIBUTE_BYTES = 64512  # As Keras splits longer ones.
_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_OF_KERAS_3_LOSS_SCALE = (
    "loss_scale_optimizer(_[0-9]+)?/"
    "(iteration|learning_rate|step_counter|dynamic_scale)"
)
_LOSS_SCALE_OPTIMIZERS = ("LossScaleOptimizer", "LossScaleOptimizerV1")


def is_hdf5(path: str) -> bool:
    """Whether a file begins as HDF5 files do."""
    with open(path, "rb") as file:
        return file.read(len(_SIGNATURE)) == _SIGNATURE


def is_keras_2(file: Any) -> bool:
    """Whether an open HDF5 file is Keras 2's, not Keras 3's `.weights.h5`."""
    return "layer_names" in model_group(file).attrs


def model_group(file: Any) -> Any:
    """The group of the model's weights, in whole-model and weights files."""
    return file["model_weights"] if "model_weights" in file else file


def names(group: Any, attribute: str) -> list[str]:
    """A list of strings in an attribute; long ones are split in chunks."""
    chunks = [attribute] if attribute in group.attrs else []
    while f"{attribute}{len(chunks)}" in group.attrs:
        chunks.append(f"{attribute}{len(chunks)}")
    return [text(name) for chunk in chunks for name in group.attrs[chunk]]


def set_names(group: Any, attribute: str, values: Sequence[str]) -> None:
    """Writes what `names` reads; HDF5 has no attributes beyond 64 kB."""
    encoded = [value.encode() for value in values]
    size = max(1, _ATTRIBUTE_BYTES // max(map(len, encoded), default=1))
    if len(encoded) <= size:
        group.attrs[attribute] = encoded
        return
    for i, start in enumerate(range(0, len(encoded), size)):
        group.attrs[f"{attribute}{i}"] = encoded[start : start + size]


def text(attribute: Any) -> str:
    """A string in an attribute, of either kind."""
    if isinstance(attribute, bytes):
        return attribute.decode()
    return str(attribute)


def layers(file: Any) -> list[tuple[str, list[tuple[str, Any]]]]:
    """[(layer, [(weight's name, dataset)])] of the layers with weights."""
    group = model_group(file)
    result = []
    for layer in [*names(group, "layer_names"), "top_level_model_weights"]:
        if layer in group:
            weights = names(group[layer], "weight_names")
            if weights:
                result.append((layer, [(w, group[layer][w]) for w in weights]))
    return result


def optimizer_weights(file: Any) -> list[tuple[str, Any]]:
    """[(name, dataset)] of the optimizer, in the order of `get_weights`."""
    if "optimizer_weights" not in file:
        return []
    group = file["optimizer_weights"]
    return [(name, group[name]) for name in names(group, "weight_names")]


def optimizer_config(file: Any) -> dict[str, Any] | None:
    """The class and config of the optimizer, if the model was compiled."""
    config = file.attrs.get("training_config")
    if config is None:
        return None
    return json.loads(config).get("optimizer_config")


def without_loss_scale(config: dict[str, Any]) -> dict[str, Any]:
    """Of a LossScaleOptimizer's class and config, those of the inner one."""
    while config["class_name"].rpartition(">")[2] in _LOSS_SCALE_OPTIMIZERS:
        wrapper = config["config"]
        config = wrapper.get("inner_optimizer") or wrapper["optimizer"]
    return config


def value(name: str, dataset: Any) -> Value:
    """The value of a dataset, not read yet."""
    if (
        dataset.shape is None
        or dataset.dtype.kind not in "biufcV"
        or (dataset.dtype.names is not None)
    ):
        raise CheckpointError(
            f"{dataset.file.filename}: {name!r} holds {dataset.dtype}, not"
            " numbers as the variables of Keras do."
        )
    return Value(
        name,
        tuple(dataset.shape),
        dataset.dtype,
        functools.partial(_read, dataset),
    )


def _read(dataset: Any) -> np.ndarray:
    return np.asarray(dataset[()])


def plan(file: Any, targets: Targets, path: str) -> Plan:
    """What goes where from an open HDF5 file of Keras 2."""
    result = Plan(Report(path, FORMAT), targets)
    with readable(path):
        stored_layers = layers(file)
        stored_slots = optimizer_weights(file)
        config = optimizer_config(file)
    named = _plan_model(stored_layers, targets, result)
    values = []
    for name, dataset in stored_slots:
        stored = value(name, dataset)
        if re.fullmatch(_OF_KERAS_3_LOSS_SCALE, name):
            result.ignored(stored, "is of Keras 3's LossScaleOptimizer around")
        else:
            values.append(stored)
    if targets.optimizer is None:
        for v in values:
            result.unused(v, "no optimizer was given")
        return result
    if config is not None:
        compare_config(config, targets, result)
    else:
        for variable in targets.optimizer_children.values():
            result.not_expected(variable)
    _plan_slots(values, named, targets, result)
    return result


def _plan_model(
    stored: Sequence[tuple[str, list[tuple[str, Any]]]],
    targets: Targets,
    result: Plan,
) -> list[tuple[str, Any]]:
    """Plans the model's weights; returns [(name in the file, variable)]."""
    if not hasattr(targets.model, "layers"):
        raise CheckpointError(
            f"{result.report.path} holds a model of Keras: pass the model to"
            f" restore it into. Received: model={targets.model!r}."
        )
    live = {
        layer.name: [hosts.unwrap(w) for w in weights_in_order(layer)]
        for layer in targets.model.layers
        if layer.weights
    }
    stored_names = [name for name, _ in stored]
    by_order = list(live.values())
    named: list[tuple[str, Any]] = []
    for i, (layer, weights) in enumerate(stored):
        if set(stored_names) <= live.keys():
            variables = live[layer]
        else:  # Other names: as Keras does, by the order of the layers.
            variables = by_order[i] if i < len(by_order) else []
        for j, (name, dataset) in enumerate(weights):
            stored_value = value(f"{layer}/{name}", dataset)
            if j < len(variables):
                result.assign(stored_value, variables[j])
                named.append((name.removesuffix(":0"), variables[j]))
            else:
                result.unused(stored_value, "the model has no such weight")
    return named


def weights_in_order(layer: Any) -> list[Any]:
    """A layer's weights as HDF5 files have them: those to train come first."""
    return [*layer.trainable_weights, *layer.non_trainable_weights]


def compare_config(
    stored: dict[str, Any], targets: Targets, result: Plan
) -> None:
    """Plans the hyperparameters of a config, and compares the other options.

    Args:
      stored: {"class_name": ..., "config": {...}}.
      targets: has an optimizer.
      result: the plan.
    """
    optimizer = targets.optimizer
    stored = without_loss_scale(stored)
    class_name = stored["class_name"].rpartition(">")[2]
    if class_name.lower() != type(optimizer).__name__.lower():
        result.mismatch(
            "optimizer",
            "optimizer",
            f"the file has {class_name}, not {type(optimizer).__name__}",
        )
        return
    config = releases.completed(class_name, stored["config"])
    children = targets.optimizer_children
    own = optimizer.get_config()
    for name, option in config.items():
        if name in children and isinstance(option, (bool, int, float)):
            dtype = children[name].dtype.as_numpy_dtype
            result.assign(
                constant(f"optimizer_config/{name}", np.asarray(option, dtype)),
                children[name],
            )
        elif name in own and name != "name" and not _same(option, own[name]):
            result.mismatch(
                f"optimizer_config/{name}",
                f"optimizer/{name}",
                f"{_short(option)} in the file, {_short(own[name])} here",
            )
    for name, child in children.items():
        if name not in config:
            result.not_expected(child)


def _same(stored: Any, own: Any) -> bool:
    if isinstance(stored, dict) and isinstance(own, dict):
        try:
            return _schedule(stored) == _schedule(own)
        except Exception:  # Whatever a damaged configuration leads to.
            return False
    return stored == own or (
        isinstance(stored, float) and np.float32(stored) == np.float32(own)
        if isinstance(own, (int, float))
        else False
    )


def _schedule(config: dict[str, Any]) -> tuple[str, Any]:
    schedule = serialization.deserialize_schedule(config)
    return type(schedule).__name__, schedule.get_config()


def _short(option: Any) -> str:
    if isinstance(option, dict) and "class_name" in option:
        return str(option["class_name"])
    return repr(option)


def _plan_slots(
    values: Sequence[Value],
    named: Sequence[tuple[str, Any]],
    targets: Targets,
    result: Plan,
) -> None:
    """Plans the optimizer's weights: by name, else by position."""
    by_name = [_target_by_name(v, named, targets) for v in values]
    optimizer = targets.optimizer
    found = [target for target in by_name if target is not None]
    if len(found) == len(values) == len({id(t) for t in found}):
        for v, target in zip(values, by_name, strict=True):
            result.assign(v, target)
        return
    # Keras 1 and TF1 called them Variable_12: the order has to do.
    own = list(optimizer.weights)
    cache = targets.optimizer_children.get("momentum_cache")
    if len(values) == len(own) - 1:
        if optimizer._takes_weights_without_iterations:
            own = own[1:]
            result.not_expected(optimizer.iterations)
        elif cache is not None:
            own = [weight for weight in own if weight is not cache]
            _plan_momentum_cache(values[0], cache, result)
    surplus = list(values[len(own) :])
    if len(surplus) == len(list(trainable_of(targets.model))):
        kept = None
        if getattr(optimizer, "amsgrad", None) is False:
            kept = "the third slot"
        elif getattr(optimizer, "_momentum", None) is False and len(own) == 1:
            kept = "the slot of a momentum of 0"
        if kept is not None:
            for v in surplus:
                result.ignored(v, f"{kept}, which Keras 1 kept unused")
            surplus = []
    for v, target in zip(values, own, strict=False):
        result.assign(v, target)
    for v in surplus:
        result.unused(
            v, f"{type(optimizer).__name__} has only {len(own)} weights here"
        )


def _plan_momentum_cache(iterations: Value, cache: Any, result: Plan) -> None:
    """Plans the product of Nadam's momentums, which Keras 1 did not save."""

    def planned(name: str) -> Any:
        variable = result.targets.optimizer_children[name]
        value = result.value_of(variable)
        return (
            saving.fetch_all([variable])[0] if value is None else value.read()
        )

    with readable(result.report.path):
        product = releases.momentum_cache(
            int(iterations.read()),
            planned("beta_1"),
            planned("decay"),
            cache.dtype.as_numpy_dtype,
        )
    result.assign(
        constant("", product, "not in the file: the product of all momentums"),
        cache,
    )


def _target_by_name(
    stored: Value, named: Sequence[tuple[str, Any]], targets: Targets
) -> Any | None:
    path = stored.name.removesuffix(":0")
    last = path.rpartition("/")[2]
    matches = [
        targets.slots(variable)[last]
        for name, variable in named
        if last in targets.slots(variable)
        and f"/{path}".endswith(f"/{name}/{last}")
    ]
    if len(matches) == 1:
        return matches[0]
    if not matches:
        iterations = "iter" if last == "iterations" else last
        return targets.optimizer_children.get(iterations)
    return None
