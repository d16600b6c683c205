"""Optimizers in TensorBoard: what their slots hold, and what their steps do."""

from keras_legacy_opt.summaries.callback import SlotSummaries
from keras_legacy_opt.summaries.events import write
from keras_legacy_opt.summaries.measures import (
    Measures,
    SlotMeasures,
    VariableMeasures,
    measure,
)

__all__ = [
    "Measures",
    "SlotMeasures",
    "SlotSummaries",
    "VariableMeasures",
    "measure",
    "write",
]
