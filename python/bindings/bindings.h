// What the topics of the binding share.
#pragma once

#include "iam/clt/features.h"
#include "iam/core/status.h"
#include "iam/core/view.h"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <optional>
#include <string>

namespace iam::py_ {

namespace py = pybind11;

void bindCore(py::module_ &m);
void bindClt(py::module_ &m);
void bindSteering(py::module_ &m);
void bindTraining(py::module_ &m);
void bindProgram(py::module_ &m);
void bindModel(py::module_ &m);

/// Raises the class of iam.core.errors that belongs to a failed status.
void check(const rt::Status &status);
[[noreturn]] void raise(rt::Code code, const std::string &message);
[[noreturn]] void raiseDtype(const std::string &message);

/// Runs a kernel without the GIL; what it throws or returns becomes an exception of ours.
template <typename Kernel> void call(const char *op, Kernel &&kernel) {
  rt::Status status;
  {
    py::gil_scoped_release release;
    status = rt::guarded(op, kernel);
  }
  check(status);
}

/// A NumPy argument seen as a matrix or vector of T. C-contiguous rows are not copied; any other
/// layout is. The dtype must be T's own: a silent conversion would hide a copy of a weight matrix.
template <typename T> class Input {
public:
  Input() = default; // empty
  Input(const char *op, const char *name, const py::object &object, int rank);

  rt::Mat<const T> mat() const { return {data, rows, cols, stride}; }
  rt::Vec<const T> vec() const { return {data, cols}; }

private:
  py::object keep;
  const T *data = nullptr;
  int64_t rows = 0, cols = 0, stride = 0;
};

/// As Input, but None is an empty view.
template <typename T>
Input<T> optional(const char *op, const char *name, const py::object &object, int rank);

/// A NumPy array over a pool block, which it gives back when it dies.
template <typename T>
py::array adopt(rt::Buffer<T> &&buffer, std::initializer_list<py::ssize_t> shape);
py::array adopt(void *block, const py::dtype &dtype, const py::ssize_t *shape, int rank);

} // namespace iam::py_
