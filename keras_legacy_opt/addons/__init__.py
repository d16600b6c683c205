"""Optimizers that legacy did not have: the same declarations, the same API."""

from keras_legacy_opt.addons.average_wrapper import AveragedOptimizerWrapper
from keras_legacy_opt.addons.gradient_accumulation import (
    GradientAccumulation,
)
from keras_legacy_opt.addons.lion import Lion
from keras_legacy_opt.addons.lookahead import Lookahead
from keras_legacy_opt.addons.moving_average import MovingAverage
from keras_legacy_opt.addons.stochastic_weight_averaging import SWA

__all__ = [
    "SWA",
    "AveragedOptimizerWrapper",
    "GradientAccumulation",
    "Lion",
    "Lookahead",
    "MovingAverage",
]
