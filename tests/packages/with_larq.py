"""larq: `Bop`, and `CaseOptimizer` with several optimizers behind it."""

import larq
import recording
import tensorflow as tf

legacy = tf.keras.optimizers.legacy
schedules = tf.keras.optimizers.schedules


class Quantized:
    """Whether a variable is taken by Bop, by its name."""

    def __call__(self, variable):
        return "kernel" in variable.name


recording.train(
    "Bop", lambda: larq.optimizers.Bop(threshold=1e-3, gamma=0.1), dense=True
)
recording.train(
    "Bop with a schedule",
    lambda: larq.optimizers.Bop(
        threshold=1e-3, gamma=schedules.ExponentialDecay(0.1, 2, 0.5)
    ),
    dense=True,
)
recording.train(
    "CaseOptimizer",
    lambda: larq.optimizers.CaseOptimizer(
        (Quantized(), larq.optimizers.Bop(threshold=1e-3, gamma=0.1)),
        default_optimizer=legacy.Adam(0.01),
    ),
)
optimizer = larq.optimizers.CaseOptimizer(
    (Quantized(), larq.optimizers.Bop(threshold=1e-3, gamma=0.1)),
    default_optimizer=legacy.SGD(0.1, momentum=0.9),
)
variables = recording.make_variables()
for _ in range(3):
    optimizer.minimize(lambda: recording.loss(variables), variables)
copy = larq.optimizers.CaseOptimizer.from_config(optimizer.get_config())
for _ in range(3):
    copy.minimize(lambda: recording.loss(variables), variables)
recording.record("from_config", [*variables, *copy.get_weights()])
recording.write()
