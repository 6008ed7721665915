"""Networks, normalisation, and loading of trained classifiers and of users' own models."""

from unmask.models.adapters import bpda, expectation, from_probabilities
from unmask.models.black_box import from_numpy
from unmask.models.loading import LoadedModel, load_model
from unmask.models.normalize import Normalize, PerImageStandardize
from unmask.models.onnx_model import from_onnx
from unmask.models.other_libraries import from_timm, from_transformers
from unmask.models.registry import ARCHITECTURES, build
from unmask.models.zoo import zoo_card, zoo_names

__all__ = [
    "ARCHITECTURES",
    "LoadedModel",
    "Normalize",
    "PerImageStandardize",
    "bpda",
    "build",
    "expectation",
    "from_numpy",
    "from_onnx",
    "from_probabilities",
    "from_timm",
    "from_transformers",
    "load_model",
    "zoo_card",
    "zoo_names",
]
