"""The strategies of one machine, over the two logical CPUs of `conftest`."""

import functools

import pytest
import tensorflow as tf

CPUS = ["/cpu:0", "/cpu:1"]
STRATEGIES = {
    "one device": lambda: tf.distribute.OneDeviceStrategy("/cpu:1"),
    "mirrored": lambda: tf.distribute.MirroredStrategy(CPUS),
    "central storage": lambda: (
        tf.distribute.experimental.CentralStorageStrategy(CPUS, "/cpu:0")
    ),
}

under_every_strategy = pytest.mark.parametrize("strategy", STRATEGIES)


@functools.cache
def strategy_called(name):
    return STRATEGIES[name]()
