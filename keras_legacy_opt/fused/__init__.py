"""The native library: every variable of a group updated by one op.

It is optional.  Without it, or where it does not apply, the same numbers come
from TensorFlow's own ops; `python -m keras_legacy_opt doctor` says which path
is taken, and why.
"""

from keras_legacy_opt.fused.gpu.mistakes import synchronize
from keras_legacy_opt.fused.loader import is_available, why_not
from keras_legacy_opt.fused.switch import disabled

__all__ = ["disabled", "is_available", "synchronize", "why_not"]
