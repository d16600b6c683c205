"""Optimizers that legacy did not have: the same declarations, the same API."""

from keras_legacy_opt.addons.lion import Lion

__all__ = ["Lion"]
