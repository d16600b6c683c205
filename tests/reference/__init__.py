"""The optimizers in NumPy: slow, short, and in float64.

`updates` has their mathematics, from the papers and with legacy's conventions;
`training` what they have in common.  Nothing here calls TensorFlow.
"""

from reference.training import train as train
from reference.updates import UPDATES as UPDATES
