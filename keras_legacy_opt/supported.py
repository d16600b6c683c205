"""Which TensorFlow and which Kerases this version was tested with.

The one place that says so: `python -m keras_legacy_opt doctor` reads it, so do
`.ci/run` and scripts/, which run this file without installing anything, and
`tests/test_package.py` compares README.md and pyproject.toml with it.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import re
import sys
from typing import NamedTuple


class Release(NamedTuple):
    """What a minor version of TensorFlow can be installed with.

    Attributes:
      tensorflow: the version; that of its own tf_keras is the same.
      keras: the oldest Keras 3 that it allows.
      pythons: the oldest and the newest Python that both are there for.
    """

    tensorflow: tuple[int, int]
    keras: str
    pythons: tuple[str, str]


RELEASES = (
    Release((2, 16), "3.0.0", ("3.10", "3.12")),
    Release((2, 17), "3.2.0", ("3.10", "3.12")),
    Release((2, 18), "3.5.0", ("3.10", "3.12")),
    Release((2, 19), "3.5.0", ("3.10", "3.12")),
    Release((2, 20), "3.10.0", ("3.10", "3.13")),
    Release((2, 21), "3.12.0", ("3.10", "3.13")),
)
_OLDEST, _NEWEST = RELEASES[0].tensorflow, RELEASES[-1].tensorflow


class Supported(NamedTuple):
    """The minor versions of a package, from the oldest to the newest."""

    name: str
    module: str
    oldest: tuple[int, int]
    newest: tuple[int, int]

    def __str__(self) -> str:
        return "{}.{} to {}.{}".format(*self.oldest, *self.newest)

    def remark(self, version: str) -> str | None:
        """What is to be said about a version; None if it is supported."""
        numbers = re.match(r"(\d+)\.(\d+)", version)
        if numbers is None:
            return f"not known; {self.name} {self} is supported"
        minor = int(numbers[1]), int(numbers[2])
        if minor < self.oldest:
            return f"too old: {self.name} {self} is supported"
        if minor > self.newest:
            return f"newer than what was tested, {self.name} {self}"
        return None


TENSORFLOW = Supported("TensorFlow", "tensorflow", _OLDEST, _NEWEST)
KERAS = Supported("Keras", "keras", (3, 0), (3, 15))
TF_KERAS = Supported("tf_keras", "tf_keras", _OLDEST, _NEWEST)
PACKAGES = (TENSORFLOW, KERAS, TF_KERAS)


def distributions(module: str) -> dict[str, str]:
    """Names and versions of the installed packages that bring a module.

    TensorFlow comes as tensorflow, tensorflow-cpu, tf-nightly and others, Keras
    as keras or keras-nightly.
    """
    found = {}
    for name in importlib.metadata.packages_distributions().get(module, ()):
        # Interrupted installations leave some without a name or a version.
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name) if name else None
    return {name: version for name, version in found.items() if version}


def describe(package: Supported) -> str:
    """The version that is imported or installed, and what is to be said."""
    installed = distributions(package.module)
    imported = getattr(sys.modules.get(package.module), "__version__", None)
    version = imported or next(iter(installed.values()), None)
    if version is None:
        return "not installed"
    text = version
    if len(installed) > 1:
        them = " and ".join(f"{n} {v}" for n, v in installed.items())
        text += f" ({them} overwrite each other: uninstall all, install one)"
    elif any(n.replace("-", "_") != package.module for n in installed):
        text += f" ({', '.join(installed)})"
    remark = package.remark(version)
    return f"{text}, {remark}" if remark else text


def warn_if_unknown() -> None:
    """Logs a warning if this process' TensorFlow is not a supported one."""
    import tensorflow as tf
    from absl import logging

    remark = TENSORFLOW.remark(tf.__version__)
    if remark is not None:
        logging.warning(
            "keras_legacy_opt: this TensorFlow, %s, is %s. `python -m"
            " keras_legacy_opt doctor` says what works.",
            tf.__version__,
            remark,
        )


def environments() -> list[str]:
    """Of each release two: "python requirement requirement ...".

    The oldest Keras in the oldest Python, the newest one in the newest.
    """
    lines = []
    for release in RELEASES:
        version = "{}.{}.*".format(*release.tensorflow)
        own = f"tensorflow=={version} tf_keras=={version}"
        oldest, newest = release.pythons
        lines += [
            f"{oldest} {own} keras=={release.keras}",
            f"{newest} {own} keras>={release.keras}",
        ]
    return lines


def any_tensorflow() -> str:
    """The requirement that all supported versions of TensorFlow meet."""
    (major, oldest), (_, newest) = _OLDEST, _NEWEST
    return f"tensorflow>={major}.{oldest},<{major}.{newest + 1}"


if __name__ == "__main__":
    # For shell scripts.
    if sys.argv[1:] == ["environments"]:
        print(*environments(), sep="\n")
    else:
        print(any_tensorflow())
