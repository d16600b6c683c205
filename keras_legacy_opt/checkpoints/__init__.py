"""State of all ages: checkpoints and files, read, written and converted.

`restore` reads what old releases wrote into a model of today, with its
optimizer, and says what it did:

* TensorFlow object checkpoints of Keras 2 models (`tf.train.Checkpoint`,
  `CheckpointManager`, `model.save_weights` in the TF format),
* SavedModel folders of Keras 2 models (from their `variables/`),
* whole-model HDF5 files of Keras 2 and 1,
* name-based checkpoints of TF1's `Saver`, with the state of
  `tf.compat.v1.train.AdamOptimizer` and its siblings.

`save` writes the first of these back.  `to_keras_3` and `from_keras_3` convert
an optimizer together with its state.
"""

from __future__ import annotations

from keras_legacy_opt.checkpoints.keras_2_view import Keras2View
from keras_legacy_opt.checkpoints.keras_3_optimizers import (
    ConversionError,
    from_keras_3,
    to_keras_3,
)
from keras_legacy_opt.checkpoints.report import (
    CheckpointError,
    Entry,
    MismatchError,
    Report,
)
from keras_legacy_opt.checkpoints.restoring import (
    optimizer_of,
    restore,
    save,
)

__all__ = [
    "CheckpointError",
    "ConversionError",
    "Entry",
    "Keras2View",
    "MismatchError",
    "Report",
    "from_keras_3",
    "optimizer_of",
    "restore",
    "save",
    "to_keras_3",
]
