// What the generator of the Python classes reads.
#ifndef IAM_PYTHON_OPS
#define IAM_PYTHON_OPS
include "iam/Dialect/IAM/IR/IAMOps.td"
#endif
