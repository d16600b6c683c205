"""What the examples share: the digits data and command-line checks."""

import argparse

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split


def digits():
    """Return x_train, x_test, y_train, y_test: 8x8 images of digits, 0-16."""
    images, labels = load_digits(return_X_y=True)
    return train_test_split(
        images.reshape(-1, 8, 8, 1).astype(np.float32),
        labels.astype(np.int32),
        test_size=360,
        random_state=0,
        stratify=labels,
    )


def positive(text):
    """Parse a positive integer for argparse."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not positive")
    return number
