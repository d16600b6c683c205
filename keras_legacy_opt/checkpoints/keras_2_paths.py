"""Paths of weights, as the object checkpoints of Keras 2 models have them."""

from __future__ import annotations

from keras_legacy_opt.checkpoints.contents import Item

LAYER = "layer_with_weights-"


def in_model(item: Item) -> tuple[str, ...]:
    """The path from the model, whatever the root called that."""
    path = item.path
    return path[1:] if path[1:] and path[1].startswith(LAYER) else path


def is_attribute(path: tuple[str, ...]) -> bool:
    """Whether it leads from a layer, or its recurrent cell, to a weight."""
    return len(path) == 1 or (len(path) == 2 and path[0] == "cell")
