"""What a file holds, with the weights where an architecture has them."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from keras_legacy_opt import hosts, model_parts, slot_numbers
from keras_legacy_opt.checkpoints import (
    architecture,
    contents,
    h5,
    memory,
    object_graph,
    tf1,
)
from keras_legacy_opt.checkpoints.architecture import Place
from keras_legacy_opt.checkpoints.contents import Contents, Item
from keras_legacy_opt.checkpoints.report import CheckpointError


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
    order = list(architecture.places(model).values())
    weights, slots = file.of(contents.MODEL), file.of(contents.SLOT)
    if file.weights_file is not None:
        found = _spooled(file, model, folder)
        found += _by_number(slots, file, model)
    else:
        if file.format == h5.FORMAT:
            place_of = _by_order(weights, order)
        elif file.format == tf1.FORMAT:
            place_of = {tuple(p.name.split("/")): p for p in order}
        else:
            place_of = _by_path(weights, order)
        found = [(item, place_of.get(item.path)) for item in (*weights, *slots)]
    _check(file, found, order)
    rank = {place: number for number, place in enumerate(order)}
    found.sort(key=lambda pair: rank[pair[1]])
    others = [
        i for i in file.items if i.kind not in (contents.MODEL, contents.SLOT)
    ]
    if file.weights_file is not None:  # Metrics, which every epoch resets.
        others = [i for i in others if i.kind != contents.OTHER]
    return dataclasses.replace(
        file,
        format=object_graph.FORMAT,
        items=[
            *others,
            *(
                dataclasses.replace(
                    item,
                    path=("model", *place.path),
                    name=place.name,
                    layer=place.layer,
                )
                for item, place in found
            ),
        ],
    )


def _by_path(
    weights: Iterable[Item], order: Sequence[Place]
) -> dict[tuple[str, ...], Place]:
    """Of an object checkpoint, of the model or of an object that has it."""
    known = {place.path: place for place in order}
    return {
        item.path: known[path]
        for item in weights
        for path in (item.path, item.path[1:])
        if path in known
    }


def _by_order(
    weights: Iterable[Item], order: Sequence[Place]
) -> dict[tuple[str, ...], Place]:
    """Of HDF5: layers by their names, else as Keras does; then by number."""
    stored: dict[str, list[Item]] = {}
    for item in weights:
        stored.setdefault(item.path[0], []).append(item)
    layers: dict[str, list[Place]] = {}
    for place in order:
        layers.setdefault(place.layer, []).append(place)
    names = stored if stored.keys() <= layers.keys() else layers
    return {
        item.path: place
        for items, name in zip(stored.values(), names, strict=False)
        for item, place in zip(items, layers[name], strict=False)
    }


def _spooled(
    file: Contents, model: Any, folder: str
) -> list[tuple[Item, Place | None]]:
    """The weights in a file of Keras 3, by way of a file of their own."""
    import h5py

    places = architecture.places(model)
    weights_file = str(file.weights_file)
    if not weights_file.endswith(".weights.h5"):  # As Keras wants it.
        link = os.path.join(folder, "source.weights.h5")
        os.symlink(os.path.abspath(weights_file), link)
        weights_file = link
    spool = h5py.File(os.path.join(folder, "spool.h5"), "w")
    found: dict[Place, Item] = {}

    def take(variable: Any, value: np.ndarray) -> None:
        place = places.get(id(variable))
        if place is None:
            return  # The seed of random numbers.
        name = "/".join(place.path)
        if place in found:  # A layer may load its weights once more.
            del spool[name]
        memory.give_back(value.nbytes)
        spool[name] = value
        found[place] = Item(
            contents.MODEL, (), h5.value(place.name, spool[name])
        )

    architecture.each_weight(model, weights_file, file.path, take)
    return [(item, place) for place, item in found.items()]


def _by_number(
    slots: Iterable[Item], file: Contents, model: Any
) -> list[tuple[Item, Place | None]]:
    by_number = dict(enumerate(_places_of_slots(file, model)))
    return [
        (item, by_number.get(int(item.value.name.rpartition(".")[2])))
        for item in slots
    ]


def _places_of_slots(file: Contents, model: Any) -> list[Place | None]:
    """The places of the variables that have slots in `file`, by number."""
    places = architecture.places(model)
    weights = slot_numbers.at_paths(
        file.variable_paths,
        model_parts.weights_by_path(model),
        len(file.variable_names),
    )
    if weights is not None:
        return [places.get(id(hosts.unwrap(weight))) for weight in weights]
    order = list(places.values())
    trained = [place for place in order if place.trainable]
    for candidates in (order, trained):  # Some may have been frozen since.
        try:
            numbers = slot_numbers.numbers_here(
                file.variable_names, [place.name for place in candidates]
            )
        except ValueError as error:
            raise CheckpointError(str(error)) from error
        if numbers is not None:
            return [None if n is None else candidates[n] for n in numbers]
    return list(trained)


def _check(
    file: Contents,
    found: Sequence[tuple[Item, Place | None]],
    order: Sequence[Place],
) -> None:
    problems = [
        f"{item.value.name} has no place in the model"
        for item, place in found
        if place is None
    ]
    problems += [
        f"{item.value.name} has shape {item.value.shape}, but {place.name} has"
        f" {place.shape}"
        for item, place in found
        if place is not None
        and item.kind == contents.MODEL
        and place.shape != tuple(item.value.shape)
    ]
    valued = {p for item, p in found if item.kind == contents.MODEL}
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
