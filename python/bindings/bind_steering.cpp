// Steering.
#include "bindings.h"

#include "iam/steering/compose.h"
#include "iam/steering/sets.h"
#include "iam/steering/steer.h"

namespace iam::py_ {
namespace {

/// The arrays of a set, kept alive for the call.
struct SetInput {
  SetInput(const char *op, int64_t kind, const py::object &first, const py::object &second)
      : set{static_cast<rt::SetKind>(kind)} {
    const bool isSubspace = set.kind == rt::SetKind::kSubspace,
               isBox = set.kind == rt::SetKind::kBox;
    firstIn = Input<float>(op, "first", first, isSubspace ? 2 : 1);
    if (isSubspace)
      set.basis = firstIn.mat();
    else
      set.point = firstIn.vec();
    if (isBox) {
      upper = Input<float>(op, "second", second, 1);
      set.upper = upper.vec();
    } else if (!isSubspace) {
      set.bound = second.cast<float>();
    }
  }
  Input<float> firstIn, upper;
  rt::Set set;
};

} // namespace

void bindSteering(py::module_ &m) {
  m.def(
      "steer",
      [](const py::object &h, const py::object &v, float strength, int64_t mode) {
        const char *op = "iam.policy.steer";
        const Input<float> hIn(op, "h", h, 2), vIn(op, "v", v, 1);
        const rt::Mat<const float> in = hIn.mat();
        rt::Buffer<float> out;
        check(out.resize(in.rows * in.cols, op));
        call(op, [&] {
          return rt::steer(in, vIn.vec(), strength, static_cast<rt::SteerMode>(mode),
                           rt::Mat<float>(out.data(), in.rows, in.cols));
        });
        return adopt(std::move(out), {in.rows, in.cols});
      },
      py::arg("h"), py::arg("v"), py::arg("strength"), py::arg("mode"),
      "h [rows, d] edited along v [d]; mode 0 add, 1 ablate, 2 clamp.");
  m.def(
      "compose",
      [](const py::object &vectors, const py::object &strengths, int64_t rule) {
        const char *op = "iam.policy.compose";
        const Input<float> vectorsIn(op, "vectors", vectors, 2),
            strengthsIn(op, "strengths", strengths, 1);
        rt::Buffer<float> out;
        const int64_t width = vectorsIn.mat().cols;
        check(out.resize(width, op));
        call(op, [&] {
          return rt::compose(vectorsIn.mat(), strengthsIn.vec(), static_cast<rt::ComposeRule>(rule),
                             {out.data(), width});
        });
        return adopt(std::move(out), {width});
      },
      py::arg("vectors"), py::arg("strengths"), py::arg("rule"),
      "vectors [n, d] and strengths [n] as one edit [d]; rule 0 sum, 1 mean, 2 orthogonal.");
  m.def(
      "project",
      [](const py::object &h, int64_t kind, const py::object &first, const py::object &second) {
        const char *op = "iam.policy.project";
        const Input<float> hIn(op, "h", h, 2);
        const SetInput set(op, kind, first, second);
        const rt::Mat<const float> in = hIn.mat();
        rt::Buffer<float> out;
        check(out.resize(in.rows * in.cols, op));
        call(op, [&] {
          return rt::project(in, set.set, rt::Mat<float>(out.data(), in.rows, in.cols));
        });
        return adopt(std::move(out), {in.rows, in.cols});
      },
      py::arg("h"), py::arg("kind"), py::arg("first"), py::arg("second"),
      "h [rows, d] moved into a set: 0 halfspace, 1 ball, 2 subspace, 3 box.");
  m.def(
      "verify",
      [](const py::object &h, int64_t kind, const py::object &first, const py::object &second,
         float tolerance, const std::string &message) {
        const char *op = "iam.policy.verify";
        const Input<float> hIn(op, "h", h, 2);
        const SetInput set(op, kind, first, second);
        const rt::Mat<const float> in = hIn.mat();
        rt::Buffer<float> margin;
        check(margin.resize(in.rows, op));
        call(op,
             [&] { return rt::verify(in, set.set, tolerance, message, {margin.data(), in.rows}); });
        return adopt(std::move(margin), {in.rows});
      },
      py::arg("h"), py::arg("kind"), py::arg("first"), py::arg("second"), py::arg("tolerance"),
      py::arg("message"), "The margins [rows] of h in a set; PolicyError below -tolerance.");
}

} // namespace iam::py_
