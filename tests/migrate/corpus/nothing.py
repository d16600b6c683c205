"""Asks for legacy's names, but uses none."""
import importlib.util

import tensorflow as tf
from tensorflow.keras.optimizers import AdamW

HAS_LEGACY = hasattr(tf.keras.optimizers, "legacy")
FOUND = importlib.util.find_spec("tensorflow.keras.optimizers.legacy")
optimizer = AdamW(0.1)
Adam = 3
text = "tf.keras.optimizers.Adam(0.1)"
