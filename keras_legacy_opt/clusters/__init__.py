"""Keras 3's `fit`, `evaluate` and `predict` on several machines.

Keras 3's trainer fails under MultiWorkerMirroredStrategy and
ParameterServerStrategy, whatever the optimizer.  When a Keras 3 is imported,
its trainer is corrected here, where it needs that and nowhere else: nothing
changes without such a strategy.
"""

from keras_legacy_opt.clusters.switch import disable, enable
from keras_legacy_opt.clusters.trainer import correct, report

__all__ = ["correct", "disable", "enable", "report"]
