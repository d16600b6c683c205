"""What one variable has of its own is the same on N replicas as on one."""

import pytest
import tensorflow as tf
import training
from strategies import strategy_called, under_every_strategy

from keras_legacy_opt import addons, fused

OPTIMIZERS = {
    "AdamW": lambda: addons.AdamW(
        0.1,
        0.1,
        exclude_from_weight_decay=["^vector"],
        learning_rate_factors={"matrix": 0.5},
    ),
    "SGDW": lambda: addons.SGDW(0.1, 0.1),
    "LAMB": lambda: addons.LAMB(
        0.1, weight_decay=0.1, exclude_from_weight_decay=["^vector"]
    ),
    "LARS": lambda: addons.LARS(0.5, eeta=0.1, weight_decay_rate=0.1),
    "NovoGrad": lambda: addons.NovoGrad(0.1, weight_decay=0.1),
}


def averaging(make):
    """An optimizer whose step moves the averages that are its slots."""
    optimizer = make()
    create = optimizer._create_slots

    def create_slots(variables):
        create(variables)
        for variable in variables:
            optimizer.add_slot(variable, "average")

    optimizer._create_slots = create_slots
    optimizer._averaging = lambda variable: (
        optimizer.get_slot(variable, "average"),
        0.25,
    )
    return optimizer


@under_every_strategy
@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_own_values(strategy, name, native):
    def train(strategy, wrap):
        return training.train(
            strategy, lambda: averaging(OPTIMIZERS[name]), "mixed", wrap=wrap
        )

    if native:
        ours = train(strategy_called(strategy), lambda f: f)
        alone = train(tf.distribute.get_strategy(), lambda f: f)
    else:
        with fused.disabled():
            ours = train(strategy_called(strategy), lambda f: f)
            alone = train(tf.distribute.get_strategy(), lambda f: f)
    training.assert_same_bits(ours, alone)
