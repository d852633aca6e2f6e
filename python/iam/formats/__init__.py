"""Weight formats, published and IAM's own, one module each: read and write. docs/formats.md has what each of them stores.

>>> sorted(FORMATS)  # doctest: +NORMALIZE_WHITESPACE
['circuit_tracer', 'circuit_tracer_clt', 'dictionary_learning', 'gemma_scope', 'gemma_scope_2', 'iam', 'llama_scope',
 'llama_scope_r1', 'saelens', 'sparsify', 'state_dict']
"""

from iam.formats._detect import FORMATS, Detected, detect, load, save
from iam.formats._lazy import LazyTensor
from iam.formats._pretrained import Release, from_pretrained, releases, resolve
from iam.formats._raw import RawCoder
from iam.formats._safetensors import SafetensorsFile, TensorInfo, write_safetensors

__all__ = [
    "FORMATS",
    "Detected",
    "LazyTensor",
    "RawCoder",
    "Release",
    "SafetensorsFile",
    "TensorInfo",
    "detect",
    "from_pretrained",
    "load",
    "releases",
    "resolve",
    "save",
    "write_safetensors",
]
