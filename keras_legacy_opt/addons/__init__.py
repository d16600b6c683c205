"""Optimizers that legacy did not have: the same declarations, the same API."""

from keras_legacy_opt.addons.adabelief import AdaBelief
from keras_legacy_opt.addons.cocob import COCOB
from keras_legacy_opt.addons.conditional_gradient import ConditionalGradient
from keras_legacy_opt.addons.lazy_adam import LazyAdam
from keras_legacy_opt.addons.lion import Lion
from keras_legacy_opt.addons.proximal_adagrad import ProximalAdagrad
from keras_legacy_opt.addons.rectified_adam import RectifiedAdam
from keras_legacy_opt.addons.yogi import Yogi

__all__ = [
    "AdaBelief",
    "COCOB",
    "ConditionalGradient",
    "LazyAdam",
    "Lion",
    "ProximalAdagrad",
    "RectifiedAdam",
    "Yogi",
]
