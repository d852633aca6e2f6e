"""The iam dialect: op classes and enumerations generated from the .td files, and the features type."""

from .._mlir_libs._mlirDialectsIAM import FeaturesType as FeaturesType
from ._iam_enum_gen import *
from ._iam_ops_gen import *
