#include "iam/model/segments.h"

#include "../clt/checks.h"
#include "iam/core/pool.h"

namespace iam::rt::model {
namespace {

Host &theHost() {
  static Host instance;
  return instance;
}

Status noHost(const char *op) {
  return Status(Code::kInvalidArgument,
                std::string(op) + ": expected a program that was called with a model, got none "
                                  "(programs that run models are called from Python)");
}

Status checkWidth(const char *op, int64_t width, Activation &y) {
  if (width < 0 || y.cols == width)
    return {};
  const Status wrong =
      shapeError(op, "expected a result of width " + std::to_string(width) + ", got [" +
                         std::to_string(y.rows) + ", " + std::to_string(y.cols) + "]");
  pool::release(y.data);
  y = {};
  return wrong;
}

} // namespace

void setHost(const Host &given) { theHost() = given; }

const Host &host() { return theHost(); }

Status run(const Part &part, Activation &y) {
  constexpr const char *op = "iam.model.run";
  if (!host().run)
    return noHost(op);
  IAM_RETURN_IF_ERROR(host().run(part, y));
  return checkWidth(op, part.width, y);
}

Status linearize(const Part &part, Activation &y, int64_t &tape) {
  constexpr const char *op = "iam.model.linearize";
  if (!host().linearize)
    return noHost(op);
  IAM_RETURN_IF_ERROR(host().linearize(part, y, tape));
  return checkWidth(op, part.width, y);
}

Status pullback(int64_t tape, Mat<const float> dy, int64_t width, Activation &dh) {
  constexpr const char *op = "iam.model.pullback";
  if (!host().pullback)
    return noHost(op);
  IAM_RETURN_IF_ERROR(host().pullback(tape, dy, dh));
  return checkWidth(op, width, dh);
}

} // namespace iam::rt::model
