"""Optimizers that legacy did not have: the same declarations, the same API."""

from keras_legacy_opt.addons.adabelief import AdaBelief
from keras_legacy_opt.addons.adam_weight_decay import AdamWeightDecay
from keras_legacy_opt.addons.adamw import AdamW
from keras_legacy_opt.addons.average_model_checkpoint import (
    AverageModelCheckpoint,
)
from keras_legacy_opt.addons.average_wrapper import AveragedOptimizerWrapper
from keras_legacy_opt.addons.cocob import COCOB
from keras_legacy_opt.addons.conditional_gradient import ConditionalGradient
from keras_legacy_opt.addons.cyclical_learning_rate import (
    CyclicalLearningRate,
    ExponentialCyclicalLearningRate,
    Triangular2CyclicalLearningRate,
    TriangularCyclicalLearningRate,
)
from keras_legacy_opt.addons.gradient_accumulation import GradientAccumulation
from keras_legacy_opt.addons.lamb import LAMB
from keras_legacy_opt.addons.lars import LARS
from keras_legacy_opt.addons.lazy_adam import LazyAdam
from keras_legacy_opt.addons.lion import Lion
from keras_legacy_opt.addons.lookahead import Lookahead
from keras_legacy_opt.addons.moving_average import MovingAverage
from keras_legacy_opt.addons.multi_optimizer import MultiOptimizer
from keras_legacy_opt.addons.novograd import NovoGrad
from keras_legacy_opt.addons.proximal_adagrad import ProximalAdagrad
from keras_legacy_opt.addons.rectified_adam import RectifiedAdam
from keras_legacy_opt.addons.sgdw import SGDW
from keras_legacy_opt.addons.stochastic_weight_averaging import SWA
from keras_legacy_opt.addons.warm_up import WarmUp
from keras_legacy_opt.addons.weight_decay import (
    DecoupledWeightDecayExtension,
    extend_with_decoupled_weight_decay,
)
from keras_legacy_opt.addons.yogi import Yogi

__all__ = [
    "AdaBelief",
    "AdamW",
    "AdamWeightDecay",
    "AverageModelCheckpoint",
    "AveragedOptimizerWrapper",
    "COCOB",
    "ConditionalGradient",
    "CyclicalLearningRate",
    "DecoupledWeightDecayExtension",
    "ExponentialCyclicalLearningRate",
    "GradientAccumulation",
    "LAMB",
    "LARS",
    "LazyAdam",
    "Lion",
    "Lookahead",
    "MovingAverage",
    "MultiOptimizer",
    "NovoGrad",
    "ProximalAdagrad",
    "RectifiedAdam",
    "SGDW",
    "SWA",
    "Triangular2CyclicalLearningRate",
    "TriangularCyclicalLearningRate",
    "WarmUp",
    "Yogi",
    "extend_with_decoupled_weight_decay",
]
