"""What a file holds, with the weights where an architecture has them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from keras_legacy_opt import hosts
from keras_legacy_opt.checkpoints import contents
from keras_legacy_opt.checkpoints.contents import Contents, Item
from keras_legacy_opt.checkpoints.formats import keras_3, object_graph
from keras_legacy_opt.checkpoints.places import Place, places_of
from keras_legacy_opt.checkpoints.report import CheckpointError
from keras_legacy_opt.checkpoints.targets import Targets


def placed(file: Contents, model: Any, folder: str) -> Contents:
    """Gives the weights and slots in `file` the paths and names of `model`.

    Args:
      file: the contents of a file.
      model: from `architecture.model_of`.
      folder: for temporary files, which the result reads.

    Returns:
      Contents with the paths of an object checkpoint, in the order of HDF5.

    Raises:
      CheckpointError: if they do not fit each other.
    """
    if file.codec is keras_3:
        file, located = keras_3.place(file, model, folder)
    else:
        file, located = file.codec.locate(file, Targets(model, None))
    places = places_of(model)
    found = [
        (item, places.get(id(hosts.unwrap(located.get(item.path)))))
        for item in file.of(contents.MODEL, contents.SLOT)
    ]
    fitting = _checked(file, found, list(places.values()))
    # A weight of two layers is there twice, and the last one counts.
    unique = {(place, item.slot): item for item, place in fitting}
    rank = {place: number for number, place in enumerate(places.values())}
    others = [
        i for i in file.items if i.kind not in (contents.MODEL, contents.SLOT)
    ]
    return dataclasses.replace(
        file,
        codec=object_graph,
        items=[
            *others,
            *(
                dataclasses.replace(
                    item,
                    path=("model", *place.path),
                    name=place.name,
                    layer=place.layer,
                )
                for (place, _), item in sorted(
                    unique.items(), key=lambda pair: rank[pair[0][0]]
                )
            ),
        ],
    )


def _checked(
    file: Contents,
    found: Sequence[tuple[Item, Place | None]],
    order: Sequence[Place],
) -> list[tuple[Item, Place]]:
    """The items and their places, which are all places, and fit.

    Raises:
      CheckpointError: if not.
    """
    problems = [
        f"{item.value.name} has no place in the model"
        for item, place in found
        if place is None
    ]
    fitting = [(item, place) for item, place in found if place is not None]
    problems += [
        f"{item.value.name} has shape {item.value.shape}, but {place.name} has"
        f" {place.shape}"
        for item, place in fitting
        if item.kind == contents.MODEL
        and place.shape != tuple(item.value.shape)
    ]
    valued = {p for item, p in fitting if item.kind == contents.MODEL}
    problems += [
        f"{place.name} is not in the file"
        for place in order
        if place not in valued
    ]
    if problems:
        raise CheckpointError(
            f"{file.path} does not fit the architecture: "
            + "; ".join(problems[:20])
            + (f"; and {len(problems) - 20} more" if problems[20:] else "")
        )
    return fitting
