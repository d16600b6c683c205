"""Optimizers that legacy did not have: the same declarations, the same API."""

from keras_legacy_opt.addons.adabelief import AdaBelief
from keras_legacy_opt.addons.adamw import AdamW
from keras_legacy_opt.addons.cocob import COCOB
from keras_legacy_opt.addons.conditional_gradient import ConditionalGradient
from keras_legacy_opt.addons.lamb import LAMB
from keras_legacy_opt.addons.lars import LARS
from keras_legacy_opt.addons.lazy_adam import LazyAdam
from keras_legacy_opt.addons.lion import Lion
from keras_legacy_opt.addons.novograd import NovoGrad
from keras_legacy_opt.addons.proximal_adagrad import ProximalAdagrad
from keras_legacy_opt.addons.rectified_adam import RectifiedAdam
from keras_legacy_opt.addons.sgdw import SGDW
from keras_legacy_opt.addons.weight_decay import (
    DecoupledWeightDecayExtension,
    extend_with_decoupled_weight_decay,
)
from keras_legacy_opt.addons.yogi import Yogi

__all__ = [
    "COCOB",
    "LAMB",
    "LARS",
    "SGDW",
    "AdaBelief",
    "AdamW",
    "ConditionalGradient",
    "DecoupledWeightDecayExtension",
    "LazyAdam",
    "Lion",
    "NovoGrad",
    "ProximalAdagrad",
    "RectifiedAdam",
    "Yogi",
    "extend_with_decoupled_weight_decay",
]
