"""The formats, each of which is one codec: a module with these functions.

* `detect`: whether a source is of the format;
* `read`: the `Contents` of it;
* `locate`: which of its weights are which variables of a model;
* `unsaid`, `as_objects`: what a conversion has to know;
* `write`, of those that are written;
* `optimizer_config` and `model_config`, of those that have them.

In a file of Keras 3, only Keras itself knows which weight is which: its codec
has `restore` and `place`, and `locate` only for what is of the optimizer.
"""
