"""Adam with decoupled weight decay."""

from __future__ import annotations

from typing import Any

from keras_legacy_opt import hosts
from keras_legacy_opt.addons.weight_decay import DecoupledWeightDecayExtension
from keras_legacy_opt.rules.adam import Adam


@hosts.public
class AdamW(DecoupledWeightDecayExtension, Adam):
    """Adam with decoupled weight decay.

    A step takes `weight_decay * w` away from every variable with a gradient,
    then does what `keras_legacy_opt.Adam` does. The decay is not multiplied by
    the learning rate, as PyTorch's and Keras 3's are.

    >>> opt = keras_legacy_opt.addons.AdamW(
    ...     weight_decay=1e-4, exclude_from_weight_decay=["bias"])
    >>> kernel = tf.Variable([1.0, 2.0], name="kernel")
    >>> _ = opt.minimize(lambda: tf.reduce_sum(kernel**2), [kernel])

    Reference: [Loshchilov and Hutter, 2019](
    https://arxiv.org/abs/1711.05101).
    """

    def __init__(
        self,
        weight_decay: Any,
        learning_rate: Any = 0.001,
        beta_1: Any = 0.9,
        beta_2: Any = 0.999,
        epsilon: float | None = 1e-07,
        amsgrad: bool = False,
        name: str | None = "AdamW",
        **kwargs: Any,
    ):
        """Creates the optimizer.

        Args:
          weight_decay: see `DecoupledWeightDecayExtension`.
          learning_rate: see `keras_legacy_opt.Adam`.
          beta_1: see there.
          beta_2: see there.
          epsilon: see there.
          amsgrad: see there.
          name: name of the optimizer's variables.
          **kwargs: see there, and `DecoupledWeightDecayExtension`.
        """
        super().__init__(
            weight_decay,
            learning_rate=learning_rate,
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=epsilon,
            amsgrad=amsgrad,
            name=name,
            **kwargs,
        )
