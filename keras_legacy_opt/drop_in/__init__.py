"""This package's classes under the names that legacy's had in Keras."""

from keras_legacy_opt.drop_in.installation import (
    install,
    installed,
    uninstall,
)

__all__ = ["install", "installed", "uninstall"]
