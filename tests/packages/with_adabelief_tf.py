"""adabelief_tf: a subclass of `tf.keras.optimizers.Optimizer`."""

import recording
import tensorflow as tf
from adabelief_tf import AdaBeliefOptimizer

quiet = {"print_change_log": False}
recording.train("plain", lambda: AdaBeliefOptimizer(0.01, **quiet))
recording.train(
    "all options",
    lambda: AdaBeliefOptimizer(
        learning_rate=tf.keras.optimizers.schedules.ExponentialDecay(
            0.01, 3, 0.5
        ),
        weight_decay=0.01,
        amsgrad=True,
        rectify=True,
        total_steps=5,
        warmup_proportion=0.4,
        min_lr=0.001,
        **quiet,
    ),
)
recording.train(
    "not rectified",
    lambda: AdaBeliefOptimizer(0.01, rectify=False, clipnorm=0.1, **quiet),
)
recording.write()
