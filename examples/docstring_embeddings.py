"""Learn word embeddings from the docstrings of Python's standard library.

Skip-gram with negative sampling (Mikolov et al., 2013): a word's vector shall
tell its neighbours in the text from randomly drawn words.  Every gradient is a
tf.IndexedSlices.  The loss on held-out modules is compared with the best that
can be done without looking at the word, and the nearest neighbours of some
words are printed.
"""

import argparse
import ast
import collections
import pathlib
import re
import sys
import sysconfig
import time
import warnings

import numpy as np
import tensorflow as tf
from common import positive

import keras_legacy_opt

WINDOW = 3
NEGATIVES = 5
SIZE = 64
BATCH = 1024
MIN_COUNT = 15
# The held-out loss has to come below this share of the baseline.
LOSS_GOAL = 0.97
SHOWN = ("file", "returns", "true", "string", "bytes", "socket", "year")


def docstrings():
    """Yield the docstrings of each module of the standard library as a list."""
    root = pathlib.Path(sysconfig.get_path("stdlib"))
    skipped = {"test", "tests", "idlelib", "lib2to3", "site-packages"}
    for path in sorted(root.rglob("*.py")):
        if skipped.intersection(path.relative_to(root).parts):
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # About escapes in the source.
            tree = ast.parse(path.read_bytes())
        documented = (
            ast.Module,
            ast.ClassDef,
            ast.FunctionDef,
            ast.AsyncFunctionDef,
        )
        found = [
            text
            for node in ast.walk(tree)
            if isinstance(node, documented)
            and (text := ast.get_docstring(node))
        ]
        if found:
            yield found


def word_pairs(texts, numbers):
    """Return (word, neighbour) for all words at most WINDOW apart."""
    pairs = []
    for words in texts:
        row = np.array([numbers[w] for w in words if w in numbers], np.int32)
        for distance in range(1, WINDOW + 1):
            near, far = row[:-distance], row[distance:]
            pairs += [np.stack([near, far], 1), np.stack([far, near], 1)]
    return np.concatenate(pairs)


def read_corpus():
    """Return the vocabulary and the training and held-out pairs."""
    train, held_out = [], []
    for number, texts in enumerate(docstrings()):
        chosen = held_out if number % 10 == 9 else train
        chosen += [re.findall(r"[a-z]{2,}", text.lower()) for text in texts]
    counts = collections.Counter(word for words in train for word in words)
    vocabulary = [w for w, n in counts.most_common() if n >= MIN_COUNT]
    numbers = {word: number for number, word in enumerate(vocabulary)}
    return vocabulary, word_pairs(train, numbers), word_pairs(held_out, numbers)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=positive, default=4000)
    args = parser.parse_args()

    vocabulary, train, held_out = read_corpus()
    print(
        f"{len(vocabulary)} words, {len(train)} training pairs, "
        f"{len(held_out)} held-out pairs"
    )
    rng = np.random.default_rng(0)

    def batch(pairs, size, rng):
        """Return words, and for each its neighbour and random words."""
        rows = pairs[rng.integers(len(pairs), size=size)]
        # Neighbours of other words: drawn as often as they occur.
        noise = pairs[rng.integers(len(pairs), size=(size, NEGATIVES)), 1]
        return rows[:, 0], np.concatenate([rows[:, 1:], noise], 1)

    shape = (len(vocabulary), SIZE)
    words_table = tf.Variable(
        rng.uniform(-0.5 / SIZE, 0.5 / SIZE, shape).astype(np.float32)
    )
    neighbours_table = tf.Variable(tf.zeros(shape))
    tables = [words_table, neighbours_table]
    optimizer = keras_legacy_opt.Adam(learning_rate=1e-3)

    # Without looking at the word, the best guess is the share of neighbours
    # among the candidates; scores are relative to it.
    share = 1 / (1 + NEGATIVES)
    baseline = -np.log(share) - NEGATIVES * np.log(1 - share)

    def loss_of(words, candidates):
        scores = tf.einsum(
            "bd,bcd->bc",
            tf.gather(words_table, words),
            tf.gather(neighbours_table, candidates),
        ) - np.log(NEGATIVES)
        is_neighbour = tf.one_hot(tf.zeros_like(words), NEGATIVES + 1)
        entropy = tf.nn.sigmoid_cross_entropy_with_logits(is_neighbour, scores)
        return tf.reduce_mean(tf.reduce_sum(entropy, axis=1))

    @tf.function
    def step(words, candidates):
        with tf.GradientTape() as tape:
            loss = loss_of(words, candidates)
        gradients = tape.gradient(loss, tables)
        assert all(isinstance(g, tf.IndexedSlices) for g in gradients)
        optimizer.apply_gradients(zip(gradients, tables, strict=True))
        return loss

    held_out_batch = batch(held_out, 20 * BATCH, np.random.default_rng(0))
    start = time.perf_counter()
    losses = []
    for number in range(1, args.steps + 1):
        losses.append(step(*batch(train, BATCH, rng)))
        if number % max(args.steps // 5, 1) == 0:
            print(
                f"step {number}: training loss {np.mean(losses):.3f}, held-out "
                f"loss {loss_of(*held_out_batch):.3f} (baseline {baseline:.3f})"
            )
            losses.clear()
    seconds = time.perf_counter() - start
    print(f"{args.steps / seconds:.0f} steps/s in {seconds:.1f} s")

    vectors = tf.math.l2_normalize(words_table, axis=1).numpy()
    for word in SHOWN:
        if word in vocabulary:
            nearest = np.argsort(-vectors @ vectors[vocabulary.index(word)])
            print(f"{word}:", *(vocabulary[i] for i in nearest[1:7]))

    ratio = float(loss_of(*held_out_batch)) / baseline
    ok = ratio < LOSS_GOAL
    print(
        f"held-out loss {ratio:.1%} of the baseline, below {LOSS_GOAL:.0%}:", ok
    )
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
