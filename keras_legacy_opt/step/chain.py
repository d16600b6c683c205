"""What is left to do to the gradients of a step, as data.

A `Chain` is a list of transforms.  Each can be `applied` by TensorFlow's ops;
some chains a backend can fold into its updates, which then read the gradients
once: those that four numbers say to the bit, see `Deferred`.  A norm costs one
read of the gradients; the clipped gradients are never written.  On the CPU,
norms come from the ops that `tf.clip_by_norm` and `tf.clip_by_global_norm` take
them from, because no other order of summation yields the same bits.  On a GPU,
where TensorFlow promises none, they come from one launch, see `fused.norms`: of
gradients that it scales and bounds on the way.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import tensorflow as tf

from keras_legacy_opt import distribution, originals
from keras_legacy_opt.backends import judge
from keras_legacy_opt.fused import norms
from keras_legacy_opt.rules.formula import arithmetic, rule_of
from keras_legacy_opt.step import gradients
from keras_legacy_opt.step.clipping import CLIPPING, GradsAndVars
from keras_legacy_opt.step.update import Deferred, Step, Update, updates_of

_DTYPES = (tf.float32, tf.float64)
# What comes before, between and after; each must be as this package has it.
_ENTRANCE = (
    "apply_gradients",
    "_transform_unaggregated_gradients",
    "_aggregate_gradients",
    "_prepare",
    "_prepare_local",
)
_STEPS = ("_transform_gradients", "_distributed_apply")


class Multiply(NamedTuple):
    """Multiplies gradients by a scalar: the reciprocal of a loss scale."""

    factor: Any

    def applied(self, gradient: Any) -> Any:
        """The product."""
        return gradients.multiply(gradient, self.factor)


class Divide(NamedTuple):
    """Divides gradients by a scalar: Keras 3's `loss_scale_factor`."""

    divisor: Any

    def applied(self, gradient: Any) -> Any:
        """The quotient."""
        return gradients.divide(gradient, self.divisor)


class Clip(NamedTuple):
    """Clips gradients; `option` is the optimizer's attribute that says so."""

    option: str


class Gate(NamedTuple):
    """Lets no update happen unless `condition`, a bool scalar, is True."""

    condition: Any


Scale = Multiply | Divide
Chain = tuple[Scale | Clip | Gate, ...]
_Scale = TypeVar("_Scale", bound=Scale)

# The chains that fold.  Where norms are clipped, TensorFlow's ops cannot tell
# them, to the bit, without the products.
_FOLDING = frozenset(
    [
        (),
        ("Multiply",),
        ("Multiply", "clipvalue"),
        ("Divide",),
        ("clipvalue",),
        ("clipnorm",),
        ("global_clipnorm",),
    ]
)
_FOLDING_WITH_NATIVE_NORMS = frozenset(
    (*before, norm)
    for before in (
        (),
        ("Multiply",),
        ("clipvalue",),
        ("Multiply", "clipvalue"),
    )
    for norm in ("clipnorm", "global_clipnorm")
)


def _kinds(chain: Chain) -> tuple[str, ...]:
    return tuple(
        link.option if isinstance(link, Clip) else type(link).__name__
        for link in chain
        if not isinstance(link, Gate)
    )


def clips_of(optimizer: Any) -> tuple[Clip, ...]:
    """How an optimizer clips, in the order of application."""
    return tuple(
        Clip(option)
        for option in CLIPPING
        if getattr(optimizer, option) is not None
    )


def scales_of(chain: Chain) -> tuple[Scale, ...]:
    """The links that scale."""
    return tuple(x for x in chain if isinstance(x, (Multiply, Divide)))


def scale(
    optimizer: Any, grads_and_vars: GradsAndVars, chain: tuple[_Scale, ...]
) -> tuple[GradsAndVars, tuple[_Scale, ...]]:
    """Applies a chain now, unless the updates can do it, clipping included.

    Returns:
      The pairs, and what is left of the chain: all of it, or nothing.
    """
    if (
        not chain
        or not grads_and_vars
        or (
            optimizer.gradient_aggregator is gradients.all_reduce_sum
            and originals.is_own(optimizer, _ENTRANCE)
            and refuses(optimizer, grads_and_vars, chain) is None
        )
    ):
        return grads_and_vars, chain
    return applied(optimizer, grads_and_vars, chain), ()


def applied(
    optimizer: Any, grads_and_vars: GradsAndVars, chain: Sequence[Scale]
) -> GradsAndVars:
    """The pairs after a chain, by TensorFlow's ops."""
    known = optimizer._known_variables
    for link in chain:
        grads_and_vars = [
            (g if known.is_overwritten(v) else link.applied(g), v)
            for g, v in grads_and_vars
        ]
    return grads_and_vars


def refuses(
    optimizer: Any, grads_and_vars: GradsAndVars, chain: Chain
) -> str | None:
    """Why the updates cannot do this, and then clip; None if they can."""
    kinds = _kinds((*chain, *clips_of(optimizer)))
    updates = updates_of(optimizer, grads_and_vars)
    if not (kinds in _FOLDING_WITH_NATIVE_NORMS and _has_norms(updates)):
        if kinds not in _FOLDING:
            return "the four numbers of a transform cannot say it"
        dtypes = {update.variable.dtype.base_dtype for update in updates}
        if kinds and not (len(dtypes) == 1 and dtypes.issubset(_DTYPES)):
            return "not all variables are float32, nor all float64"
    return _refuse_to_fold(optimizer, updates)


def _has_norms(updates: Sequence[Update]) -> bool:
    """Whether a native op takes the norms of the gradients."""
    if distribution.current_strategy() is not None:
        return False
    values = [gradients.values_of(update.gradient) for update in updates]
    return norms.refuses(values, [each.variable for each in updates]) is None


def gate_refuses(optimizer: Any, grads_and_vars: GradsAndVars) -> str | None:
    """Why the updates cannot be told not to change anything."""
    rule = rule_of(optimizer)
    if rule is None or rule.also:
        return "a step changes more than what its updates change"
    if not originals.is_own(optimizer, _ENTRANCE):
        return "an overridden method may change something"
    return _refuse_to_fold(optimizer, updates_of(optimizer, grads_and_vars))


def _refuse_to_fold(optimizer: Any, updates: Sequence[Update]) -> str | None:
    """Why some update has to be given its gradient as it shall be used."""
    if optimizer.gradient_transformers or not originals.is_own(
        optimizer, _STEPS
    ):
        return "what is overridden has to see the gradients"
    if distribution.current_strategy() is not None:
        return "strategies sum them first"
    step, known = Step(optimizer), optimizer._known_variables
    for update in updates:
        if known.is_overwritten(update.variable):
            return "some gradients are the variables' new values"
        if update.repeats or update.constraint is not None:
            return "a variable is updated several times, or has a constraint"
        backend = judge(step, update)
        if not backend.folds or (step.has_own and not backend.takes_own):
            return "not all are updated by native ops"
    return None


def defer(
    optimizer: Any, grads_and_vars: GradsAndVars, chain: Chain
) -> GradsAndVars:
    """The transformed gradients, or `Deferred` ones if the updates transform.

    Args:
      optimizer: whose `_transform_gradients` this is, if they do not.
      grads_and_vars: the pairs.
      chain: what `scale` left, and perhaps a `Gate`.
    """
    (condition,) = [g.condition for g in chain if isinstance(g, Gate)] or [None]
    scaling = scales_of(chain)
    whole = (*scaling, *clips_of(optimizer))
    if whole and refuses(optimizer, grads_and_vars, scaling) is None:
        transforms = _folded(optimizer, grads_and_vars, whole)
    else:
        # Callables may have changed what `scale` found.
        grads_and_vars = applied(optimizer, grads_and_vars, scaling)
        grads_and_vars = optimizer._transform_gradients(grads_and_vars)
        if condition is None:
            return grads_and_vars
        transforms = [None] * len(grads_and_vars)
    return [
        (Deferred(gradient, transform, condition), variable)
        for (gradient, variable), transform in zip(
            grads_and_vars, transforms, strict=True
        )
    ]


def transform_alone(chain: Chain, dtype: tf.DType) -> list[tf.Tensor]:
    """The transform of gradients that are not clipped, as an op takes it."""
    scales, numbers = scales_of(chain), _Numbers()
    for link in scales:
        numbers = numbers.after(link, dtype)
    return [numbers.tensor(dtype)] if scales else []


class _Numbers(NamedTuple):
    """The four numbers of a transform, in their order."""

    factor: Any = 1.0
    limit: Any = math.inf
    multiplier: Any = 1.0
    divisor: Any = 1.0

    def after(self, link: Scale, dtype: tf.DType) -> _Numbers:
        """With a link that scales."""
        if isinstance(link, Multiply):
            return self._replace(factor=tf.cast(link.factor, dtype))
        return self._replace(divisor=tf.cast(link.divisor, dtype))

    def tensor(self, dtype: tf.DType) -> tf.Tensor:
        """As an op takes them."""
        return tf.stack([tf.convert_to_tensor(n, dtype) for n in self])

    def bounded(self, values: Sequence[tf.Tensor]) -> Sequence[tf.Tensor]:
        """What elements are before they are clipped by a norm."""
        if self is _UNCHANGED:
            return values
        return [
            tf.clip_by_value(value * self.factor, -self.limit, self.limit)
            for value in values
        ]


_UNCHANGED = _Numbers()


def _folded(
    optimizer: Any,
    grads_and_vars: GradsAndVars,
    chain: Sequence[Scale | Clip],
) -> Sequence[tf.Tensor | norms.Row]:
    """One transform per gradient; the same tensor for all where possible."""
    given = grads_and_vars[0][1].dtype.base_dtype
    dtype, numbers = arithmetic(given), _UNCHANGED
    for link in chain:
        if not isinstance(link, Clip):
            numbers = numbers.after(link, dtype)
            continue
        option = link.option
        limit = optimizer._clip_limits.limit(option, getattr(optimizer, option))
        limit = tf.cast(tf.convert_to_tensor(limit(given), given), dtype)
        if option != "clipvalue":
            return _by_norm(grads_and_vars, numbers, option, limit)
        numbers = numbers._replace(limit=limit)
    return [numbers.tensor(dtype)] * len(grads_and_vars)


def _by_norm(
    grads_and_vars: GradsAndVars, numbers: _Numbers, option: str, limit: Any
) -> Sequence[tf.Tensor | norms.Row]:
    """The transforms, with the last link of their chain: it clips by norm."""
    values = [gradients.values_of(gradient) for gradient, _ in grads_and_vars]
    variables = [variable for _, variable in grads_and_vars]
    of_each = option == "clipnorm"
    if norms.refuses(values, variables) is None:
        before = () if numbers is _UNCHANGED else [numbers.tensor(limit.dtype)]
        _, table = norms.clipping(values, variables, limit, before, of_each)
        if of_each:
            return [norms.Row(table, i) for i in range(len(values))]
        return [table] * len(values)
    values = numbers.bounded([tf.cast(v, limit.dtype) for v in values])
    if of_each:
        return _clipping_each(values, numbers, limit)
    norm = tf.linalg.global_norm(values)
    scale = limit * tf.minimum(1.0 / norm, tf.ones([], limit.dtype) / limit)
    # Not finite in, not finite out.
    numbers = numbers._replace(multiplier=scale + (norm - norm))
    return [numbers.tensor(limit.dtype)] * len(values)


def _clipping_each(
    values: Sequence[tf.Tensor], numbers: _Numbers, limit: tf.Tensor
) -> list[tf.Tensor]:
    found = [tf.sqrt(tf.reduce_sum(value * value)) for value in values]
    return [
        numbers._replace(
            multiplier=limit, divisor=tf.maximum(norm, limit)
        ).tensor(limit.dtype)
        for norm in found
    ]
