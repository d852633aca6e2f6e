// Calls of compiled programs: NumPy arrays to memref descriptors, and back.
#include "frame.h"

#include "iam/abi.h"
#include "iam/core/pool.h"

#include <pybind11/stl.h>

#include <cstring>
#include <utility>
#include <vector>

namespace iam::py_ {
namespace {

constexpr int kMaxRank = 8;

struct Kind {
  std::string name; // f32, f64, i32, i64
  int rank;         // -1: a scalar by value
  py::dtype dtype;
  py::ssize_t size;

  static Kind of(const std::pair<std::string, int> &spec) {
    const auto &[name, rank] = spec;
    if (rank < -1 || rank > kMaxRank)
      raise(rt::Code::kInvalidArgument, "Program: expected ranks in -1.." +
                                            std::to_string(kMaxRank) + ", got " +
                                            std::to_string(rank));
    if (name == "f32")
      return {name, rank, py::dtype::of<float>(), 4};
    if (name == "f64")
      return {name, rank, py::dtype::of<double>(), 8};
    if (name == "i32")
      return {name, rank, py::dtype::of<int32_t>(), 4};
    if (name == "i64")
      return {name, rank, py::dtype::of<int64_t>(), 8};
    raise(rt::Code::kInvalidArgument,
          "Program: expected dtype f32, f64, i32 or i64, got \"" + name + "\"");
  }
};

// A descriptor of a memref of any rank: allocated, aligned, offset, sizes, strides.
struct Descriptor {
  void *allocated;
  void *aligned;
  int64_t offset;
  int64_t extents[2 * kMaxRank];
  static int64_t bytes(int rank) {
    return static_cast<int64_t>(2 * sizeof(void *) + 8 + 16 * rank);
  }
};

union Scalar {
  float f32;
  double f64;
  int32_t i32;
  int64_t i64;
};

class Program {
public:
  Program(std::uintptr_t address, const std::vector<std::pair<std::string, int>> &inputSpecs,
          const std::vector<std::pair<std::string, int>> &resultSpecs)
      : entry(reinterpret_cast<Entry>(address)) {
    if (!address)
      raise(rt::Code::kInvalidArgument,
            "Program: expected the address of a compiled function, got 0");
    for (const auto &spec : inputSpecs)
      inputs.push_back(Kind::of(spec));
    for (const auto &spec : resultSpecs) {
      results.push_back(Kind::of(spec));
      if (results.back().rank < 0)
        raise(rt::Code::kInvalidArgument,
              "Program: expected results of rank >= 0, got a scalar by value");
      resultBytes += Descriptor::bytes(results.back().rank);
    }
  }

  py::tuple operator()(const py::args &args) const {
    if (args.size() != inputs.size())
      raise(rt::Code::kInvalidArgument, "Program: expected " + std::to_string(inputs.size()) +
                                            " arguments, got " + std::to_string(args.size()));
    const std::size_t n = inputs.size();
    std::vector<Descriptor> descriptors(n);
    std::vector<Scalar> scalars(n);
    std::vector<void *> pointers(n), packed;
    std::vector<py::object> keep;
    packed.reserve(n + 1);
    // The results come back through one struct of descriptors, the first argument.
    std::vector<int64_t> returned(static_cast<std::size_t>(resultBytes / 8), 0);
    void *returnPointer = returned.data();
    if (!results.empty())
      packed.push_back(&returnPointer);
    for (std::size_t i = 0; i < n; ++i) {
      const py::handle arg = PyTuple_GET_ITEM(args.ptr(), static_cast<Py_ssize_t>(i));
      if (inputs[i].rank < 0) {
        scalars[i] = scalar(i, arg);
        packed.push_back(&scalars[i]);
      } else {
        describe(i, arg, descriptors[i], keep);
        pointers[i] = &descriptors[i];
        packed.push_back(&pointers[i]);
      }
    }
    rt::Status status;
    Frame frame;
    {
      py::gil_scoped_release release;
      (void)rt::takeStatus(); // whatever an unrelated caller left on this thread
      entry(packed.data());
      status = rt::takeStatus();
    }
    // Take the results even if the program failed: they are blocks that somebody has to give back.
    py::tuple out = collect(returned.data(), descriptors);
    if (frame.error)
      throw std::move(*frame.error);
    check(status);
    return out;
  }

private:
  using Entry = void (*)(void **);

  Scalar scalar(std::size_t i, py::handle arg) const {
    Scalar s{};
    const Kind &kind = inputs[i];
    if (kind.name[0] == 'f') {
      const double value = PyFloat_AsDouble(arg.ptr());
      if (value == -1.0 && PyErr_Occurred()) {
        PyErr_Clear();
        raiseDtype("Program: expected a number as argument " + std::to_string(i) + ", got " +
                   std::string(py::str(py::type::of(arg).attr("__name__"))));
      }
      if (kind.size == 4)
        s.f32 = static_cast<float>(value);
      else
        s.f64 = value;
      return s;
    }
    const long long value = PyLong_AsLongLong(arg.ptr());
    if (value == -1 && PyErr_Occurred()) {
      PyErr_Clear();
      raiseDtype("Program: expected an integer as argument " + std::to_string(i) + ", got " +
                 std::string(py::str(py::type::of(arg).attr("__name__"))));
    }
    if (kind.size == 4) {
      if (value < INT32_MIN || value > INT32_MAX)
        raise(rt::Code::kInvalidArgument, "Program: argument " + std::to_string(i) +
                                              " does not fit i32: " + std::to_string(value));
      s.i32 = static_cast<int32_t>(value);
    } else {
      s.i64 = value;
    }
    return s;
  }

  void describe(std::size_t i, py::handle arg, Descriptor &d, std::vector<py::object> &keep) const {
    const Kind &kind = inputs[i];
    if (!py::isinstance<py::array>(arg))
      raiseDtype("Program: expected a NumPy array as argument " + std::to_string(i) + ", got " +
                 std::string(py::str(py::type::of(arg).attr("__name__"))));
    py::array a = py::reinterpret_borrow<py::array>(arg);
    const py::dtype dtype = a.dtype();
    if (!dtype.is(kind.dtype) && !dtype.equal(kind.dtype))
      raiseDtype("Program: expected argument " + std::to_string(i) + " of dtype " +
                 std::string(py::str(kind.dtype)) + ", got " + std::string(py::str(dtype)));
    if (a.ndim() != kind.rank)
      raise(rt::Code::kShapeMismatch, "Program: expected argument " + std::to_string(i) +
                                          " of rank " + std::to_string(kind.rank) + ", got rank " +
                                          std::to_string(a.ndim()));
    if (!fits(a, kind)) {
      a = py::array::ensure(a.attr("copy")("C"));
      keep.push_back(a);
    }
    d.allocated = d.aligned = const_cast<void *>(a.data());
    d.offset = 0;
    for (int r = 0; r < kind.rank; ++r) {
      d.extents[r] = a.shape(r);
      d.extents[kind.rank + r] = a.strides(r) / kind.size;
    }
  }

  // Compiled code takes tensors as they come, in identity layout: function arguments have no
  // strides of their own.
  static bool fits(const py::array &a, const Kind &kind) {
    return (a.flags() & py::array::c_style) != 0 &&
           reinterpret_cast<std::uintptr_t>(a.data()) % static_cast<std::uintptr_t>(kind.size) == 0;
  }

  py::tuple collect(const int64_t *at, const std::vector<Descriptor> &descriptors) const {
    py::tuple out(results.size());
    std::vector<void *> taken;
    for (std::size_t i = 0; i < results.size(); ++i) {
      const Kind &kind = results[i];
      Descriptor d{};
      std::memcpy(&d, at, static_cast<std::size_t>(Descriptor::bytes(kind.rank)));
      at += Descriptor::bytes(kind.rank) / 8;
      std::vector<py::ssize_t> shape(d.extents, d.extents + kind.rank), strides;
      py::ssize_t count = 1;
      for (int r = 0; r < kind.rank; ++r) {
        strides.push_back(d.extents[kind.rank + r] * kind.size);
        count *= shape[static_cast<std::size_t>(r)];
      }
      if (!d.aligned) { // a program that failed
        out[i] = py::array(kind.dtype, std::vector<py::ssize_t>(shape.size(), 0));
        continue;
      }
      const void *data = static_cast<const char *>(d.aligned) + d.offset * kind.size;
      const bool again = std::find(taken.begin(), taken.end(), d.allocated) != taken.end();
      if (!again && isBlock(d.allocated, descriptors)) {
        taken.push_back(d.allocated);
        py::capsule owner(d.allocated, [](void *p) { rt::pool::release(p); });
        out[i] = py::array(kind.dtype, std::move(shape), std::move(strides), data, owner);
      } else { // an argument handed through, a constant, or one buffer returned twice: a copy is
               // always safe
        out[i] = py::array(kind.dtype, std::move(shape), std::move(strides), data);
      }
    }
    return out;
  }

  // A live pool block that is not one of the arguments, which may be results of ours, too.
  static bool isBlock(void *allocated, const std::vector<Descriptor> &descriptors) {
    for (const Descriptor &d : descriptors)
      if (d.allocated == allocated)
        return false;
    return rt::pool::owns(allocated);
  }

  Entry entry;
  std::vector<Kind> inputs, results;
  int64_t resultBytes = 0;
};

} // namespace

void bindProgram(py::module_ &m) {
  py::class_<Program>(m, "Program",
                      "A compiled function. `address` is that of its packed form, void(void**), as "
                      "ExecutionEngine.raw_lookup('_mlir_ciface_<name>') gives it; `inputs` and "
                      "`results` are lists of "
                      "(dtype, rank), rank -1 for a scalar by value.")
      .def(py::init<std::uintptr_t, const std::vector<std::pair<std::string, int>> &,
                    const std::vector<std::pair<std::string, int>> &>(),
           py::arg("address"), py::arg("inputs"), py::arg("results"))
      .def("__call__", &Program::operator(), "The results, as a tuple of arrays.");
}

} // namespace iam::py_
