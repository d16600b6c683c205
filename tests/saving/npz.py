"""Arrays of .npz files, read whole: no file stays open behind a case."""

from __future__ import annotations

import os

import numpy as np


def read(path: str | os.PathLike) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return dict(file)
