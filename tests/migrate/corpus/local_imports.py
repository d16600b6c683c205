# Imports in functions, and after what is tried.
try:
    import tensorflow.keras as keras
except ImportError:
    import keras


def build(name="adam"):
    from keras.optimizers.optimizer_v2 import gradient_descent
    from keras.optimizers.optimizer_v2.adam import Adam
    if name == "adam": return Adam(0.1)
    return gradient_descent.SGD(0.1)


def tune(lr):
    import tensorflow as tf; opt = tf.keras.optimizers.SGD(lr); return opt
