// iam._runtime: the kernels of cpp/ for NumPy. A table of contents; each topic has its own file.
#include "bindings.h"

PYBIND11_MODULE(_runtime, m) {
  m.doc() =
      "IAM's native kernels. Arrays in and out are NumPy; errors are those of iam.core.errors.";
  iam::py_::bindCore(m);     // threads, CPU level, memory pool
  iam::py_::bindClt(m);      // encoders, activations, decoders, edits
  iam::py_::bindSteering(m); // steer
  iam::py_::bindTraining(m); // gradients, optimisers
  iam::py_::bindProgram(m);  // calls of compiled programs
  iam::py_::bindModel(m);    // parts of models that programs run
}
