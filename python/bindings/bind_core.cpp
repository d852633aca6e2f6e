// Threads, CPU level, memory pool; and the conversions that the other topics use.
#include "bindings.h"

#include "iam/core/cpu.h"
#include "iam/core/fingerprint.h"
#include "iam/core/pool.h"
#include "iam/core/threads.h"

#include <pybind11/stl.h>

namespace iam::py_ {

namespace {

std::string shapeText(const py::array &a) {
  std::string text = "(";
  for (py::ssize_t i = 0; i < a.ndim(); ++i)
    text += (i ? ", " : "") + std::to_string(a.shape(i));
  return text + (a.ndim() == 1 ? ",)" : ")");
}

} // namespace

template <typename T>
Input<T>::Input(const char *op, const char *name, const py::object &object, int rank) {
  if (!py::isinstance<py::array>(object))
    raiseDtype(std::string(op) + ": expected " + name + " as a NumPy array, got " +
               std::string(py::str(py::type::of(object).attr("__name__"))));
  py::array a = py::reinterpret_borrow<py::array>(object);
  if (!py::isinstance<py::array_t<T>>(a))
    raiseDtype(std::string(op) + ": expected " + name + " of dtype " +
               std::string(py::str(py::dtype::of<T>())) + ", got " +
               std::string(py::str(a.dtype())) + "; convert it with .astype");
  if (a.ndim() != rank)
    raise(rt::Code::kShapeMismatch, std::string(op) + ": expected " + name + " of rank " +
                                        std::to_string(rank) + ", got shape " + shapeText(a));
  const auto unit = static_cast<py::ssize_t>(sizeof(T));
  const bool rows2 = rank == 2;
  const py::ssize_t inner = a.shape(rank - 1), outer = rows2 ? a.shape(0) : 1;
  const bool aligned = reinterpret_cast<std::uintptr_t>(a.data()) % sizeof(T) == 0;
  const bool plain =
      (inner <= 1 || a.strides(rank - 1) == unit) && aligned &&
      (!rows2 || outer <= 1 || (a.strides(0) % unit == 0 && a.strides(0) >= inner * unit));
  if (!plain) {
    a = py::array_t<T, py::array::c_style | py::array::forcecast>(a);
  }
  keep = a;
  data = static_cast<const T *>(a.data());
  rows = outer;
  cols = inner;
  stride = rows2 && outer > 1 ? a.strides(0) / unit : inner;
}

template <typename T>
Input<T> optional(const char *op, const char *name, const py::object &object, int rank) {
  return object.is_none() ? Input<T>() : Input<T>(op, name, object, rank);
}

template class Input<float>;
template class Input<int32_t>;
template class Input<int64_t>;
template Input<float> optional(const char *, const char *, const py::object &, int);
template Input<int32_t> optional(const char *, const char *, const py::object &, int);
template Input<int64_t> optional(const char *, const char *, const py::object &, int);

py::array adopt(void *block, const py::dtype &dtype, const py::ssize_t *shape, int rank) {
  py::capsule owner(block, [](void *p) { rt::pool::release(p); });
  return py::array(dtype, std::vector<py::ssize_t>(shape, shape + rank), block, owner);
}

template <typename T>
py::array adopt(rt::Buffer<T> &&buffer, std::initializer_list<py::ssize_t> shape) {
  return adopt(buffer.release(), py::dtype::of<T>(), shape.begin(), static_cast<int>(shape.size()));
}

template py::array adopt(rt::Buffer<float> &&, std::initializer_list<py::ssize_t>);
template py::array adopt(rt::Buffer<int32_t> &&, std::initializer_list<py::ssize_t>);
template py::array adopt(rt::Buffer<int64_t> &&, std::initializer_list<py::ssize_t>);

void bindCore(py::module_ &m) {
  m.def(
      "set_num_threads",
      [](int n) {
        rt::Status status;
        {
          py::gil_scoped_release release;
          status = rt::setNumThreads(n);
        }
        check(status);
      },
      py::arg("n"), "Number of threads that kernels use, the caller's included.");
  m.def("get_num_threads", &rt::numThreads,
        "IAM_NUM_THREADS if set, else the number of hardware threads.");
  m.def(
      "cpu_level",
      [] {
        std::string name;
        check(rt::cpuLevel(name));
        return name;
      },
      "The CPU level whose kernels are in use, e.g. 'x86-64-v3'. IAM_CPU_LEVEL forces one.");
  m.def("available_cpu_levels", &rt::availableCpuLevels,
        "Levels that were built and that this CPU runs, weakest first.");
  m.def(
      "set_cpu_level", [](const std::string &name) { check(rt::setCpuLevel(name)); },
      py::arg("name"), "Use the kernels of another level from the next call on.");
  m.def(
      "pool_stats",
      [] {
        const rt::pool::Stats s = rt::pool::stats();
        py::dict d;
        d["requests"] = s.requests;
        d["reuses"] = s.reuses;
        d["bytes_in_use"] = s.bytesInUse;
        d["bytes_cached"] = s.bytesCached;
        d["peak_bytes"] = s.peakBytes;
        d["blocks_in_use"] = s.blocksInUse;
        return d;
      },
      "Counters of the memory pool that results and scratch come from.");
  m.def("pool_trim", &rt::pool::trim,
        "Return kept blocks to the system; the number of bytes returned.");
  m.def("pool_reset_peak", &rt::pool::resetPeak, "Start a new measurement of peak_bytes.");
  m.def(
      "fingerprint",
      [](const py::array &a) {
        if (!(a.flags() & py::array::c_style))
          throw py::value_error("fingerprint: expected a C-contiguous array");
        rt::Fingerprint out{};
        rt::Status status;
        {
          py::gil_scoped_release release;
          status = rt::fingerprint(a.data(), static_cast<std::size_t>(a.nbytes()), out);
        }
        check(status);
        return py::make_tuple(out[0], out[1]);
      },
      py::arg("a"), "128 bits that tell whether the array's memory holds what it held.");
  m.def(
      "data_pointer", [](const py::array &a) { return reinterpret_cast<std::uintptr_t>(a.data()); },
      py::arg("a"), "Address of the first element of an array: what tests of zero-copy compare.");
}

} // namespace iam::py_
