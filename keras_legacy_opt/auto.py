"""`import keras_legacy_opt.auto`, before Keras: `install(top_level=True)`."""

from keras_legacy_opt import drop_in

drop_in.install(top_level=True)
