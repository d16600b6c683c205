"""Which architectures are built: those that consist of Keras' own parts.

An architecture names classes and functions, and both Kerases call what it
names; tf_keras, anything that can be imported.  A file may come from anyone, so
it is compared with the lists below before a Keras sees it.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from typing import Any

# Not: Lambda, TFSMLayer, TensorFlowOpLayer, TorchModuleWrapper, JaxLayer,
# FlaxLayer, DenseFeatures, ClassMethod, InstanceMethod and the like, which run
# what their configurations say.
_CLASSES = frozenset(
    """
    Functional Model Sequential
    Activation ActivityRegularization AdaptiveAveragePooling1D
    AdaptiveAveragePooling2D AdaptiveAveragePooling3D AdaptiveMaxPooling1D
    AdaptiveMaxPooling2D AdaptiveMaxPooling3D Add AdditiveAttention AlphaDropout
    Attention AugMix AutoContrast Average AveragePooling1D AveragePooling2D
    AveragePooling3D AvgPool1D AvgPool2D AvgPool3D BatchNormalization
    BatchNormalizationV1 BatchNormalizationV2 Bidirectional CategoryEncoding
    CenterCrop Concatenate Conv1D Conv1DTranspose Conv2D Conv2DTranspose Conv3D
    Conv3DTranspose ConvLSTM1D ConvLSTM2D ConvLSTM3D Convolution1D
    Convolution1DTranspose Convolution2D Convolution2DTranspose Convolution3D
    Convolution3DTranspose Cropping1D Cropping2D Cropping3D CuDNNGRU CuDNNLSTM
    CutMix Dense DepthwiseConv1D DepthwiseConv2D Discretization Dot Dropout ELU
    EinsumDense Embedding Equalization Flatten GRU GRUCell GRUCellV1 GRUCellV2
    GRUV1 GRUV2 GaussianDropout GaussianNoise GlobalAveragePooling1D
    GlobalAveragePooling2D GlobalAveragePooling3D GlobalAvgPool1D
    GlobalAvgPool2D GlobalAvgPool3D GlobalMaxPool1D GlobalMaxPool2D
    GlobalMaxPool3D GlobalMaxPooling1D GlobalMaxPooling2D GlobalMaxPooling3D
    GroupNormalization GroupQueryAttention HashedCrossing Hashing Identity
    InputLayer IntegerLookup LSTM LSTMCell LSTMCellV1 LSTMCellV2 LSTMV1 LSTMV2
    LayerNormalization LeakyReLU LocallyConnected1D LocallyConnected2D Masking
    MaxPool1D MaxPool2D MaxPool3D MaxPooling1D MaxPooling2D MaxPooling3D Maximum
    MelSpectrogram Minimum MixUp MultiHeadAttention Multiply Normalization PReLU
    Permute Pipeline RMSNormalization RNN RandAugment RandomBrightness
    RandomColorDegeneration RandomColorJitter RandomContrast RandomCrop
    RandomElasticTransform RandomErasing RandomFlip RandomGaussianBlur
    RandomGrayscale RandomHeight RandomHue RandomInvert RandomPerspective
    RandomPosterization RandomRotation RandomSaturation RandomSharpness
    RandomShear RandomTranslation RandomWidth RandomZoom ReLU RepeatVector
    Rescaling Reshape Resizing ReversibleEmbedding STFTSpectrogram
    SeparableConv1D SeparableConv2D SeparableConvolution1D
    SeparableConvolution2D SimpleRNN SimpleRNNCell Softmax Solarization
    SpatialDropout1D SpatialDropout2D SpatialDropout3D SpectralNormalization
    StackedRNNCells StringLookup Subtract SyncBatchNormalization
    TextVectorization ThresholdedReLU TimeDistributed UnitNormalization
    UpSampling1D UpSampling2D UpSampling3D ZeroPadding1D ZeroPadding2D
    ZeroPadding3D
    Constant GlorotNormal GlorotUniform HeNormal HeUniform IdentityInitializer
    LecunNormal LecunUniform Ones Orthogonal OrthogonalInitializer RandomNormal
    RandomUniform STFT STFTInitializer TruncatedNormal VarianceScaling Zeros
    L1 L1L2 L2 OrthogonalRegularizer
    MaxNorm MinMaxNorm NonNeg RadialConstraint UnitNorm
    AWQDTypePolicy DTypePolicy DTypePolicyMap FloatDTypePolicy GPTQDTypePolicy
    Int4DTypePolicy Policy PolicyV1 QuantizedDTypePolicy
    QuantizedFloat8DTypePolicy SeedGenerator
    """.split()
)
_ACTIVATIONS = frozenset(
    """
    celu elu exponential gelu glu hard_shrink hard_sigmoid hard_silu hard_swish
    hard_tanh leaky_relu linear log_sigmoid log_softmax mish relu relu6 selu
    sigmoid silu soft_shrink softmax softplus softsign sparse_plus
    sparse_sigmoid sparsemax squareplus swish tanh tanh_shrink threshold
    """.split()
)
# What stands for values; none is called.
_VALUES = frozenset(
    """
    TensorShape __bytes__ __ellipsis__ __keras_tensor__ __numpy__ __slice__
    __tensor__ __tuple__
    """.split()
)
_DTYPE = re.compile(r"bfloat16|bool|(u?int|float|complex)\d{1,3}|string")
_MODULE = re.compile(r"(tf_)?keras(\.\w+)*")
# Keras 3 has its functions of tensors as classes.
_OPS = re.compile(r"keras\.src\.ops\.(core|image|linalg|math|nn|numpy)")
# Of tf_keras' TFOpLambda and SlicingOpLambda: functions of tensors only.
_OP_LAYERS = frozenset(["TFOpLambda", "SlicingOpLambda"])
_TF_FUNCTION = re.compile(
    r"(__operators__|math|nn|linalg)\.\w+|broadcast_to|cast|clip_by_value|concat"
    r"|convert_to_tensor|expand_dims|gather|identity|ones_like|pad|repeat"
    r"|reshape|reverse|shape|split|squeeze|stack|tile|transpose|unstack|where"
    r"|zeros_like"
)
# Keras reads files that these name.
_FILES = ("vocabulary", "idf_weights", "file_path", "filepath")


class Untrusted(ValueError):
    """An architecture has a part that is not one of Keras' own."""


def checked(config: Any, registered: Callable[[str], Any]) -> Any:
    """A copy of an architecture's configuration without what `compile` took.

    Args:
      config: as JSON has it.
      registered: function that finds what was registered in this process, with
        the Keras that will build the model; such classes are the user's own.

    Raises:
      Untrusted: if it names anything that Keras does not need.
    """
    if isinstance(config, list):
        return [checked(part, registered) for part in config]
    if not isinstance(config, dict):
        return config
    if "class_name" in config:
        _check(config, registered)
    for name in _FILES:
        if isinstance(config.get(name), str):
            raise Untrusted(f"it reads a file, {config[name]!r}")
    return {
        name: checked(part, registered)
        for name, part in config.items()
        if name != "compile_config"
    }


def _check(config: dict[str, Any], registered: Callable[[str], Any]) -> None:
    name, module = config["class_name"], config.get("module")
    own_name = config.get("registered_name", name)
    texts = (name, module or "", own_name or "")
    if not all(isinstance(text, str) for text in texts):
        raise Untrusted(f"it has a part called {texts!r}")
    inner = config.get("config")
    if name == "function":
        if not isinstance(inner, str):
            raise Untrusted(f"it has a function called {inner!r}")
        is_known = registered(inner) is not None or (
            inner in _ACTIVATIONS
            and module in (None, "builtins", "keras.activations")
        )
        if not is_known or own_name not in (None, name, inner):
            raise Untrusted(f"it calls the function {inner!r} of {module!r}")
        return
    if "module" in config and own_name and registered(own_name) is not None:
        return
    if own_name in (None, name) and (
        name in _VALUES
        or (name in _CLASSES and _MODULE.fullmatch(module or "keras"))
        or (name in _OP_LAYERS and _is_harmless(inner))
        or _is_operation(name, module)
        or ("module" not in config and registered(name) is not None)
    ):
        if name in ("__numpy__", "__tensor__") and not _has_dtype(inner):
            raise Untrusted(f"it has an array of {inner!r}")
        return
    raise Untrusted(
        f"it has a part of class {name!r}"
        + (f" of module {module!r}" if module else "")
        + ", which is not one that Keras needs, nor registered"
    )


def _is_harmless(config: Any) -> bool:
    function = config.get("function") if isinstance(config, dict) else None
    return isinstance(function, str) and bool(_TF_FUNCTION.fullmatch(function))


def _is_operation(name: str, module: str | None) -> bool:
    if not module or not _OPS.fullmatch(module):
        return False
    keras = importlib.import_module("keras")
    try:
        found = vars(importlib.import_module(module)).get(name)
    except ImportError:
        return False
    return isinstance(found, type) and issubclass(found, keras.Operation)


def _has_dtype(config: Any) -> bool:
    dtype = config.get("dtype") if isinstance(config, dict) else None
    return isinstance(dtype, str) and bool(_DTYPE.fullmatch(dtype))
