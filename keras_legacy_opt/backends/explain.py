"""Who updates a variable, and why nobody before: the judge's reasons."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple

import tensorflow as tf

from keras_legacy_opt import backends, hosts
from keras_legacy_opt.backends.native import NativeCPU
from keras_legacy_opt.optimizer import Optimizer
from keras_legacy_opt.rules.declared import DeclaredOptimizer
from keras_legacy_opt.step import gradients
from keras_legacy_opt.step.update import Step, updates_of


class Explanation(NamedTuple):
    """What a step does with one kind of gradients of a variable.

    Attributes:
      variable: its name.
      gradient: "dense" or "sparse".
      backend: the name of what updates it.
      refusals: {name: why it does not}, of those that are asked before, but for
        those that are for other devices.
      around: what optimizers that hold the one that updates it add, from inside
        to outside.
    """

    variable: str
    gradient: str
    backend: str
    refusals: Mapping[str, str]
    around: tuple[str, ...] = ()

    def __str__(self) -> str:
        reasons = "; ".join(
            f"not {name}: {reason}" for name, reason in self.refusals.items()
        )
        text = f"{self.variable}, {self.gradient} gradients: {self.backend}"
        text = f"{text} ({reasons})" if reasons else text
        return "; ".join([text, *self.around])


class Explanations(list[Explanation]):
    """A list that prints a line for each."""

    def __str__(self) -> str:
        return "\n".join(map(str, self))


@tf.autograph.experimental.do_not_convert
def explain(optimizer: Any, variables: Any) -> Explanations:
    """What updates variables, and why nothing faster does.

    The answer is for steps that are taken where this is called: in a
    `tf.function`, compiled by XLA or not, or in the scope of a strategy.

    Args:
      optimizer: an optimizer of this package, or a LossScaleOptimizer.
      variables: variables that it shall train, or trains: one, or a list.

    Returns:
      A list of `Explanation`s, two for each variable with rows: of dense and of
      sparse gradients. Print it. Of a wrapper, they are about the optimizer
      inside, and what the wrapper adds to its steps.

    Raises:
      TypeError: if one is no variable, or the optimizer is none of ours.

    >>> var = tf.Variable(1j, name="rotation")
    >>> print(keras_legacy_opt.explain(keras_legacy_opt.SGD(), [var]))
    rotation, dense gradients: TensorFlow's ops (not native ops: ...)
    """
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    if not isinstance(optimizer, Optimizer):
        raise TypeError(
            "`optimizer` must be an optimizer of keras_legacy_opt. Received:"
            f" {optimizer!r} of type {type(optimizer).__name__}."
        )
    known = optimizer._known_variables
    result = Explanations()
    for variable in tf.nest.flatten(variables):
        ((_, given),) = gradients.pairs([(None, variable)])
        result += _explained(optimizer, known.unwrap(given))
    return result


def _explained(optimizer: Any, variable: Any) -> list[Explanation]:
    """What is told of one variable; of what it is under, whatever is around."""
    for inside, share in optimizer._shares([variable]):
        if share:
            return [
                each._replace(
                    around=(
                        *each.around,
                        optimizer._adds(variable, _takes_own(each)),
                    )
                )
                for each in _explained(inside, variable)
            ]
    (update,) = updates_of(optimizer, [(None, variable)])
    kinds = {"dense": update}
    if update.variable.shape.rank:
        kinds["sparse"] = update._replace(is_sparse=True)
    step, name = Step(optimizer), optimizer._known_variables.name(variable)
    result = []
    for kind, asked in kinds.items():
        taker, refusals = backends.asked(step, asked)
        told = {
            each.name: why
            for each, why in refusals.items()
            if each.concerns(asked)
        }
        result.append(Explanation(name, kind, taker.name, told))
    return result


def _takes_own(told: Explanation) -> bool:
    """Whether what updates it moves averages in its pass."""
    return any(
        each.takes_own
        for each in backends.BACKENDS
        if each.name == told.backend
    )


# For the doctor: examples, and what the judge says of them here.


def with_native_ops() -> list[str]:
    """The optimizers of this package whose variables native ops update."""
    return [
        cls.__name__
        for cls in hosts.public_classes(DeclaredOptimizer)
        if _refusal(cls) is None
    ]


def without_native_ops() -> list[str]:
    """Kinds of variables that native ops refuse, and why."""
    cls: Any = hosts.public_classes(DeclaredOptimizer)[0]

    class Subclass(cls):
        def _resource_apply_dense(self, *args: Any, **kwargs: Any) -> Any:
            raise NotImplementedError

    in_xla = []

    @tf.function(jit_compile=True, autograph=False)
    def function() -> None:
        in_xla.append(_refusal(cls, variable))

    variable = tf.Variable(tf.zeros([1]))
    function.get_concrete_function()
    reasons = {
        "a complex variable": _refusal(
            cls, tf.Variable(tf.zeros([1], tf.complex64))
        ),
        "a constraint": _refusal(
            cls, tf.Variable(tf.zeros([1]), constraint=tf.abs)
        ),
        "a function of XLA": in_xla[0],
        "an override": _refusal(Subclass),
    }
    return [f"{what}: {why}" for what, why in reasons.items() if why]


def _refusal(cls: Any, variable: Any = None) -> str | None:
    """Why native ops do not update a variable by a dense gradient."""
    if variable is None:
        variable = tf.Variable(tf.zeros([1]))
    return explain(_example(cls), [variable])[0].refusals.get(NativeCPU.name)


def _example(cls: Any) -> Any:
    """An optimizer with default arguments, and some number where is none."""
    needed = [
        name
        for name, parameter in inspect.signature(cls).parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    ]
    return cls(**dict.fromkeys(needed, 0.5))
