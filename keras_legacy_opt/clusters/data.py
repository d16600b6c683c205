"""How many steps several workers take together, which Keras 3 counts alone.

Each worker counts the batches of its own dataset.  If they differ, some workers
would end an epoch while others wait for them.
"""

from __future__ import annotations

import functools
from typing import Any

import tensorflow as tf

from keras_legacy_opt import private_api
from keras_legacy_opt.clusters import multi_worker, switch

_UNKNOWN, _ENDLESS = -1, -2


def correct(cls: Any) -> list[switch.Fault]:
    """Lets workers agree on the length of an epoch.

    Args:
      cls: Keras' iterator over the epochs of a dataset.

    Returns:
      What may be wrong there.
    """
    make, reset = cls.__init__, getattr(cls, "reset", None)
    fault = switch.Fault(
        "how many batches several workers have",
        lambda: not {"gather", "reduce"} & private_api.names_in(make),
    )

    @functools.wraps(make)
    def make_with_agreed_length(
        self: Any, distribute_strategy: Any = None, *args: Any, **kwargs: Any
    ) -> None:
        strategy = distribute_strategy
        make(self, strategy, *args, **kwargs)
        if multi_worker.is_wanted(strategy) and fault.is_present():
            length = _agreed_length(strategy, self)
            self._num_batches = length
            self._agreed_length = (length,)

    cls.__init__ = make_with_agreed_length
    if reset is not None:

        @functools.wraps(reset)
        def reset_to_agreed_length(self: Any) -> None:
            reset(self)
            for length in getattr(self, "_agreed_length", ()):
                self._num_batches = length

        cls.reset = reset_to_agreed_length
    return [fault]


def _agreed_length(strategy: Any, epochs: Any) -> int | None:
    """The number of batches until no worker has any; None if not known."""
    own = tf.constant([_own_length(epochs)], tf.int64)
    lengths = strategy.gather(own, axis=0).numpy().tolist()
    if _ENDLESS in lengths and set(lengths) != {_ENDLESS}:
        endless = [n for n, length in enumerate(lengths) if length == _ENDLESS]
        raise ValueError(
            "The dataset is repeated without end on some workers, not on"
            f" others, which would wait for them. Endless: on workers {endless}"
            f" of {len(lengths)} replicas. Call `repeat()` on all workers, and"
            " give steps_per_epoch, or on none."
        )
    return None if min(lengths) < 0 else max(lengths)


def _own_length(epochs: Any) -> int:
    dataset = epochs._distributed_dataset
    if dataset.cardinality == tf.data.INFINITE_CARDINALITY:
        return _ENDLESS
    length = epochs.data_adapter.num_batches
    policy = private_api.shard_policy(dataset)
    kinds = tf.data.experimental.AutoShardPolicy
    # Else it is not a part of each batch that a worker takes.
    by_data = policy in (None, kinds.AUTO, kinds.DATA)
    return length if by_data and length is not None else _UNKNOWN
