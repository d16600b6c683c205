"""Opening a file, and finding the codec that can read it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from keras_legacy_opt.checkpoints import sources
from keras_legacy_opt.checkpoints.contents import Contents
from keras_legacy_opt.checkpoints.formats import h5, keras_3, object_graph, tf1
from keras_legacy_opt.checkpoints.report import CheckpointError
from keras_legacy_opt.checkpoints.sources import Source
from keras_legacy_opt.checkpoints.values import readable

# In the order in which they are asked.
CODECS = (object_graph, tf1, h5, keras_3)


@contextlib.contextmanager
def open_file(path: str, max_size: int | None = None) -> Iterator[Contents]:
    """The contents of a file of any format; values are read while it is open.

    Args:
      path: of the file.
      max_size: what it may unpack to, in bytes; see `Limits.of`.

    Raises:
      CheckpointError: if it cannot be read.
    """
    with open_source(path, max_size) as (source, codec):
        yield read(source, codec)


@contextlib.contextmanager
def open_source(
    path: str, max_size: int | None = None
) -> Iterator[tuple[Source, Any]]:
    """An open file of any format, and the codec that can read it."""
    with contextlib.ExitStack() as stack:
        with readable(path):
            source = stack.enter_context(sources.opened(path, max_size))
            codec = _codec_of(source)
        yield source, codec


def read(source: Source, codec: Any) -> Contents:
    """The contents of an open file."""
    with readable(source.path):
        result = codec.read(source)
        result.codec = codec
        if source.bundle is None:
            # The same values may be there under many names.
            size = sum(item.number_of_bytes for item in result.items)
            source.limits.check_values(size)
    return result


def _codec_of(source: Source) -> Any:
    path = source.path
    for codec in CODECS:
        if codec.detect(source):
            return codec
    if source.is_hdf5:
        raise CheckpointError(
            f"{path!r} is not an HDF5 file of Keras 2, and neither one of"
            " Keras 3."
        )
    if os.path.isdir(path):
        raise CheckpointError(
            f"The folder {path!r} holds no checkpoint: neither a file"
            " 'checkpoint' that names one, nor 'variables/variables.index'."
        )
    if not os.path.exists(path):
        raise CheckpointError(
            "There is no checkpoint, SavedModel, HDF5 or .keras file"
            f" {path!r}: neither {path!r} nor {path + '.index'!r} exists."
        )
    raise CheckpointError(
        f"{path!r} is damaged, or of no known format: neither a TensorFlow"
        " checkpoint nor a SavedModel, HDF5 or .keras file. Nothing was"
        " changed."
    )
