"""`python -m keras_legacy_opt migrate`: rewrites code that names legacy's."""
