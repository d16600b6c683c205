"""Gradient descent with decoupled weight decay."""

from __future__ import annotations

from typing import Any

from keras_legacy_opt import hosts
from keras_legacy_opt.addons.weight_decay import DecoupledWeightDecayExtension
from keras_legacy_opt.rules.sgd import SGD


@hosts.public
class SGDW(DecoupledWeightDecayExtension, SGD):
    """Gradient descent, perhaps with momentum, with decoupled weight decay.

    A step takes `weight_decay * w` away from every variable with a gradient,
    then does what `keras_legacy_opt.SGD` does.

    >>> opt = keras_legacy_opt.addons.SGDW(0.5, learning_rate=0.25)
    >>> var = tf.Variable(2.0)
    >>> _ = opt.minimize(lambda: var**2 / 2.0, [var])
    >>> float(var)  # The gradient is that of before the decay.
    0.5

    Reference: [Loshchilov and Hutter, 2019](
    https://arxiv.org/abs/1711.05101).
    """

    def __init__(
        self,
        weight_decay: Any,
        learning_rate: Any = 0.001,
        momentum: Any = 0.0,
        nesterov: bool = False,
        name: str | None = "SGDW",
        **kwargs: Any,
    ):
        """Creates the optimizer.

        Args:
          weight_decay: see `DecoupledWeightDecayExtension`.
          learning_rate: see `keras_legacy_opt.SGD`.
          momentum: see there.
          nesterov: see there.
          name: name of the optimizer's variables.
          **kwargs: see there, and `DecoupledWeightDecayExtension`.
        """
        super().__init__(
            weight_decay,
            learning_rate=learning_rate,
            momentum=momentum,
            nesterov=nesterov,
            name=name,
            **kwargs,
        )
