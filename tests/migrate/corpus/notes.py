import keras
import tensorflow as tf
import tensorflow_addons as tfa
from tensorflow_addons.optimizers import AdamW as AW
from tensorflow.keras import backend as K
from tensorflow.keras.optimizers import *

import keras_legacy_opt as klo

optimizer = getattr(tf.keras.optimizers, "Adam")(0.1)
other = tf.keras.optimizers.Lion(0.1)
model = build_model(optimizer="sgd")
model.save("folder", save_format="tf")
checkpoint = tf.train.Checkpoint(model=model)
gradients = K.function([model.input], [model.output])
old = keras.backend.int_shape(model.output)
own = keras.optimizers.Adam()
ko = tf.keras.optimizers
new = ko.AdamW(0.1)
