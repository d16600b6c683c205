"""`python -m keras_legacy_opt inspect`: what is in a file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_legacy_opt.checkpoints import (
    contents,
    memory,
    opening,
    optimizers,
    report,
)
from keras_legacy_opt.checkpoints.values import readable

_OTHER = (contents.LOSS_SCALE, contents.OTHER, contents.FOREIGN)


def describe(path: str, max_size: int | None = None) -> str:
    """What a file holds, as text with tables; values are read one by one.

    Args:
      path: as for `keras_legacy_opt.checkpoints.restore`, or a `.keras` or
        `.weights.h5` file.
      max_size: what the file may unpack to, in bytes; if `None`, that depends
        on its own size.

    Raises:
      CheckpointError: if it cannot be read.
    """
    with opening.open_file(path, max_size) as file, readable(path):
        lines = [
            report.printable(f"{path}: {file.format}"),
            report.printable(f"optimizer: {_optimizer(file)}"),
        ]
        for item in file.of(contents.ITERATIONS):
            count = int(item.value.read())
            lines.append(f"{item.prefix}iterations: {count}")
        hypers = {
            item.scalar_name: _scalar(item.value)
            for item in file.of(contents.HYPERPARAMETER)
        }
        if file.config:
            hypers = {**_options(file.config), **hypers}
        for name, value in sorted(hypers.items()):
            lines.append(report.printable(f"  {name} = {_short(value)}"))
        for title, *kinds in (
            ("slots", contents.SLOT),
            ("model", contents.MODEL),
            ("other values", *_OTHER),
        ):
            items = file.of(*kinds)
            if items:
                lines += ["", f"{title}: {len(items)}, {_size(items)}"]
                lines.append(_table(items))
    return "\n".join(lines)


def _optimizer(file: contents.Contents) -> str:
    if not file.class_names:
        return "none, or no state of one"
    names = " or ".join(file.class_names)
    return names if file.config else f"{names} (judged by its variables)"


def _options(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration, with those of the optimizers inside."""
    config = optimizers.without_loss_scale(config)
    shares = {
        f"{contents.prefix(way)}weights": names
        for way, names in optimizers.shares(config).items()
    }
    own = {
        f"{contents.prefix(part.way)}{name}": option
        for part in reversed(optimizers.parts(config))
        for name, option in part.config["config"].items()
    }
    return {**own, **shares}


def _table(items: Sequence[contents.Item]) -> str:
    return report.table(
        ("variable", "slot", "shape", "dtype", "norm"),
        [
            (
                "/".join(item.path),
                f"{item.prefix}{item.slot}",
                str(item.value.shape),
                np.dtype(item.value.dtype).name,
                _norm(item.value),
            )
            for item in items
        ],
    )


def _norm(value: Any) -> str:
    if np.dtype(value.dtype).kind not in "fiu":
        return ""
    array = value.read()
    memory.give_back(array.nbytes)  # Of the last one.
    # In pieces: the square of all of it may need more memory than the array.
    total = sum(
        float(np.sum(np.square(piece, dtype=np.float64)))
        for piece in np.array_split(array.ravel(), max(1, array.size >> 20))
    )
    return f"{total**0.5:.6g}"


def _scalar(value: Any) -> Any:
    array = value.read()
    return array.item() if array.ndim == 0 else array.tolist()


def _short(value: Any) -> str:
    if isinstance(value, dict) and "class_name" in value:
        value = f"{value['class_name']}({value.get('config')})"
    return f"{value:.7g}" if isinstance(value, float) else str(value)


def _size(items: Sequence[contents.Item]) -> str:
    size = sum(item.number_of_bytes for item in items)
    return f"{size / 1e6:.3f} MB"
