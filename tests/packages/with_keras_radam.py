"""keras-rectified-adam: a subclass of `tf.keras.optimizers.Optimizer`."""

import recording
from keras_radam import RAdam

recording.train("plain", lambda: RAdam(0.01))
recording.train(
    "all options",
    lambda: RAdam(
        learning_rate=0.01,
        weight_decay=0.01,
        amsgrad=True,
        total_steps=5,
        warmup_proportion=0.4,
        min_lr=0.001,
        decay=0.1,
        clipnorm=0.5,
    ),
)
recording.write()
