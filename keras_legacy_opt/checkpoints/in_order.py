"""An optimizer's weights by their order, where their names do not tell.

Keras 1 and TF1 called them `Variable_12`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keras_legacy_opt.checkpoints import contents, optimizers, releases
from keras_legacy_opt.checkpoints.contents import Item
from keras_legacy_opt.checkpoints.plan import Plan
from keras_legacy_opt.checkpoints.targets import trainable_of
from keras_legacy_opt.checkpoints.values import Value, constant, readable


def are_clear(items: Sequence[Item], targets: Sequence[Any]) -> bool:
    """Whether the names of weights have told what they are.

    They may be what the optimizer has no place for.

    Args:
      items: the weights.
      targets: the variables here that their names are of, or `None`.
    """
    found = [id(target) for target in targets if target is not None]
    return len({*found}) == len(found) and not any(
        item.kind == contents.OTHER for item in items
    )


def match(items: Sequence[Item], plan: Plan) -> None:
    """Plans the optimizer's weights, in the order of `get_weights`."""
    optimizer = plan.targets.optimizer
    values = [item.value for item in items]
    own = list(optimizer.weights)
    cache = plan.targets.optimizer_children.get(optimizers.MOMENTUM_CACHE)
    if len(values) == len(own) - 1:
        if optimizer._takes_weights_without_iterations:
            own = own[1:]
            plan.not_expected(optimizer.iterations)
        elif cache is not None:
            own = [weight for weight in own if weight is not cache]
            _plan_momentum_cache(values[0], cache, plan)
    surplus = values[len(own) :]
    kept = None
    if len(surplus) == len(list(trainable_of(plan.targets.model))):
        if getattr(optimizer, "amsgrad", None) is False:
            kept = "the third slot"
        elif getattr(optimizer, "_momentum", None) is False and len(own) == 1:
            kept = "the slot of a momentum of 0"
    for value, target in zip(values, own, strict=False):
        plan.assign(value, target)
    for value in surplus:
        if kept is not None:
            plan.ignored(value, f"{kept}, which Keras 1 kept unused")
        else:
            name = type(optimizer).__name__
            plan.unused(value, f"{name} has only {len(own)} weights here")


def _plan_momentum_cache(iterations: Value, cache: Any, plan: Plan) -> None:
    """Plans the product of Nadam's momentums, which Keras 1 did not save."""
    children = plan.targets.optimizer_children
    with readable(plan.report.path):
        product = releases.momentum_cache(
            int(iterations.read()),
            plan.result_of(children["beta_1"]),
            plan.result_of(children["decay"]),
            cache.dtype.as_numpy_dtype,
        )
    note = "not in the file: the product of all momentums"
    plan.assign(constant("", product, note), cache)
