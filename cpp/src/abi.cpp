// The C ABI: copies descriptors into views, calls a kernel, keeps the first failure of the thread.
#include "iam/abi.h"

#include "iam/attribution/adjoint.h"
#include "iam/clt/activation.h"
#include "iam/clt/decode.h"
#include "iam/clt/edit.h"
#include "iam/clt/encode.h"
#include "iam/clt/pursuit.h"
#include "iam/core/pool.h"
#include "iam/model/segments.h"
#include "iam/steering/compose.h"
#include "iam/steering/sequence.h"
#include "iam/steering/sets.h"
#include "iam/steering/steer.h"

#include <cstdio>
#include <cstdlib>
#include <string>

namespace iam::rt {
namespace {

Status &sticky() {
  thread_local Status status;
  return status;
}

// Views of descriptors. A kernel wants unit stride within a row; inputs that have another are
// copied, which compiled programs only need for transposed operands.
class Views {
public:
  explicit Views(const char *op) : op(op) {}

  template <typename T> Mat<const T> in(const MemRef<T, 2> *m) {
    const T *data = m->aligned + m->offset;
    const int64_t rows = m->sizes[0], cols = m->sizes[1];
    if (m->strides[1] == 1 || cols <= 1)
      return {data, rows, cols, m->strides[0]};
    Buffer<T> &copy = hold<T>(rows * cols);
    if (!status.ok())
      return {};
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < cols; ++c)
        copy[r * cols + c] = data[r * m->strides[0] + c * m->strides[1]];
    return {copy.data(), rows, cols};
  }
  template <typename T> Vec<const T> in(const MemRef<T, 1> *v) {
    const T *data = v->aligned + v->offset;
    if (v->strides[0] == 1 || v->sizes[0] <= 1)
      return {data, v->sizes[0]};
    Buffer<T> &copy = hold<T>(v->sizes[0]);
    if (!status.ok())
      return {};
    for (int64_t i = 0; i < v->sizes[0]; ++i)
      copy[i] = data[i * v->strides[0]];
    return {copy.data(), v->sizes[0]};
  }
  template <typename T> Mat<T> out(const MemRef<T, 2> *m) {
    if (m->strides[1] != 1 && m->sizes[1] > 1 && status.ok())
      status = Status(Code::kInvalidArgument,
                      std::string(op) +
                          ": expected a destination with unit stride within a row, got stride " +
                          std::to_string(m->strides[1]));
    return {m->aligned + m->offset, m->sizes[0], m->sizes[1], m->strides[0]};
  }
  template <typename T> Vec<T> out(const MemRef<T, 1> *v) {
    if (v->strides[0] != 1 && v->sizes[0] > 1 && status.ok())
      status = Status(Code::kInvalidArgument,
                      std::string(op) + ": expected a destination with unit stride, got stride " +
                          std::to_string(v->strides[0]));
    return {v->aligned + v->offset, v->sizes[0]};
  }
  FixedCodes codes(const MemRef<float, 2> *values, const MemRef<int32_t, 2> *indices) {
    return {in(values), in(indices)};
  }
  FixedCodesOut codesOut(const MemRef<float, 2> *values, const MemRef<int32_t, 2> *indices) {
    return {out(values), out(indices)};
  }
  CsrCodes codes(const MemRef<float, 1> *values, const MemRef<int32_t, 1> *indices,
                 const MemRef<int64_t, 1> *offsets) {
    return {in(values), in(indices), in(offsets)};
  }

  Status status;

private:
  template <typename T> Buffer<T> &hold(int64_t n) {
    auto &slots = held<T>();
    Buffer<T> &buffer = slots.at[slots.used < kHeld ? slots.used++ : kHeld - 1];
    Status got = buffer.resize(n, op);
    if (!got.ok() && status.ok())
      status = std::move(got);
    return buffer;
  }
  // No entry point takes more inputs of one type than this.
  static constexpr int kHeld = 8;
  template <typename T> struct Held {
    Buffer<T> at[kHeld];
    int used = 0;
  };
  template <typename T> Held<T> &held() {
    if constexpr (std::is_same_v<T, float>)
      return floats;
    else if constexpr (std::is_same_v<T, int32_t>)
      return ints;
    else
      return longs;
  }
  const char *op;
  Held<float> floats;
  Held<int32_t> ints;
  Held<int64_t> longs;
};

// Runs body(views) -> Status unless the thread has already failed.
template <typename Body> void enter(const char *op, Body &&body) noexcept {
  if (!sticky().ok())
    return;
  sticky() = guarded(op, [&]() -> Status {
    Views views(op);
    return body(views);
  });
}

template <typename T> void give(MemRef<T, 1> &to, T *data, int64_t size) {
  to = {data, data, 0, {size}, {1}};
}

// As enter, for functions that make CSR codes of `rows` rows. After a failure the codes are empty,
// but valid, so that compiled code can walk and free them.
template <typename Body>
void enterCsr(const char *op, MemRefCsr *result, int64_t rows, Body &&body) noexcept {
  CsrResult codes;
  enter(op, [&](Views &views) { return body(views, codes); });
  if (!sticky().ok()) {
    rows = rows > 0 ? rows : 0;
    const Status empty = guarded(op, [&]() -> Status {
      IAM_RETURN_IF_ERROR(codes.values.resize(0, op));
      IAM_RETURN_IF_ERROR(codes.indices.resize(0, op));
      return codes.offsets.resize(rows + 1, op);
    });
    if (!empty.ok()) {
      give<float>(result->values, nullptr, 0);
      give<int32_t>(result->indices, nullptr, 0);
      give<int64_t>(result->offsets, nullptr, 0);
      return;
    }
    for (int64_t r = 0; r <= rows; ++r)
      codes.offsets[r] = 0;
  }
  const int64_t nnz = codes.values.size(), offsets = codes.offsets.size();
  give(result->values, codes.values.release(), nnz);
  give(result->indices, codes.indices.release(), nnz);
  give(result->offsets, codes.offsets.release(), offsets);
}

// As enter, for functions that make a matrix. After a failure it is `rows()` rows of zeros, so that
// compiled code finds the sizes that it was compiled for.
template <typename Rows, typename Body>
void enterMatrix(const char *op, MemRef<float, 2> *result, int64_t width, Rows &&rows,
                 Body &&body) noexcept {
  model::Activation y;
  enter(op, [&](Views &views) { return body(views, y); });
  if (!sticky().ok()) {
    const Status empty = guarded(op, [&]() -> Status {
      y.rows = rows();
      y.cols = width > 0 ? width : 0;
      Buffer<float> zeros;
      IAM_RETURN_IF_ERROR(zeros.resize(y.rows * y.cols, op));
      std::fill(zeros.data(), zeros.data() + zeros.size(), 0.0f);
      y.data = zeros.release();
      return {};
    });
    if (!empty.ok())
      y = {};
  }
  *result = {y.data, y.data, 0, {y.rows, y.cols}, {y.cols, 1}};
}

#define RUN(expr) (views.status.ok() ? (expr) : views.status)

} // namespace

Status takeStatus() {
  Status taken = std::move(sticky());
  sticky() = Status();
  return taken;
}

} // namespace iam::rt

using namespace iam::rt;
using F1 = MemRef<float, 1>;
using F2 = MemRef<float, 2>;
using I1 = MemRef<int32_t, 1>;
using I2 = MemRef<int32_t, 2>;
using L1 = MemRef<int64_t, 1>;

#define ENTRY(name) extern "C" IAM_RT_EXPORT void _mlir_ciface_iam_rt_##name

ENTRY(encode_dense)(F2 *x, F2 *wEnc, F1 *bEnc, F1 *bDec, F2 *pre) {
  enter("iam.clt.encode", [&](Views &views) {
    const Encoder e = {views.in(x), views.in(wEnc), views.in(bEnc), views.in(bDec)};
    const auto out = views.out(pre);
    return RUN(encodeDense(e, out));
  });
}

ENTRY(encode_topk)(F2 *x, F2 *wEnc, F1 *bEnc, F1 *bDec, F2 *values, I2 *indices) {
  enter("iam.clt.encode_topk", [&](Views &views) {
    const Encoder e = {views.in(x), views.in(wEnc), views.in(bEnc), views.in(bDec)};
    const auto out = views.codesOut(values, indices);
    return RUN(encodeTopK(e, out));
  });
}

ENTRY(encode_abstopk)(F2 *x, F2 *wEnc, F1 *bEnc, F1 *bDec, F2 *values, I2 *indices) {
  enter("iam.clt.encode_abstopk", [&](Views &views) {
    const Encoder e = {views.in(x), views.in(wEnc), views.in(bEnc), views.in(bDec)};
    const auto out = views.codesOut(values, indices);
    return RUN(encodeAbsTopK(e, out));
  });
}

ENTRY(encode_groupmax)(F2 *x, F2 *wEnc, F1 *bEnc, F1 *bDec, F2 *values, I2 *indices) {
  enter("iam.clt.encode_groupmax", [&](Views &views) {
    const Encoder e = {views.in(x), views.in(wEnc), views.in(bEnc), views.in(bDec)};
    const auto out = views.codesOut(values, indices);
    return RUN(encodeGroupMax(e, out));
  });
}

ENTRY(encode_threshold)(MemRefCsr *result, F2 *x, F2 *wEnc, F1 *bEnc, F1 *bDec, F1 *theta) {
  enterCsr("iam.clt.encode_threshold", result, x->sizes[0], [&](Views &views, CsrResult &codes) {
    const Encoder e = {views.in(x), views.in(wEnc), views.in(bEnc), views.in(bDec)};
    const auto limits = views.in(theta);
    return RUN(encodeThreshold(e, limits, codes));
  });
}

ENTRY(encode_threshold_only)(MemRefCsr *result, F2 *x, F2 *wEnc, F1 *bEnc, F1 *bDec, F1 *theta,
                             I1 *only) {
  enterCsr("iam.clt.encode_threshold_only", result, x->sizes[0],
           [&](Views &views, CsrResult &codes) {
             const Encoder e = {views.in(x), views.in(wEnc), views.in(bEnc), views.in(bDec)};
             const auto limits = views.in(theta);
             const auto features = views.in(only);
             return RUN(encodeThresholdOnly(e, limits, features, codes));
           });
}

ENTRY(encode_gate)(MemRefCsr *result, F2 *x, F2 *wEnc, F1 *bEnc, F1 *bDec, F2 *wMag, F1 *bMag,
                   I1 *only) {
  enterCsr("iam.clt.encode_gate", result, x->sizes[0], [&](Views &views, CsrResult &codes) {
    const Encoder e = {views.in(x), views.in(wEnc), views.in(bEnc), views.in(bDec)};
    const auto w = views.in(wMag);
    const auto b = views.in(bMag);
    const auto features = views.in(only);
    return RUN(encodeGate(e, w, b, features, codes));
  });
}

ENTRY(encode_batch_topk)(MemRefCsr *result, F2 *x, F2 *wEnc, F1 *bEnc, F1 *bDec, int64_t k) {
  enterCsr("iam.clt.encode_batch_topk", result, x->sizes[0], [&](Views &views, CsrResult &codes) {
    const Encoder e = {views.in(x), views.in(wEnc), views.in(bEnc), views.in(bDec)};
    return RUN(encodeBatchTopK(e, k, codes));
  });
}

ENTRY(topk)(F2 *pre, F2 *values, I2 *indices) {
  enter("iam.clt.topk", [&](Views &views) {
    const auto in = views.in(pre);
    const auto out = views.codesOut(values, indices);
    return RUN(topK(in, out));
  });
}

ENTRY(abstopk)(F2 *pre, F2 *values, I2 *indices) {
  enter("iam.clt.abstopk", [&](Views &views) {
    const auto in = views.in(pre);
    const auto out = views.codesOut(values, indices);
    return RUN(absTopK(in, out));
  });
}

ENTRY(groupmax)(F2 *pre, F2 *values, I2 *indices) {
  enter("iam.clt.groupmax", [&](Views &views) {
    const auto in = views.in(pre);
    const auto out = views.codesOut(values, indices);
    return RUN(groupMax(in, out));
  });
}

ENTRY(threshold)(MemRefCsr *result, F2 *pre, F1 *theta) {
  enterCsr("iam.clt.threshold", result, pre->sizes[0], [&](Views &views, CsrResult &codes) {
    const auto in = views.in(pre);
    const auto limits = views.in(theta);
    return RUN(threshold(in, limits, codes));
  });
}

ENTRY(batch_topk)(MemRefCsr *result, F2 *pre, int64_t k) {
  enterCsr("iam.clt.batch_topk", result, pre->sizes[0], [&](Views &views, CsrResult &codes) {
    const auto in = views.in(pre);
    return RUN(batchTopK(in, k, codes));
  });
}

ENTRY(gate)(MemRefCsr *result, F2 *gatePre, F2 *magnitudePre) {
  enterCsr("iam.clt.gate", result, gatePre->sizes[0], [&](Views &views, CsrResult &codes) {
    const auto g = views.in(gatePre), m = views.in(magnitudePre);
    return RUN(gate(g, m, codes));
  });
}

ENTRY(matching_pursuit)(MemRefCsr *result, F2 *x, F2 *wDec, F1 *bDec, float residualThreshold,
                        int64_t maxIterations, int64_t stopOnDuplicateSupport) {
  enterCsr("iam.clt.matching_pursuit", result, x->sizes[0], [&](Views &views, CsrResult &codes) {
    const Pursuit p = {views.in(x),       views.in(wDec), views.in(bDec),
                       residualThreshold, maxIterations,  stopOnDuplicateSupport != 0};
    return RUN(matchingPursuit(p, codes));
  });
}

ENTRY(decode_k)(F2 *values, I2 *indices, F2 *wDec, F1 *bDec, F2 *y) {
  enter("iam.clt.decode", [&](Views &views) {
    const auto codes = views.codes(values, indices);
    const auto w = views.in(wDec);
    const auto b = views.in(bDec);
    const auto out = views.out(y);
    return RUN(decode(codes, w, b, out));
  });
}

ENTRY(decode_csr)(F1 *values, I1 *indices, L1 *offsets, F2 *wDec, F1 *bDec, F2 *y) {
  enter("iam.clt.decode", [&](Views &views) {
    const auto codes = views.codes(values, indices, offsets);
    const auto w = views.in(wDec);
    const auto b = views.in(bDec);
    const auto out = views.out(y);
    return RUN(decode(codes, w, b, out));
  });
}

ENTRY(residual)(F2 *y, F2 *x, F2 *wSkip, F2 *z) {
  enter("iam.clt.residual", [&](Views &views) {
    const auto yIn = views.in(y), xIn = views.in(x), w = views.in(wSkip);
    const auto out = views.out(z);
    return RUN(residual(yIn, xIn, w, out));
  });
}

ENTRY(densify_k)(F2 *values, I2 *indices, F2 *out) {
  enter("iam.clt.densify", [&](Views &views) {
    const auto codes = views.codes(values, indices);
    const auto to = views.out(out);
    return RUN(densify(codes, to));
  });
}

ENTRY(densify_csr)(F1 *values, I1 *indices, L1 *offsets, F2 *out) {
  enter("iam.clt.densify", [&](Views &views) {
    const auto codes = views.codes(values, indices, offsets);
    const auto to = views.out(out);
    return RUN(densify(codes, to));
  });
}

ENTRY(edit_k)(F2 *values, I2 *indices, I1 *features, F1 *a, F1 *b, int64_t mode, F2 *outValues,
              I2 *outIndices) {
  enter("iam.clt.edit", [&](Views &views) {
    const auto codes = views.codes(values, indices);
    const Edit e = {static_cast<EditMode>(mode), views.in(features), views.in(a), views.in(b)};
    const auto out = views.codesOut(outValues, outIndices);
    return RUN(edit(codes, e, out));
  });
}

ENTRY(edit_csr)(MemRefCsr *result, F1 *values, I1 *indices, L1 *offsets, I1 *features, F1 *a, F1 *b,
                int64_t mode) {
  enterCsr("iam.clt.edit", result, offsets->sizes[0] - 1, [&](Views &views, CsrResult &out) {
    const auto codes = views.codes(values, indices, offsets);
    const Edit e = {static_cast<EditMode>(mode), views.in(features), views.in(a), views.in(b)};
    return RUN(edit(codes, e, out));
  });
}

ENTRY(delta_k)(F2 *values, I2 *indices, I1 *features, F1 *a, F1 *b, int64_t mode, F2 *outValues,
               I2 *outIndices) {
  enter("iam.clt.delta", [&](Views &views) {
    const auto codes = views.codes(values, indices);
    const Edit e = {static_cast<EditMode>(mode), views.in(features), views.in(a), views.in(b)};
    const auto out = views.codesOut(outValues, outIndices);
    return RUN(delta(codes, e, out));
  });
}

ENTRY(delta_csr)(F1 *values, I1 *indices, L1 *offsets, I1 *features, F1 *a, F1 *b, int64_t mode,
                 F2 *outValues, I2 *outIndices) {
  enter("iam.clt.delta", [&](Views &views) {
    const auto codes = views.codes(values, indices, offsets);
    const Edit e = {static_cast<EditMode>(mode), views.in(features), views.in(a), views.in(b)};
    const auto out = views.codesOut(outValues, outIndices);
    return RUN(delta(codes, e, out));
  });
}

ENTRY(sub_k)(F2 *values1, I2 *indices1, F2 *values2, I2 *indices2, F2 *outValues, I2 *outIndices) {
  enter("iam.clt.sub", [&](Views &views) {
    const auto p = views.codes(values1, indices1), q = views.codes(values2, indices2);
    const auto out = views.codesOut(outValues, outIndices);
    return RUN(sub(p, q, out));
  });
}

ENTRY(sub_csr)(MemRefCsr *result, F1 *values1, I1 *indices1, L1 *offsets1, F1 *values2,
               I1 *indices2, L1 *offsets2) {
  enterCsr("iam.clt.sub", result, offsets1->sizes[0] - 1, [&](Views &views, CsrResult &out) {
    const auto p = views.codes(values1, indices1, offsets1),
               q = views.codes(values2, indices2, offsets2);
    return RUN(sub(p, q, out));
  });
}

ENTRY(steer)(F2 *h, F1 *v, float strength, int64_t mode, F2 *out) {
  enter("iam.policy.steer", [&](Views &views) {
    const auto hIn = views.in(h);
    const auto vIn = views.in(v);
    const auto to = views.out(out);
    return RUN(steer(hIn, vIn, strength, static_cast<SteerMode>(mode), to));
  });
}

ENTRY(sequence)(F2 *h, F2 *directions, F1 *strengths, I1 *steps, F2 *out) {
  enter("iam.policy.sequence", [&](Views &views) {
    const auto hIn = views.in(h), v = views.in(directions);
    const auto s = views.in(strengths);
    const auto kinds = views.in(steps);
    const auto to = views.out(out);
    return RUN(sequence(hIn, v, s, kinds, to));
  });
}

ENTRY(compose)(F2 *vectors, F1 *strengths, int64_t rule, F1 *out) {
  enter("iam.policy.compose", [&](Views &views) {
    const auto vectorsIn = views.in(vectors);
    const auto strengthsIn = views.in(strengths);
    const auto to = views.out(out);
    return RUN(compose(vectorsIn, strengthsIn, static_cast<ComposeRule>(rule), to));
  });
}

ENTRY(project)(F2 *h, int64_t kind, F1 *point, F2 *basis, float bound, F1 *upper, F2 *out) {
  enter("iam.policy.project", [&](Views &views) {
    const auto hIn = views.in(h);
    const Set set{static_cast<SetKind>(kind), views.in(point), views.in(basis), bound,
                  views.in(upper)};
    const auto to = views.out(out);
    return RUN(project(hIn, set, to));
  });
}

ENTRY(verify)(F2 *h, int64_t kind, F1 *point, F2 *basis, float bound, F1 *upper, float tolerance,
              I1 *message, F1 *margin) {
  enter("iam.policy.verify", [&](Views &views) {
    const auto hIn = views.in(h);
    const Set set{static_cast<SetKind>(kind), views.in(point), views.in(basis), bound,
                  views.in(upper)};
    const auto bytes = views.in(message);
    const auto to = views.out(margin);
    return RUN(verify(hIn, set, tolerance, std::string(bytes.begin(), bytes.end()), to));
  });
}

ENTRY(select)(F2 *scores, I2 *indices, F2 *top) {
  enter("iam.attr.select", [&](Views &views) {
    const auto in = views.in(scores);
    const auto at = views.out(indices);
    const auto values = views.out(top);
    return RUN(select(in, at, values));
  });
}

ENTRY(check_gradients)(F2 *gradients, int64_t first, int64_t points) {
  enter("iam.attr.check", [&](Views &views) {
    const auto in = views.in(gradients);
    return RUN(checkGradients(in, first, points));
  });
}

ENTRY(decode_adjoint_k)(F2 *values, I2 *indices, F2 *wDec, F2 *dy, F2 *outValues, I2 *outIndices) {
  enter("iam.clt.decode_adjoint", [&](Views &views) {
    const auto codes = views.codes(values, indices);
    const auto w = views.in(wDec), d = views.in(dy);
    const auto out = views.codesOut(outValues, outIndices);
    return RUN(decodeAdjoint(codes, w, d, out));
  });
}

ENTRY(decode_adjoint_csr)(MemRefCsr *result, F1 *values, I1 *indices, L1 *offsets, F2 *wDec,
                          F2 *dy) {
  enterCsr("iam.clt.decode_adjoint", result, offsets->sizes[0] - 1,
           [&](Views &views, CsrResult &out) {
             const auto codes = views.codes(values, indices, offsets);
             const auto w = views.in(wDec), d = views.in(dy);
             return RUN(decodeAdjoint(codes, w, d, out));
           });
}

ENTRY(densify_adjoint_k)(F2 *values, I2 *indices, F2 *dd, I1 *columns, int64_t all, F2 *outValues,
                         I2 *outIndices) {
  enter("iam.clt.densify_adjoint", [&](Views &views) {
    const auto codes = views.codes(values, indices);
    const auto d = views.in(dd);
    const Vec<const int32_t> listed = views.in(columns);
    const auto out = views.codesOut(outValues, outIndices);
    return RUN(densifyAdjoint(codes, d, all ? nullptr : &listed, out));
  });
}

ENTRY(densify_adjoint_csr)(MemRefCsr *result, F1 *values, I1 *indices, L1 *offsets, F2 *dd,
                           I1 *columns, int64_t all) {
  enterCsr("iam.clt.densify_adjoint", result, offsets->sizes[0] - 1,
           [&](Views &views, CsrResult &out) {
             const auto codes = views.codes(values, indices, offsets);
             const auto d = views.in(dd);
             const Vec<const int32_t> listed = views.in(columns);
             return RUN(densifyAdjoint(codes, d, all ? nullptr : &listed, out));
           });
}

ENTRY(edit_adjoint_k_k)(F2 *values, I2 *indices, F2 *dgValues, I2 *dgIndices, I1 *features, F1 *a,
                        F1 *b, int64_t mode, int64_t isDelta, F2 *outValues, I2 *outIndices) {
  enter("iam.clt.edit_adjoint", [&](Views &views) {
    const auto codes = views.codes(values, indices), dg = views.codes(dgValues, dgIndices);
    const Edit e = {static_cast<EditMode>(mode), views.in(features), views.in(a), views.in(b)};
    const auto out = views.codesOut(outValues, outIndices);
    return RUN(editAdjoint(codes, AnyCodes{&dg, nullptr}, e, isDelta != 0, out));
  });
}

ENTRY(edit_adjoint_k_csr)(F2 *values, I2 *indices, F1 *dgValues, I1 *dgIndices, L1 *dgOffsets,
                          I1 *features, F1 *a, F1 *b, int64_t mode, int64_t isDelta, F2 *outValues,
                          I2 *outIndices) {
  enter("iam.clt.edit_adjoint", [&](Views &views) {
    const auto codes = views.codes(values, indices);
    const auto dg = views.codes(dgValues, dgIndices, dgOffsets);
    const Edit e = {static_cast<EditMode>(mode), views.in(features), views.in(a), views.in(b)};
    const auto out = views.codesOut(outValues, outIndices);
    return RUN(editAdjoint(codes, AnyCodes{nullptr, &dg}, e, isDelta != 0, out));
  });
}

ENTRY(edit_adjoint_csr_k)(MemRefCsr *result, F1 *values, I1 *indices, L1 *offsets, F2 *dgValues,
                          I2 *dgIndices, I1 *features, F1 *a, F1 *b, int64_t mode,
                          int64_t isDelta) {
  enterCsr(
      "iam.clt.edit_adjoint", result, offsets->sizes[0] - 1, [&](Views &views, CsrResult &out) {
        const auto codes = views.codes(values, indices, offsets);
        const auto dg = views.codes(dgValues, dgIndices);
        const Edit e = {static_cast<EditMode>(mode), views.in(features), views.in(a), views.in(b)};
        return RUN(editAdjoint(codes, AnyCodes{&dg, nullptr}, e, isDelta != 0, out));
      });
}

ENTRY(edit_adjoint_csr_csr)(MemRefCsr *result, F1 *values, I1 *indices, L1 *offsets, F1 *dgValues,
                            I1 *dgIndices, L1 *dgOffsets, I1 *features, F1 *a, F1 *b, int64_t mode,
                            int64_t isDelta) {
  enterCsr(
      "iam.clt.edit_adjoint", result, offsets->sizes[0] - 1, [&](Views &views, CsrResult &out) {
        const auto codes = views.codes(values, indices, offsets);
        const auto dg = views.codes(dgValues, dgIndices, dgOffsets);
        const Edit e = {static_cast<EditMode>(mode), views.in(features), views.in(a), views.in(b)};
        return RUN(editAdjoint(codes, AnyCodes{nullptr, &dg}, e, isDelta != 0, out));
      });
}

ENTRY(project_adjoint)(F2 *h, F2 *dy, int64_t kind, F1 *point, float bound, F1 *upper, F2 *out) {
  enter("iam.policy.project_adjoint", [&](Views &views) {
    const auto hIn = views.in(h), dyIn = views.in(dy);
    const Set set{static_cast<SetKind>(kind), views.in(point), {}, bound, views.in(upper)};
    const auto to = views.out(out);
    return RUN(projectAdjoint(hIn, dyIn, set, to));
  });
}

namespace {
// A part of a model as compiled programs write it.
struct PartArguments {
  int64_t model;
  F2 *h;
  I1 *from, *to, *tokens;
  int64_t allTokens;
  I1 *positions;
  int64_t allPositions, width;

  template <typename Body> auto with(Views &views, Body &&body) const {
    const auto text = [&](I1 *bytes) {
      const auto view = views.in(bytes);
      return std::string(view.begin(), view.end());
    };
    const Vec<const int32_t> chosenTokens = views.in(tokens), chosenPositions = views.in(positions);
    model::Part part;
    part.model = model;
    part.from = text(from);
    part.to = text(to);
    if (!part.from.empty())
      part.h = views.in(h);
    part.tokens = allTokens ? nullptr : &chosenTokens;
    part.positions = allPositions ? nullptr : &chosenPositions;
    part.width = width;
    return body(part);
  }

  int64_t rows() const {
    Views views("iam.model.run");
    return with(views, [&](const model::Part &part) -> int64_t {
      return model::host().rows ? model::host().rows(part) : part.h.rows;
    });
  }
};
} // namespace

ENTRY(model_run)(F2 *result, int64_t model, F2 *h, I1 *from, I1 *to, I1 *tokens, int64_t allTokens,
                 I1 *positions, int64_t allPositions, int64_t width) {
  const PartArguments arguments{model,     h,         from,         to,   tokens,
                                allTokens, positions, allPositions, width};
  enterMatrix(
      "iam.model.run", result, width, [&] { return arguments.rows(); },
      [&](Views &views, model::Activation &y) {
        return arguments.with(views,
                              [&](const model::Part &part) { return RUN(model::run(part, y)); });
      });
}

// The result that comes with a tape: a descriptor, then the number.
struct Taped {
  F2 y;
  int64_t tape;
};

ENTRY(model_linearize)(Taped *result, int64_t model, F2 *h, I1 *from, I1 *to, I1 *tokens,
                       int64_t allTokens, I1 *positions, int64_t allPositions, int64_t width) {
  const PartArguments arguments{model,     h,         from,         to,   tokens,
                                allTokens, positions, allPositions, width};
  int64_t tape = -1;
  enterMatrix(
      "iam.model.linearize", &result->y, width, [&] { return arguments.rows(); },
      [&](Views &views, model::Activation &y) {
        return arguments.with(
            views, [&](const model::Part &part) { return RUN(model::linearize(part, y, tape)); });
      });
  if (tape < 0 && model::host().failedTape)
    tape = model::host().failedTape(h->sizes[0]);
  result->tape = tape;
}

ENTRY(model_pullback)(F2 *result, int64_t tape, F2 *dy, int64_t width) {
  enterMatrix(
      "iam.model.pullback", result, width,
      [&] { return model::host().rowsOfTape ? model::host().rowsOfTape(tape) : 0; },
      [&](Views &views, model::Activation &dh) {
        const auto in = views.in(dy);
        return RUN(model::pullback(tape, in, width, dh));
      });
}

// What compiled programs allocate with (finalize-memref-to-llvm{use-generic-functions}). They have
// no way to handle a failed allocation, so this is the one place that ends the process, with a
// message.
extern "C" IAM_RT_EXPORT void *_mlir_memref_to_llvm_aligned_alloc(uint64_t alignment,
                                                                  uint64_t bytes) {
  void *block = alignment <= pool::kAlignment ? pool::allocate(bytes) : nullptr;
  if (!block) {
    std::fprintf(stderr, "iam: a compiled program could not allocate %llu bytes aligned to %llu\n",
                 static_cast<unsigned long long>(bytes),
                 static_cast<unsigned long long>(alignment));
    std::abort();
  }
  return block;
}
extern "C" IAM_RT_EXPORT void *_mlir_memref_to_llvm_alloc(uint64_t bytes) {
  return _mlir_memref_to_llvm_aligned_alloc(pool::kAlignment, bytes);
}
extern "C" IAM_RT_EXPORT void _mlir_memref_to_llvm_free(void *block) { pool::release(block); }

// Every entry of the list has a definition above: taking its address fails to compile or link
// otherwise.
#define IAM_RT_ENTRY(name, result, arguments)                                                      \
  reinterpret_cast<const void *>(&_mlir_ciface_iam_rt_##name),
extern "C" IAM_RT_EXPORT const void *const iam_rt_entry_points[] = {
#include "iam/entry_points.def"
};
