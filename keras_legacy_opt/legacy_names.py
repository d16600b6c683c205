"""The addresses that legacy optimizers had, in ten years of TensorFlow.

That is the public ones, of which every Keras has several copies, and those of
the files that defined them, which old code imports and old pickles name.
"""

from __future__ import annotations

from keras_legacy_opt import schedules

# Modules with the public names of a Keras.
KERASES = (
    "keras",
    "keras.api",
    "keras._tf_keras.keras",
    "tensorflow",  # `tf.optimizers`
    "tensorflow.compat.v1.keras",
    "tensorflow.compat.v2.keras",
    "tensorflow.keras",
    "tf_keras",
    "tf_keras.api._v1.keras",
    "tf_keras.api._v2.keras",
)

# Packages with one file for each optimizer, of all releases up to 2.15.
_PACKAGES_OF_FILES = (
    "keras.optimizer_v2",
    "keras.optimizers.legacy",
    "keras.optimizers.optimizer_v2",
    "keras.src.optimizers.legacy",
    "tensorflow.python.keras.optimizer_v2",
)

# Files beside these, with functions that subclasses called.
HELPERS = (
    "keras.optimizer_v2.utils",
    "keras.optimizers.optimizer_v2.utils",
    "keras.optimizers.utils",
    "keras.src.optimizers.utils",
)

_SCHEDULES = {name: f"schedules.{name}" for name in schedules.__all__}
_FILES = {
    "adadelta": {"Adadelta": "Adadelta"},
    "adagrad": {"Adagrad": "Adagrad"},
    "adam": {"Adam": "Adam"},
    "adamax": {"Adamax": "Adamax"},
    "ftrl": {"Ftrl": "Ftrl"},
    "gradient_descent": {"SGD": "SGD"},
    "learning_rate_schedule": _SCHEDULES,
    "nadam": {"Nadam": "Nadam"},
    "optimizer_v2": {"OptimizerV2": "Optimizer"},
    "rmsprop": {"RMSprop": "RMSprop"},
    "sgd": {"SGD": "SGD"},
}
OPTIMIZERS = (
    "SGD",
    "Adadelta",
    "Adagrad",
    "Adam",
    "Adamax",
    "Ftrl",
    "Nadam",
    "RMSprop",
)
_LEGACY = {name: name for name in (*OPTIMIZERS, "Optimizer")}
_FUNCTIONS = {name: name for name in ("deserialize", "get", "serialize")}

# {module of a Keras: {attribute: what it is in this package}}
_PUBLIC = {
    "mixed_precision": {"LossScaleOptimizer": "LossScaleOptimizer"},
    "optimizers": {**_LEGACY, **_FUNCTIONS},
    "optimizers.legacy": _LEGACY,
    "optimizers.schedules": _SCHEDULES,
}


# Beside TensorFlow: the modules of tensorflow_addons, and the names that each
# has from our `addons`.
_ADDONS_FILES = {
    "optimizers.adabelief": ("AdaBelief",),
    "optimizers.average_wrapper": ("AveragedOptimizerWrapper",),
    "optimizers.cocob": ("COCOB",),
    "optimizers.conditional_gradient": ("ConditionalGradient",),
    "optimizers.cyclical_learning_rate": (
        "CyclicalLearningRate",
        "ExponentialCyclicalLearningRate",
        "Triangular2CyclicalLearningRate",
        "TriangularCyclicalLearningRate",
    ),
    "optimizers.discriminative_layer_training": ("MultiOptimizer",),
    "optimizers.lamb": ("LAMB",),
    "optimizers.lazy_adam": ("LazyAdam",),
    "optimizers.lookahead": ("Lookahead",),
    "optimizers.moving_average": ("MovingAverage",),
    "optimizers.novograd": ("NovoGrad",),
    "optimizers.proximal_adagrad": ("ProximalAdagrad",),
    "optimizers.rectified_adam": ("RectifiedAdam",),
    "optimizers.stochastic_weight_averaging": ("SWA",),
    "optimizers.weight_decay_optimizers": (
        "AdamW",
        "DecoupledWeightDecayExtension",
        "SGDW",
        "extend_with_decoupled_weight_decay",
    ),
    "optimizers.yogi": ("Yogi",),
    "callbacks.average_model_checkpoint": ("AverageModelCheckpoint",),
}
_ADDONS_PACKAGES = ("optimizers", "callbacks")
ADDONS = {
    "tensorflow_addons": (),
    **{
        f"tensorflow_addons.{package}": tuple(
            sorted(
                name
                for file, names in _ADDONS_FILES.items()
                if file.startswith(f"{package}.")
                for name in names
            )
        )
        for package in _ADDONS_PACKAGES
    },
    **{f"tensorflow_addons.{k}": v for k, v in _ADDONS_FILES.items()},
}


def attributes(module: str) -> dict[str, str]:
    """What was legacy's in a module.

    Args:
      module: its full name.

    Returns:
      {attribute: the dotted name in this package}; empty for other modules.
    """
    for keras in KERASES:
        if module.startswith(f"{keras}."):
            found = _PUBLIC.get(module.removeprefix(f"{keras}."))
            if found is not None:
                return found
    if module in _PACKAGES_OF_FILES:
        return _LEGACY
    package, _, file = module.rpartition(".")
    if package in _PACKAGES_OF_FILES:
        return _FILES.get(file, {})
    if module == "keras.optimizers.schedules.learning_rate_schedule":
        return _SCHEDULES
    return {}


def defines_classes(module: str) -> bool:
    """Whether a module is a file that defined the classes, or their package."""
    package = module.rpartition(".")[0]
    return bool({module, package}.intersection(_PACKAGES_OF_FILES))


def is_top_level(module: str) -> bool:
    """Whether new optimizers of Keras have the same names in a module."""
    return module.startswith(tuple(f"{keras}." for keras in KERASES)) and (
        module.endswith((".optimizers", ".optimizers.schedules"))
        or module.endswith(".mixed_precision")
    )
