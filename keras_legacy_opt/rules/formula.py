"""What an optimizer's declaration consists of: a `Rule` of `Formula`s.

A `Rule` belongs to a class, a `Formula` to a choice of its options (AMSGrad or
not, with momentum or without).  The mathematics is written once, as a function
of values, see `Formula.update`.  Whatever else computes the same, TensorFlow's
kernels and the native ops, is named here with its inputs, by their names.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import tensorflow as tf

from keras_legacy_opt.state import reads
from keras_legacy_opt.state.hyperparameters import is_schedule

VARIABLE = "variable"  # among the names of slots

# {key of `apply_state`: tensor}, for one device and dtype
Coefficients = Mapping[str, tf.Tensor]


class Added(NamedTuple):
    """A change of a variable: what is added to it."""

    step: tf.Tensor


class Descended(NamedTuple):
    """A change of a variable: minus `rate * direction / divisor`.

    Attributes:
      rate: key of a coefficient; `neg_<rate>` is its opposite.
    """

    rate: str
    direction: tf.Tensor
    divisor: tf.Tensor

    def step(self, c: Coefficients, prefix: str = "") -> tf.Tensor:
        """`rate * direction / divisor`; the prefix "neg_" changes its sign."""
        return c[prefix + self.rate] * self.direction / self.divisor


# New values by slot; of the variable perhaps a change.
Changes = Mapping[str, Any]


class State(Protocol):
    """The values of a variable and its slots, where an update changes them."""

    def __getitem__(self, name: str, /) -> tf.Tensor: ...

    def __contains__(self, name: object, /) -> bool: ...

    def average(
        self, slot: str, x: tf.Tensor, decay: tf.Tensor, weight: tf.Tensor
    ) -> tf.Tensor:
        """The slot's new value, `decay * slot + weight * x`."""
        ...

    def average_of_squares(
        self, slot: str, x: tf.Tensor, decay: tf.Tensor, weight: tf.Tensor
    ) -> tf.Tensor:
        """Likewise, of `x**2`."""
        ...


class Values(dict[str, tf.Tensor]):
    """A `State` that is nothing but tensors."""

    def average(
        self, slot: str, x: tf.Tensor, decay: tf.Tensor, weight: tf.Tensor
    ) -> tf.Tensor:
        """See `State`."""
        return decay * self[slot] + weight * x

    def average_of_squares(
        self, slot: str, x: tf.Tensor, decay: tf.Tensor, weight: tf.Tensor
    ) -> tf.Tensor:
        """See `State`."""
        return self.average(slot, tf.square(x), decay, weight)


class Idle(enum.Enum):
    """What a sparse gradient does to the rows that it has nothing for.

    Whatever changes there is an average, which decays.
    """

    NOTHING = "nothing"
    SLOTS = "slots"
    EVERYTHING = "everything"


def same(*names: str) -> dict[str, str]:
    """Inputs of an op that are called as here."""
    return dict(zip(names, names, strict=True))


class Kernel(NamedTuple):
    """An op of TensorFlow that updates a variable.

    Attributes:
      name: of `ResourceApply<name>` and `ResourceSparseApply<name>`.
      slots: {input of the op: slot}
      coefficients: {input of the op: coefficient, or a function of all of them}
      attributes: of the op.
      gradient: the input that takes it.
      is_sparse: whether there is the sparse op.
      in_xla: whether XLA can compile the dense op; it can compile no sparse
        one.
      lacks: dtypes that the dense op is not there for, as far as the sparse
        one is, or ours is.
    """

    name: str
    slots: Mapping[str, str]
    coefficients: Mapping[str, str | Callable[[Coefficients], tf.Tensor]]
    attributes: Mapping[str, Any] = {}
    gradient: str = "grad"
    is_sparse: bool = True
    in_xla: bool = True
    lacks: Sequence[tf.DType] = ()


class Native(NamedTuple):
    """An op of the native library that updates variables.

    Attributes:
      op: its name; `group_<op>` and `sparse_<op>` are its siblings.
      slots: {input of the op: slot}
      coefficients: {input of the op: coefficient}
      needs_32_bits: whether 16 bits are too few for the slots: the op's second
        pass would read other numbers than those that the first took norms of.
    """

    op: str
    slots: Mapping[str, str]
    coefficients: Mapping[str, str]
    needs_32_bits: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class Formula:
    """How an optimizer with certain options updates a variable.

    Attributes:
      slots: their names, in the order in which they are created.
      scalars: those of them that are one number for each variable; others have
        the variable's shape.
      unused: those of them that no step reads or changes: they are there for
        files only.
      update: one step.  A function of the `State`, the gradient and the
        coefficients, which returns the `Changes`.
      kernel: the op of TensorFlow that computes it.
      native: the op of the native library that computes it.
      idle: what sparse gradients change outside their rows.
      densifies: whether a sparse gradient is as if it were dense, with zeros.
      is_real: whether variables have to be real: it compares values, say.
      sums_duplicates: whether rows that a sparse gradient has several times are
        summed first; else they are applied one after the other.
    """

    slots: tuple[str, ...]
    update: Callable[[State, tf.Tensor, Coefficients], Changes]
    kernel: Kernel | None = None
    native: Native | None = None
    idle: Idle = Idle.NOTHING
    sums_duplicates: bool = True
    scalars: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    densifies: bool = False
    is_real: bool = False

    def step(
        self, state: Mapping[str, tf.Tensor], grad: tf.Tensor, c: Coefficients
    ) -> dict[str, tf.Tensor]:
        """The state after a step: a pure function of tensors.

        Args:
          state: the values of the variable (`VARIABLE`) and of its slots.
          grad: a dense gradient of the variable.
          c: the coefficients of the step.
        """
        changes = dict(self.update(Values(state), grad, c))
        change = changes[VARIABLE]
        if isinstance(change, Added):
            changes[VARIABLE] = state[VARIABLE] + change.step
        elif isinstance(change, Descended):
            changes[VARIABLE] = state[VARIABLE] - change.step(c)
        return {name: changes[name] for name in state}


class LazyCoefficients(dict[str, tf.Tensor]):
    """Coefficients, of which the derived ones are computed when asked for.

    `_prepare_local` computes only the others of them, and assigns nothing.
    """

    def __init__(
        self,
        derived: Mapping[str, Callable[..., Any]],
        values: Coefficients | None = None,
    ):
        super().__init__(values or {})
        self._derived = derived

    def __missing__(self, name: str) -> tf.Tensor:
        value = self[name] = self._derived[name](self)
        return value


def hyper(optimizer: Any, name: str, dtype: tf.DType) -> tf.Tensor:
    """A hyperparameter, as it is in this step."""
    return reads.once(optimizer._get_hyper(name, dtype))


def hypers_of(
    optimizer: Any, dtype: tf.DType, *names: str
) -> dict[str, tf.Tensor]:
    """Coefficients that are hyperparameters as they are."""
    return {name: hyper(optimizer, name, dtype) for name in names}


def scheduled(optimizer: Any, name: str, dtype: tf.DType) -> tf.Tensor:
    """A hyperparameter as it is in this step; it may be a schedule."""
    value = optimizer._get_hyper(name, dtype)
    if is_schedule(value):
        value = tf.cast(value(optimizer.iterations), dtype)
    return value


def arithmetic(dtype: tf.DType) -> tf.DType:
    """What native ops compute in, for variables of a dtype."""
    return tf.float32 if dtype in (tf.bfloat16, tf.float16) else dtype


def number_of_step(
    optimizer: Any, dtype: tf.DType, ahead: int = 1
) -> tf.Tensor:
    """The number of this step, which the first of all has as 1."""
    return reads.count(optimizer.iterations, ahead, dtype)


def _all_hypers(optimizer: Any, dtype: tf.DType, c: Coefficients) -> Any:
    """All hyperparameters but those that the base class knows."""
    hypers = declaration_of(optimizer).hypers
    names = [name for name in hypers if name not in _OF_THE_BASE]
    return hypers_of(optimizer, dtype, *names)


_OF_THE_BASE = ("learning_rate", "decay")


@dataclasses.dataclass(frozen=True, eq=False)
class Rule:
    """What is declared of an optimizer class.

    Attributes:
      hypers: hyperparameters that each step reads, in the order of the
        configuration.
      formula: function from an optimizer to the `Formula` of its options.
      options: {name in the configuration: attribute}, of settings that are
        plain Python values.
      coefficients: function from an optimizer, a dtype and what the base class
        knows ("lr_t") to the coefficients of its step; by default, these are
        the hyperparameters.  It changes nothing.
      derived: {coefficient: function of all coefficients before it}, of those
        that not every way of an update needs, or that depend on the learning
        rate, of which a variable may have its own.
      also: {attribute that is a variable which a step sets besides:
        coefficient that it is set to}
      has_schedule: whether the learning rate decays and may have a schedule.
      initializers: {slot: function from an optimizer to its initializer}, of
        slots that do not start from zeros.
      slots_alternate: whether all slots of a variable are created before those
        of the next one.
      variants: the formulas of all options, if these make a difference.
      called: {hyperparameter: its name in the configuration}, where that is
        another.
    """

    hypers: tuple[str, ...]
    formula: Callable[[Any], Formula]
    options: Mapping[str, str] = dataclasses.field(default_factory=dict)
    coefficients: Callable[[Any, tf.DType, Coefficients], Coefficients] = (
        _all_hypers
    )
    derived: Mapping[str, Callable[[Coefficients], tf.Tensor]] = (
        dataclasses.field(default_factory=dict)
    )
    also: Mapping[str, str] = dataclasses.field(default_factory=dict)
    has_schedule: bool = True
    initializers: Mapping[str, Callable[[Any], Any]] = dataclasses.field(
        default_factory=dict
    )
    slots_alternate: bool = False
    variants: tuple[Formula, ...] = ()
    called: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def formulas(self) -> tuple[Formula, ...]:
        """All formulas that optimizers of the class may have."""
        return self.variants or (self.formula(None),)

    def changed(self, c: Coefficients, changes: Coefficients) -> Coefficients:
        """The coefficients of a step, of which a variable has some others."""
        given = {k: v for k, v in c.items() if k not in self.derived}
        return LazyCoefficients(self.derived, {**given, **changes})


def declaration_of(optimizer: Any) -> Rule:
    """Likewise, where it is known that something is declared.

    Raises:
      TypeError: if nothing is.
    """
    rule = rule_of(optimizer)
    if rule is None:
        raise TypeError(f"{type(optimizer).__name__} declares no formula.")
    return rule


def rule_of(optimizer: Any) -> Rule | None:
    """What is declared of the class of an optimizer, or of a base of it."""
    return getattr(type(optimizer), "_declaration", None)


def formula_of(optimizer: Any) -> Formula | None:
    """The formula of an optimizer's options, if its class declares one."""
    rule = rule_of(optimizer)
    return None if rule is None else rule.formula(optimizer)
