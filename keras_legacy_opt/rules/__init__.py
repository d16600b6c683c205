"""The optimizers: one file each, and in it everything that makes it one.

`formula.py` says what a declaration consists of, `declared.py` makes legacy's
methods of it.
"""
