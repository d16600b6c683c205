"""A step, as data that flows one way.

(gradient, variable) pairs become `Update`s, a `Chain` says what is left to do
to their gradients, each is taken by a backend, and runs alone or in a group.
"""
