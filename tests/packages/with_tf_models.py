"""tf-models-official: what its `OptimizerFactory` makes.

It wants tf_keras; its optimizers train models of Keras 3, too.
"""

import recording
import tensorflow as tf
from official.modeling.optimization import (
    OptimizationConfig,
    OptimizerFactory,
    ema_optimizer,
)


def factory(name, options, schedule, ema=None):
    config = {
        "optimizer": {"type": name, name: options},
        "learning_rate": schedule,
        "warmup": {"type": "linear", "linear": {"warmup_steps": 2}},
    }
    return OptimizerFactory(OptimizationConfig(config | (ema or {})))


CONSTANT = {"type": "constant", "constant": {"learning_rate": 0.01}}
COSINE = {
    "type": "cosine",
    "cosine": {"initial_learning_rate": 0.1, "decay_steps": 6},
}
for name, options in (
    ("sgd", {"momentum": 0.9, "nesterov": True}),
    ("adam", {"global_clipnorm": 0.1}),
    (
        "adamw",
        {"weight_decay_rate": 0.1, "exclude_from_weight_decay": ["bias"]},
    ),
    ("rmsprop", {"momentum": 0.9, "centered": True}),
    ("adagrad", {}),
    (
        "lamb",
        {"weight_decay_rate": 0.1, "exclude_from_layer_adaptation": ["b"]},
    ),
    ("lars", {"momentum": 0.9, "weight_decay_rate": 0.01}),
):
    for schedule in (CONSTANT, COSINE):

        def make(name=name, options=options, schedule=schedule):
            made = factory(name, options, schedule)
            return made.build_optimizer(made.build_learning_rate())

        recording.train(
            f"{name} {schedule['type']}",
            make,
            dense=name == "lars",  # It refuses sparse gradients.
        )


class Model:
    """What `shadow_copy` asks for."""

    def __init__(self, variables):
        self.trainable_variables = self.variables = variables


strategy = tf.distribute.OneDeviceStrategy("/cpu:0")  # Averages want one.
for start_step in (0, 2):
    with strategy.scope():
        variables = recording.make_variables()
        made = factory("sgd", {"momentum": 0.9}, COSINE)
        optimizer = ema_optimizer.ExponentialMovingAverage(
            made.build_optimizer(made.build_learning_rate()),
            average_decay=0.9,
            start_step=start_step,
        )
        optimizer.shadow_copy(Model(variables))

    step = tf.function(
        recording.minimizing(optimizer, recording.loss, variables)
    )
    for _ in range(5):
        strategy.run(step)
    recording.record(f"from {start_step}/trained", variables)
    with strategy.scope():
        optimizer.swap_weights()
    recording.record(f"from {start_step}/averages", variables)
    recording.record(f"from {start_step}/weights", optimizer.get_weights())
recording.write()
