"""keras-adabound: a subclass of `tf.keras.optimizers.Optimizer`."""

import recording
import tensorflow as tf
from keras_adabound import AdaBound

recording.train("plain", lambda: AdaBound(0.01))
recording.train(
    "all options",
    lambda: AdaBound(
        learning_rate=0.01,
        final_lr=0.2,
        gamma=0.1,
        decay=0.1,
        weight_decay=0.01,
    ),
)
recording.train(
    "amsgrad",
    lambda: AdaBound(lr=0.01, amsgrad=True, clipnorm=0.5),
    dense=True,
)
schedule = tf.keras.optimizers.schedules.ExponentialDecay(0.01, 3, 0.5)
recording.train(
    "schedules",
    lambda: AdaBound(
        tf.keras.optimizers.schedules.serialize(schedule), base_lr=0.01
    ),
)
recording.write()
