"""What the weights of a model are called, and where HDF5 files have them."""

from __future__ import annotations

import dataclasses
from typing import Any

from keras_legacy_opt import hosts
from keras_legacy_opt.hosts import model_parts


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a weight is.

    Attributes:
      path: the names that lead to it from the model, as Keras 2 had them.
      name: its own name.
      layer: the name of the model's layer that it belongs to.
      shape: tuple of integers.
      trainable: whether it is trained.
    """

    path: tuple[str, ...]
    name: str
    layer: str
    shape: tuple[int, ...]
    trainable: bool


def places_of(model: Any) -> dict[int, Place]:
    """{id of a variable: its place}, layer by layer, as HDF5 files have them.

    Args:
      model: a model of Keras 3 or tf_keras.
    """
    paths = {
        id(hosts.unwrap(weight)): path
        for path, weight in model_parts.reached(model)
    }
    result: dict[int, Place] = {}
    for layer in model.layers:
        for weight in model_parts.weights_in_order(layer):
            variable = hosts.unwrap(weight)
            if id(variable) not in result and id(variable) in paths:
                name = getattr(weight, "path", None)
                result[id(variable)] = Place(
                    path=paths[id(variable)],
                    name=name or weight.name.removesuffix(":0"),
                    layer=layer.name,
                    shape=tuple(weight.shape),
                    trainable=any(weight is w for w in layer.trainable_weights),
                )
    return result
