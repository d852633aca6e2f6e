// Status -> iam.core.errors.
#include "bindings.h"

namespace iam::py_ {
namespace {

struct Class {
  const char *name, *code;
};

Class classOf(rt::Code code) {
  switch (code) {
  case rt::Code::kOk:
    break;
  case rt::Code::kInvalidArgument:
    return {"ArgumentError", "argument"};
  case rt::Code::kShapeMismatch:
    return {"ShapeError", "shape"};
  case rt::Code::kKRange:
    return {"ArgumentError", "k-range"};
  case rt::Code::kMode:
    return {"ArgumentError", "mode"};
  case rt::Code::kNonFinite:
    return {"NonFiniteError", "non-finite"};
  case rt::Code::kFeatureRange:
    return {"ArgumentError", "feature-range"};
  case rt::Code::kFeatureDuplicate:
    return {"ArgumentError", "feature-duplicate"};
  case rt::Code::kPolicy:
    return {"PolicyError", "policy"};
  case rt::Code::kOutOfMemory:
    return {"OutOfMemoryError", "out-of-memory"};
  case rt::Code::kInternal:
    return {"InternalError", "internal"};
  }
  return {"InternalError", "internal"};
}

[[noreturn]] void raiseClass(const char *name, const char *code, const std::string &message) {
  const py::object type = py::module_::import("iam.core.errors").attr(name);
  const py::object error = type(message, py::arg("code") = code);
  PyErr_SetObject(type.ptr(), error.ptr());
  throw py::error_already_set();
}

} // namespace

void raise(rt::Code code, const std::string &message) {
  const Class c = classOf(code);
  raiseClass(c.name, c.code, message);
}

void raiseDtype(const std::string &message) { raiseClass("DtypeError", "dtype", message); }

void check(const rt::Status &status) {
  if (status.ok())
    return;
  if (status.code() != rt::Code::kPolicy)
    raise(status.code(), status.message());
  const py::object type = py::module_::import("iam.core.errors").attr("PolicyError");
  const py::object error =
      type(status.message(), py::arg("row") = status.row(), py::arg("margin") = status.margin());
  PyErr_SetObject(type.ptr(), error.ptr());
  throw py::error_already_set();
}

} // namespace iam::py_
