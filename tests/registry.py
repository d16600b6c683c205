"""What the conformance tests know of each optimizer: one row per class."""

import dataclasses
import functools
import inspect
import types
from collections.abc import Callable, Mapping
from typing import Any

import keras
import tensorflow as tf
import tf_keras
import third_party
from reference import updates, weight_decay, wrappers

import keras_legacy_opt
from keras_legacy_opt import addons

FLOATS = ("float16", "bfloat16", "float32", "float64")
ALL_DTYPES = (*FLOATS, "complex64", "complex128")


@dataclasses.dataclass(frozen=True, eq=False)
class Library:
    """A provider of optimizers and schedules."""

    optimizers: types.ModuleType
    schedules: types.ModuleType


SUBJECT = Library(keras_legacy_opt, keras_legacy_opt.schedules)
LEGACY = Library(
    tf_keras.optimizers.legacy,  # What SUBJECT has to equal.
    tf_keras.optimizers.schedules,
)


@dataclasses.dataclass(frozen=True, eq=False)
class Late:
    """An argument that is made for a library when its optimizer is made."""

    make: Callable[[Library], Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Option:
    """A configuration of an optimizer.

    Attributes:
      arguments: Of the constructor; a `Late` is called.
      slots: The names of the slots, in the order of creation.
      everywhere: What a sparse gradient changes outside its rows, too: names of
        slots, or "variable".
      dense: The dtypes for which legacy's dense update works.
      sparse: The dtypes for which legacy's sparse update works.
    """

    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    slots: tuple[str, ...] = ()
    everywhere: tuple[str, ...] = ()
    dense: tuple[str, ...] = ALL_DTYPES
    sparse: tuple[str, ...] = ALL_DTYPES


@dataclasses.dataclass(frozen=True, eq=False)
class Row:
    """An optimizer class, and the configurations it is tested in.

    Attributes:
      name: Of the class.
      options: By name; "plain" has the default arguments, but a learning rate.
      double: For a class of third parties: the function that makes it.
      common: Names of those of `COMMON` that it takes.
      reference: Of an addon, its update in NumPy; see `reference.updates`.
      has_norms: Whether a step depends on norms of the whole variable, which
        the native ops sum in float64.
      make: Of what is around an optimizer, a function of the arguments that
        makes both.
      accumulates: How many steps of it are one of the optimizer inside.
    """

    name: str
    options: Mapping[str, Option]
    double: Callable[[types.ModuleType], Callable[..., Any]] | None = None
    common: tuple[str, ...] = ()
    reference: Callable[..., Any] | None = None
    has_norms: bool = False
    make: Callable[..., Any] | None = None
    accumulates: int = 1

    def make_class(self, library: Library) -> Callable[..., Any]:
        """Returns the class, on the base of a library."""
        if self.double:
            return self.double(library.optimizers)
        if self.make:
            return self.make
        if self.reference:  # No other library has it.
            return getattr(keras_legacy_opt.addons, self.name)
        return getattr(library.optimizers, self.name)


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """A row with one of its options; what a test is parametrized by."""

    row: Row
    option_name: str

    def __str__(self) -> str:
        return f"{self.row.name}-{self.option_name.replace(' ', '_')}"

    @functools.cached_property
    def option(self) -> Option:
        if self.option_name in self.row.options:
            return self.row.options[self.option_name]
        plain = self.row.options["plain"]
        arguments = {**plain.arguments, **COMMON[self.option_name]}
        return dataclasses.replace(plain, arguments=arguments)

    def build(self, library: Library, **overrides: Any) -> Any:
        """Makes the optimizer of a library."""
        arguments = {**self.option.arguments, **overrides}
        return self.row.make_class(library)(
            **{
                name: value.make(library) if isinstance(value, Late) else value
                for name, value in arguments.items()
            }
        )

    def arguments(self) -> dict[str, Any]:
        """Returns all arguments of the constructor, defaults included."""
        cls = self.row.make_class(LEGACY)
        if self.row.make:
            return dict(_flattened_config(self.build(SUBJECT)))
        defaults = {
            name: parameter.default
            for name, parameter in inspect.signature(cls).parameters.items()
            if parameter.kind is not inspect.Parameter.VAR_KEYWORD
        }
        return {**defaults, **self.option.arguments}


def _flattened_config(optimizer: Any) -> dict[str, Any]:
    """The configuration of what is inside the wrappers."""
    while inside := getattr(optimizer, "_inside", None):
        optimizer = inside()[0]
    clips = ("clipvalue", "clipnorm", "global_clipnorm")
    limits = {name: getattr(optimizer, name) for name in clips}
    return {**optimizer.get_config(), **limits}


# Arguments that every optimizer has, and kinds of values for its learning rate.
COMMON = {
    "decay": {"decay": 0.3},
    "clipvalue": {"clipvalue": 0.4},
    "clipnorm": {"clipnorm": 0.7},
    "global clipnorm": {"global_clipnorm": 0.9},
    "clipvalue and clipnorm": {"clipvalue": 0.4, "clipnorm": 0.7},
    "schedule": {
        "learning_rate": Late(
            lambda library: library.schedules.ExponentialDecay(0.07, 3, 0.6)
        )
    },
    "schedule and decay": {
        "learning_rate": Late(
            lambda library: library.schedules.PiecewiseConstantDecay(
                [2, 5], [0.07, 0.03, 0.01]
            )
        ),
        "decay": 0.3,
    },
    "callable": {"learning_rate": lambda: 0.07},
    "tensor": {"learning_rate": Late(lambda library: tf.constant(0.07))},
    "variable": {"learning_rate": Late(lambda library: tf.Variable(0.07))},
}


def _without(*dtypes: str) -> tuple[str, ...]:
    return tuple(dtype for dtype in ALL_DTYPES if dtype not in dtypes)


def _ftrl(**arguments: Any) -> Option:
    return Option(
        {"learning_rate": 0.3, **arguments},
        slots=("accumulator", "linear"),
        dense=FLOATS,
        sparse=FLOATS,
    )


_MOMENTUM = Option({"learning_rate": 0.1, "momentum": 0.7}, slots=("momentum",))
# In bfloat16, 0.999 is 1: with that beta_2 legacy stands still, or gets NaN.
_NOT_BFLOAT16 = _without("bfloat16")
_ADAM = Option(
    {"learning_rate": 0.1},
    slots=("m", "v"),
    everywhere=("variable", "m", "v"),
    dense=_NOT_BFLOAT16,
    sparse=_NOT_BFLOAT16,
)
_ADAM_BETAS = dataclasses.replace(
    _ADAM,
    arguments={
        **_ADAM.arguments,
        "beta_1": 0.6,
        "beta_2": 0.8,
        "epsilon": 0.01,
    },
    dense=ALL_DTYPES,
    sparse=ALL_DTYPES,
)
_AMSGRAD = dataclasses.replace(
    _ADAM,
    arguments={**_ADAM.arguments, "amsgrad": True, "beta_2": 0.6},
    slots=("m", "v", "vhat"),
    dense=FLOATS,
    sparse=FLOATS,
)
_NADAM = dataclasses.replace(_ADAM, everywhere=("m", "v"))


def _extended(option: Option, **arguments: Any) -> Option:
    return dataclasses.replace(
        option, arguments={**option.arguments, **arguments}
    )


BUILT_IN = (
    Row(
        "SGD",
        {
            "plain": Option({"learning_rate": 0.1}),
            "momentum": _MOMENTUM,
            "nesterov": _extended(_MOMENTUM, nesterov=True),
            "callable momentum": _extended(_MOMENTUM, momentum=lambda: 0.7),
        },
        common=tuple(COMMON),
    ),
    Row(
        "RMSprop",
        {
            "plain": Option(
                {"learning_rate": 0.1}, slots=("rms",), everywhere=("rms",)
            ),
            "rho and epsilon": Option(
                {"learning_rate": 0.1, "rho": 0.6, "epsilon": 1e-2},
                slots=("rms",),
                everywhere=("rms",),
            ),
            "momentum": Option(
                {"learning_rate": 0.1, "momentum": 0.7, "epsilon": 1e-2},
                slots=("rms", "momentum"),
                sparse=_without("bfloat16"),
            ),
            "centered": Option(
                {"learning_rate": 0.1, "centered": True},
                slots=("rms", "mg"),
                everywhere=("rms", "mg"),
            ),
            "centered momentum": Option(
                {
                    "learning_rate": 0.1,
                    "centered": True,
                    "momentum": 0.7,
                    "epsilon": 1e-2,
                },
                slots=("rms", "momentum", "mg"),
                sparse=_without("bfloat16"),
            ),
        },
        common=tuple(COMMON),
    ),
    Row(
        "Adam",
        {
            "plain": _ADAM,
            "betas and epsilon": _ADAM_BETAS,
            "amsgrad": _AMSGRAD,
        },
        common=tuple(COMMON),
    ),
    Row(
        "Adadelta",
        {
            "plain": Option(
                {"learning_rate": 3.0}, slots=("accum_grad", "accum_var")
            ),
            "rho and epsilon": Option(
                {"learning_rate": 0.3, "rho": 0.6, "epsilon": 1e-2},
                slots=("accum_grad", "accum_var"),
            ),
        },
        common=tuple(COMMON),
    ),
    Row(
        "Adagrad",
        {
            "plain": Option({"learning_rate": 0.1}, slots=("accumulator",)),
            "accumulator and epsilon": Option(
                {
                    "learning_rate": 0.1,
                    "initial_accumulator_value": 0.7,
                    "epsilon": 1e-2,
                },
                slots=("accumulator",),
            ),
        },
        common=tuple(COMMON),
    ),
    Row(
        "Adamax",
        {
            "plain": Option(
                {"learning_rate": 0.1},
                slots=("m", "v"),
                dense=("float16", "float32", "float64"),
                sparse=FLOATS,
            ),
            "betas and epsilon": Option(
                {
                    "learning_rate": 0.1,
                    "beta_1": 0.6,
                    "beta_2": 0.8,
                    "epsilon": 1e-2,
                },
                slots=("m", "v"),
                dense=("float16", "float32", "float64"),
                sparse=FLOATS,
            ),
        },
        common=tuple(COMMON),
    ),
    Row(
        "Nadam",
        {
            "plain": _NADAM,
            "schedule decay": _extended(_NADAM, schedule_decay=0.3),
            "betas and epsilon": dataclasses.replace(
                _ADAM_BETAS, everywhere=("m", "v")
            ),
        },
        # It refuses schedules and ignores `decay`.
        common=tuple(name for name in COMMON if "schedule" not in name),
    ),
    Row(
        "Ftrl",
        {
            "plain": _ftrl(),
            "l1": _ftrl(l1_regularization_strength=0.2),
            "l2": _ftrl(l2_regularization_strength=0.2),
            "l2 shrinkage": _ftrl(l2_shrinkage_regularization_strength=0.2),
            "beta": _ftrl(beta=0.3),
            "learning rate power": _ftrl(learning_rate_power=-0.7),
            "constant learning rate": _ftrl(learning_rate_power=0.0),
            "accumulator": _ftrl(initial_accumulator_value=0.7),
            "all": _ftrl(
                l1_regularization_strength=0.02,
                l2_regularization_strength=0.03,
                l2_shrinkage_regularization_strength=0.04,
                beta=0.05,
                learning_rate_power=-0.6,
                initial_accumulator_value=0.3,
            ),
        },
        common=tuple(COMMON),
    ),
)

THIRD_PARTY = (
    Row(
        "LazyAdam",
        {"plain": dataclasses.replace(_ADAM, everywhere=())},
        double=third_party.lazy_adam,
        common=("decay", "schedule"),
    ),
    Row(
        "AdamWeightDecay",
        {
            "plain": Option(
                {
                    "learning_rate": 0.1,
                    "beta_2": 0.8,
                    "weight_decay_rate": 0.2,
                    "exclude_from_weight_decay": ("vector",),
                },
                slots=("m", "v"),
                everywhere=("variable", "m", "v"),
                dense=FLOATS,  # no norm of complex gradients
                sparse=FLOATS,
            )
        },
        double=third_party.adam_weight_decay,
        common=("decay", "schedule"),
    ),
    Row(
        "SGDW",
        {
            "plain": Option(
                {"learning_rate": 0.1, "weight_decay": 0.2, "momentum": 0.7},
                slots=("momentum",),
                everywhere=("variable",),
            )
        },
        double=third_party.decoupled_weight_decay,
        common=("decay", "schedule"),
    ),
    Row(
        "LookaheadAdam",
        {
            "plain": dataclasses.replace(
                _ADAM,
                slots=("slow",),
                everywhere=("variable", "m", "v", "slow"),
            ),
        },
        double=third_party.lookahead,
        common=("schedule", "clipnorm"),
    ),
    Row(
        "SignMomentum",
        {
            "plain": Option(
                {"learning_rate": 0.1},
                slots=("average",),
            )
        },
        double=third_party.sign_momentum,
        common=("decay", "schedule", "clipvalue"),
    ),
    Row(
        "AveragingWorkers",
        {"plain": _ADAM},
        double=third_party.averaging_workers,
        common=("decay", "schedule", "global clipnorm"),
    ),
)


# What legacy has not: they are compared with their reference only.
def _addon(
    *slots: str, everywhere: tuple[str, ...] = (), **arguments
) -> Option:
    return Option(arguments, slots, everywhere, dense=FLOATS, sparse=FLOATS)


_DECAYS = {"weight_decay": 0.02, "learning_rate": 0.1}
_LAMB = Option(
    _DECAYS,
    ("m", "v"),
    everywhere=("variable", "m", "v"),
    dense=FLOATS,
    sparse=FLOATS,
)
_LARS = Option(
    {"learning_rate": 0.5, "eeta": 0.3, "weight_decay_rate": 0.02},
    ("momentum",),
    everywhere=("variable", "momentum"),
    dense=FLOATS,
    sparse=FLOATS,
)
_NOVOGRAD = Option(
    {"learning_rate": 0.1, "beta_2": 0.6},
    ("m", "v"),
    everywhere=("v",),
    dense=FLOATS,
    sparse=FLOATS,
)
_DECAYING = (
    Row(
        "AdamW",
        {
            "plain": _extended(_ADAM, weight_decay=0.02),
            "amsgrad": _extended(_AMSGRAD, weight_decay=0.02),
        },
        reference=weight_decay.adamw,
    ),
    Row(
        "SGDW",
        {
            "plain": Option(_DECAYS),
            "nesterov": _extended(_MOMENTUM, nesterov=True, **_DECAYS),
        },
        reference=weight_decay.sgdw,
    ),
    Row("LAMB", {"plain": _LAMB}, reference=weight_decay.lamb, has_norms=True),
    Row(
        "LARS",
        {
            "plain": _LARS,
            "nesterov": _extended(_LARS, nesterov=True),
            "popular": _extended(_LARS, classic_momentum=False),
            "popular nesterov": _extended(
                _LARS, classic_momentum=False, nesterov=True
            ),
        },
        reference=weight_decay.lars,
        has_norms=True,
    ),
    Row(
        "NovoGrad",
        {
            "plain": _NOVOGRAD,
            "averaging": _extended(
                _NOVOGRAD, grad_averaging=True, weight_decay=0.02
            ),
            "amsgrad": dataclasses.replace(
                _extended(_NOVOGRAD, amsgrad=True), slots=("m", "v", "vhat")
            ),
        },
        reference=weight_decay.novograd,
        has_norms=True,
    ),
)
_LION = _addon("m", learning_rate=0.1)
# With another beta_2, float32 has no digits for the rectification.
_RECTIFIED = _addon(
    "m", "v", everywhere=("m", "v"), learning_rate=0.1, beta_2=0.9
)
_WARM_UP = {
    "weight_decay": 0.2,
    "amsgrad": True,
    "total_steps": 8,
    "warmup_proportion": 0.3,
    "min_lr": 0.02,
}
_VARIANT = dataclasses.replace(
    _extended(_RECTIFIED, **_WARM_UP), slots=("m", "v", "vhat")
)
_PENALTIES = {
    "l1_regularization_strength": 0.2,
    "l2_regularization_strength": 0.3,
}
# A float32 has this epsilon.
_YOGI = _addon("v", "m", everywhere=("m",), learning_rate=0.1, epsilon=2.0**-10)
_PROXIMAL = _addon("accumulator", learning_rate=0.1)
_COCOB = _addon(
    *("lr", "grad_norm_sum", "gradients_sum", "tilde_w", "reward"), alpha=50.0
)

_CONDITIONAL = _addon("conditional_gradient", learning_rate=0.9, lambda_=0.5)

NATIVE_ADDONS = (
    Row(
        "Lion",
        {"plain": _LION, "weight decay": _extended(_LION, weight_decay=0.2)},
        reference=updates.lion,
    ),
    Row(
        "LazyAdam",
        {
            "plain": dataclasses.replace(_ADAM, everywhere=()),
            "amsgrad": dataclasses.replace(_AMSGRAD, everywhere=()),
        },
        reference=updates.adam,
    ),
    Row(
        "RectifiedAdam",
        {"plain": _RECTIFIED, "all": _VARIANT},
        reference=updates.rectified_adam,
    ),
    Row(
        "AdaBelief",
        {
            "plain": _RECTIFIED,
            "not rectified": _extended(_VARIANT, rectify=False),
        },
        reference=updates.adabelief,
    ),
    Row(
        "Yogi",
        {
            "plain": _extended(_YOGI, **_PENALTIES),
            "no average": dataclasses.replace(
                _extended(_YOGI, beta1=0.0), slots=("v",), everywhere=()
            ),
        },
        reference=updates.yogi,
    ),
    Row(
        "ProximalAdagrad",
        {"plain": _PROXIMAL, "penalties": _extended(_PROXIMAL, **_PENALTIES)},
        reference=updates.proximal_adagrad,
    ),
    Row("COCOB", {"plain": _COCOB}, reference=updates.cocob),
    Row(
        "ConditionalGradient",
        {"plain": _CONDITIONAL},
        reference=updates.conditional_gradient,
        has_norms=True,
    ),
    *_DECAYING,
)
# Which native ops do not compute.
COMPOSED_ADDONS = (
    Row(
        "Yogi",
        {"tanh": _extended(_YOGI, activation="tanh")},
        reference=updates.yogi,
    ),
    Row(
        "ConditionalGradient",
        {"nuclear": _extended(_CONDITIONAL, ord="nuclear")},
        reference=updates.conditional_gradient,
    ),
)
ADDONS = (*NATIVE_ADDONS, *COMPOSED_ADDONS)


# Around an optimizer: the arguments are its own.
@keras.saving.register_keras_serializable("tests")
@tf_keras.utils.register_keras_serializable("tests")
class DecayingRMSprop(
    addons.DecoupledWeightDecayExtension, keras_legacy_opt.RMSprop
):
    """As a user writes it."""


def _multi_optimizer(**arguments: Any) -> Any:
    """By the names of what `stepping`, and models of the tests, train."""
    rate = arguments.pop("learning_rate")
    parts = (rate, _FIRST), (rate / 2, _SECOND)
    return addons.MultiOptimizer(
        optimizer_specs=[
            {
                "optimizer": keras_legacy_opt.Adam(each, **arguments),
                "weights": names,
            }
            for each, names in parts
        ]
    )


def _nested(**arguments: Any) -> Any:
    inner = addons.Lookahead(keras_legacy_opt.Adam(**arguments), 2, 0.4)
    return addons.GradientAccumulation(addons.MovingAverage(inner, 0.8), 2)


def _around(wrapper: Any, inner: Any, *args: Any, **kwargs: Any) -> Any:
    def make(**arguments: Any) -> Any:
        return wrapper(inner(**arguments), *args, **kwargs)

    return make


_FIRST = ["matrix", "table", "wide_table", "embeddings"]
_SECOND = ["vector", "column", "kernel", "bias", "scalar", "empty"]
_ADAM_ROWS = wrappers.in_rows(updates.adam, "variable", "m", "v")
_LOOKED_AHEAD = wrappers.lookahead(_ADAM_ROWS, 2, 0.4)
_BOTH = {
    **dict.fromkeys(_FIRST, updates.adam),
    **dict.fromkeys(_SECOND, wrappers.scaled(updates.adam, 0.5)),
}


def _with_slots(option: Option, *slots: str) -> Option:
    """A wrapper's slots are before those inside, and change everywhere."""
    return dataclasses.replace(
        option,
        slots=(*slots, *option.slots),
        everywhere=(*option.everywhere, *slots),
        dense=FLOATS,
        sparse=FLOATS,
    )


def _going_back(option: Option) -> Option:
    option = _with_slots(option, "slow")
    everywhere = {"variable": None, **dict.fromkeys(option.everywhere)}
    return dataclasses.replace(option, everywhere=tuple(everywhere))


_CLIPPED = _extended(_ADAM_BETAS, decay=0.3, clipnorm=0.7)
WRAPPERS = (
    Row(
        "Lookahead",
        {"plain": _going_back(_ADAM_BETAS), "clipped": _going_back(_CLIPPED)},
        make=_around(addons.Lookahead, keras_legacy_opt.Adam, 3, 0.4),
        reference=wrappers.lookahead(_ADAM_ROWS, 3, 0.4),
    ),
    Row(
        "Ranger",
        {"plain": _going_back(_RECTIFIED)},
        make=_around(addons.Lookahead, addons.RectifiedAdam, 2),
        reference=wrappers.lookahead(
            wrappers.in_rows(updates.rectified_adam, "m", "v"), 2, 0.5
        ),
    ),
    Row(
        "MovingAverage",
        {"plain": _with_slots(_MOMENTUM, "average")},
        make=_around(addons.MovingAverage, keras_legacy_opt.SGD, 0.8),
        reference=wrappers.moving_average(wrappers.in_rows(updates.sgd), 0.8),
    ),
    Row(
        "DynamicMovingAverage",
        {"plain": _with_slots(_ADAM_BETAS, "average")},
        make=_around(
            addons.MovingAverage,
            keras_legacy_opt.Adam,
            0.3,
            start_step=2,
            dynamic_decay=True,
        ),
        reference=wrappers.moving_average(_ADAM_ROWS, 0.3, 2),
    ),
    Row(
        "SWA",
        {"plain": _with_slots(_MOMENTUM, "average")},
        make=_around(addons.SWA, keras_legacy_opt.SGD, 2, 3),
        reference=wrappers.swa(wrappers.in_rows(updates.sgd), 2, 3),
    ),
    Row(
        "GradientAccumulation",
        {
            "plain": _with_slots(_ADAM_BETAS, "accumulated_gradient"),
            "clipped": _with_slots(_CLIPPED, "accumulated_gradient"),
        },
        make=_around(addons.GradientAccumulation, keras_legacy_opt.Adam, 3),
        reference=updates.adam,
        accumulates=3,
    ),
    Row(
        "Nested",
        {
            "plain": _with_slots(
                _going_back(_ADAM_BETAS), "accumulated_gradient", "average"
            )
        },
        make=_nested,
        reference=wrappers.moving_average(_LOOKED_AHEAD, 0.8),
        accumulates=2,
    ),
    Row(
        "MultiOptimizer",
        {"plain": _with_slots(_ADAM_BETAS)},
        make=_multi_optimizer,
        reference=wrappers.of_some(_BOTH),
    ),
    Row(
        "DecayingRMSprop",
        {
            "plain": _addon(
                "rms", everywhere=("rms",), learning_rate=0.1, weight_decay=0.02
            )
        },
        make=DecayingRMSprop,
        reference=wrappers.decaying(updates.rmsprop, 0.02),
    ),
)

ROWS = (*BUILT_IN, *THIRD_PARTY)
# Whose variables native ops update.
NATIVE = (*BUILT_IN, *NATIVE_ADDONS)


def own_cases(rows: tuple[Row, ...] = ROWS) -> list[Case]:
    """Every option of its own that an optimizer has."""
    return [Case(row, name) for row in rows for name in row.options]


def common_cases(rows: tuple[Row, ...] = ROWS) -> list[Case]:
    """Every option that optimizers have in common."""
    return [Case(row, name) for row in rows for name in row.common]
