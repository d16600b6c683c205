"""Optimizers that legacy did not have: the same declarations, the same API."""

from keras_legacy_opt.addons.adamw import AdamW
from keras_legacy_opt.addons.lamb import LAMB
from keras_legacy_opt.addons.lars import LARS
from keras_legacy_opt.addons.lion import Lion
from keras_legacy_opt.addons.novograd import NovoGrad
from keras_legacy_opt.addons.sgdw import SGDW
from keras_legacy_opt.addons.weight_decay import (
    DecoupledWeightDecayExtension,
    extend_with_decoupled_weight_decay,
)

__all__ = [
    "LAMB",
    "LARS",
    "SGDW",
    "AdamW",
    "DecoupledWeightDecayExtension",
    "Lion",
    "NovoGrad",
    "extend_with_decoupled_weight_decay",
]
