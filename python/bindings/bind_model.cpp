// Parts of a model, which Python has: iam/model/segments.h.
#include "frame.h"

#include "iam/core/pool.h"
#include "iam/model/segments.h"

namespace iam::py_ {
namespace {

// What set_model_host was given; never destroyed, programs may outlive the module.
struct Callbacks {
  py::object run, linearize, pullback, rows;
};
Callbacks *callbacks = nullptr;

py::object numbers(const rt::Vec<const int32_t> *chosen) {
  if (!chosen)
    return py::none();
  py::list list;
  for (const int32_t number : *chosen)
    list.append(number);
  return std::move(list);
}

// The program's memory, for the time of the call.
py::object seen(rt::Mat<const float> m) {
  if (!m.data)
    return py::none();
  const py::capsule nobody(m.data, [](void *) {});
  return py::array(py::dtype::of<float>(), {m.rows, m.cols},
                   {m.stride * static_cast<int64_t>(sizeof(float)), int64_t(sizeof(float))}, m.data,
                   nobody);
}

// An array that Python made, as a result: without a copy.
rt::Status take(const char *op, const py::object &object, rt::model::Activation &y) {
  py::array array = py::reinterpret_borrow<py::array>(object);
  if (!py::isinstance<py::array>(object) || array.ndim() != 2 ||
      !array.dtype().equal(py::dtype::of<float>()) || !(array.flags() & py::array::c_style))
    return rt::Status(rt::Code::kInternal,
                      std::string(op) + ": expected the model's host to return a float32 matrix");
  y.rows = array.shape(0);
  y.cols = array.shape(1);
  void *data = array.mutable_data();
  const auto drop = [](void *owner) {
    if (!Py_IsInitialized())
      return;
    const py::gil_scoped_acquire gil;
    Py_DECREF(static_cast<PyObject *>(owner));
  };
  if (array.size() != 0 && rt::pool::adopt(data, drop, array.inc_ref().ptr())) {
    y.data = static_cast<float *>(data);
    return {};
  }
  // Nothing to adopt, or memory that is a result already: a copy is always safe.
  rt::Buffer<float> copy;
  const rt::Status status = copy.resize(array.size(), op);
  if (!status.ok())
    return status;
  std::copy(static_cast<const float *>(data), static_cast<const float *>(data) + array.size(),
            copy.data());
  y.data = copy.release();
  return {};
}

// Calls body with the GIL; an exception waits in the frame for the program to return.
template <typename Body> rt::Status asked(const char *op, Body &&body) {
  const py::gil_scoped_acquire gil;
  Frame *frame = Frame::current();
  if (!callbacks || !frame)
    return rt::Status(rt::Code::kInvalidArgument,
                      std::string(op) + ": expected a call from Python, got another one");
  try {
    return body(*frame);
  } catch (py::error_already_set &error) {
    frame->error = std::make_unique<py::error_already_set>(std::move(error));
    return rt::Status(rt::Code::kInternal, std::string(op) + ": the model failed");
  }
}

py::object handle(const rt::model::Part &part, const py::object &function) {
  return function(part.model, seen(part.h), part.from, part.to, numbers(part.tokens),
                  numbers(part.positions));
}

rt::Status run(const rt::model::Part &part, rt::model::Activation &y) {
  constexpr const char *op = "iam.model.run";
  return asked(op, [&](Frame &) { return take(op, handle(part, callbacks->run), y); });
}

rt::Status linearize(const rt::model::Part &part, rt::model::Activation &y, int64_t &tape) {
  constexpr const char *op = "iam.model.linearize";
  return asked(op, [&](Frame &frame) {
    const py::tuple found = handle(part, callbacks->linearize);
    tape = frame.keep(found[1], part.h.rows);
    return take(op, found[0], y);
  });
}

rt::Status pullback(int64_t tape, rt::Mat<const float> dy, rt::model::Activation &dh) {
  constexpr const char *op = "iam.model.pullback";
  return asked(op, [&](Frame &frame) {
    return take(
        op, callbacks->pullback(frame.tapes.at(static_cast<std::size_t>(tape)).object, seen(dy)),
        dh);
  });
}

int64_t rows(const rt::model::Part &part) {
  const py::gil_scoped_acquire gil;
  if (!callbacks)
    return 0;
  try {
    const int64_t given = part.h.data ? part.h.rows : -1;
    return py::cast<int64_t>(callbacks->rows(part.model, given, numbers(part.positions)));
  } catch (py::error_already_set &) {
    return 0;
  }
}

int64_t failedTape(int64_t rows) {
  const py::gil_scoped_acquire gil;
  Frame *frame = Frame::current();
  return frame ? frame->keep(py::none(), rows) : -1;
}

int64_t rowsOfTape(int64_t tape) {
  Frame *frame = Frame::current();
  return frame && tape >= 0 && static_cast<std::size_t>(tape) < frame->tapes.size()
             ? frame->tapes[static_cast<std::size_t>(tape)].rows
             : 0;
}

} // namespace

Frame *&Frame::current() {
  thread_local Frame *frame = nullptr;
  return frame;
}

void bindModel(py::module_ &m) {
  m.def(
      "set_model_host",
      [](const py::object &run_, const py::object &linearize_, const py::object &pullback_,
         const py::object &rows_) {
        if (!callbacks)
          callbacks = new Callbacks;
        *callbacks = {run_, linearize_, pullback_, rows_};
        rt::model::setHost({run, linearize, pullback, rows, failedTape, rowsOfTape});
      },
      py::arg("run"), py::arg("linearize"), py::arg("pullback"), py::arg("rows"),
      "Who runs parts of models for compiled programs. `run(model, h, from, to, tokens, "
      "positions)` returns a float32 matrix, "
      "`linearize` that and a tape, `pullback(tape, dy)` a matrix, `rows(model, rows of h or -1, "
      "positions)` how many rows run gives.");
}

} // namespace iam::py_
