// Steering.
#include "bindings.h"

#include "iam/steering/steer.h"

namespace iam::py_ {

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
}

} // namespace iam::py_
