"""Optimizers that legacy did not have: the same declarations, the same API."""

from keras_legacy_opt.addons.average_model_checkpoint import (
    AverageModelCheckpoint,
)
from keras_legacy_opt.addons.average_wrapper import AveragedOptimizerWrapper
from keras_legacy_opt.addons.cyclical_learning_rate import (
    CyclicalLearningRate,
    ExponentialCyclicalLearningRate,
    Triangular2CyclicalLearningRate,
    TriangularCyclicalLearningRate,
)
from keras_legacy_opt.addons.gradient_accumulation import GradientAccumulation
from keras_legacy_opt.addons.lion import Lion
from keras_legacy_opt.addons.lookahead import Lookahead
from keras_legacy_opt.addons.moving_average import MovingAverage
from keras_legacy_opt.addons.multi_optimizer import MultiOptimizer
from keras_legacy_opt.addons.stochastic_weight_averaging import SWA
from keras_legacy_opt.addons.warm_up import WarmUp

__all__ = [
    "SWA",
    "AverageModelCheckpoint",
    "AveragedOptimizerWrapper",
    "CyclicalLearningRate",
    "ExponentialCyclicalLearningRate",
    "GradientAccumulation",
    "Lion",
    "Lookahead",
    "MovingAverage",
    "MultiOptimizer",
    "Triangular2CyclicalLearningRate",
    "TriangularCyclicalLearningRate",
    "WarmUp",
]
