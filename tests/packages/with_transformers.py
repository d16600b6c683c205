"""transformers: `AdamWeightDecay`, `WarmUp`, `GradientAccumulator`.

It wants tf_keras; its optimizer trains models of Keras 3, too.
"""

import recording
import tensorflow as tf
import tf_keras
from transformers import optimization_tf

recording.train(
    "AdamWeightDecay",
    lambda: optimization_tf.AdamWeightDecay(
        0.01,
        weight_decay_rate=0.1,
        include_in_weight_decay=["^table"],
        exclude_from_weight_decay=["bias", "table"],
    ),
)


def created(**arguments):
    optimizer, _ = optimization_tf.create_optimizer(
        init_lr=0.01,
        num_train_steps=6,
        num_warmup_steps=2,
        weight_decay_rate=0.1,
        **arguments,
    )
    return optimizer


recording.train("create_optimizer", created)
recording.train("clipped", lambda: created(adam_global_clipnorm=0.1))
recording.train("power", lambda: created(power=2.0))
config = optimization_tf.AdamWeightDecay(
    0.01, weight_decay_rate=0.1, clipnorm=0.5, decay=0.1
).get_config()
recording.train(
    "from_config",
    lambda: optimization_tf.AdamWeightDecay.from_config(config),
)

accumulator = optimization_tf.GradientAccumulator()
variables = recording.make_variables()[1:]
optimizer = created()
for step in range(6):
    with tf.GradientTape() as tape:
        loss = recording.loss([tf.ones([6, 2]), *variables])
    accumulator(tape.gradient(loss, variables))
    if step % 2:
        optimizer.apply_gradients(
            list(zip(accumulator.gradients, variables, strict=True))
        )
        accumulator.reset()
recording.record("accumulated", [*variables, *optimizer.get_weights()])
assert isinstance(optimizer, tf_keras.optimizers.legacy.Adam)
recording.write()
