"""Published weight formats, one file each: read and write."""

from iam.formats._safetensors import SafetensorsFile, TensorInfo, write_safetensors

__all__ = ["SafetensorsFile", "TensorInfo", "write_safetensors"]
