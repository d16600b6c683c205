"""Optimizers that legacy did not have: the same declarations, the same API."""

from keras_legacy_opt.addons.adam_weight_decay import AdamWeightDecay
from keras_legacy_opt.addons.adamw import AdamW
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
from keras_legacy_opt.addons.lamb import LAMB
from keras_legacy_opt.addons.lars import LARS
from keras_legacy_opt.addons.lion import Lion
from keras_legacy_opt.addons.lookahead import Lookahead
from keras_legacy_opt.addons.moving_average import MovingAverage
from keras_legacy_opt.addons.multi_optimizer import MultiOptimizer
from keras_legacy_opt.addons.novograd import NovoGrad
from keras_legacy_opt.addons.sgdw import SGDW
from keras_legacy_opt.addons.stochastic_weight_averaging import SWA
from keras_legacy_opt.addons.warm_up import WarmUp
from keras_legacy_opt.addons.weight_decay import (
    DecoupledWeightDecayExtension,
    extend_with_decoupled_weight_decay,
)

__all__ = [
    "AdamW",
    "AdamWeightDecay",
    "AverageModelCheckpoint",
    "AveragedOptimizerWrapper",
    "CyclicalLearningRate",
    "DecoupledWeightDecayExtension",
    "ExponentialCyclicalLearningRate",
    "GradientAccumulation",
    "LAMB",
    "LARS",
    "Lion",
    "Lookahead",
    "MovingAverage",
    "MultiOptimizer",
    "NovoGrad",
    "SGDW",
    "SWA",
    "Triangular2CyclicalLearningRate",
    "TriangularCyclicalLearningRate",
    "WarmUp",
    "extend_with_decoupled_weight_decay",
]
