// Encoders, activations, decoders, edits, and the choice of the largest scores.
#include "bindings.h"

#include "iam/attribution/adjoint.h"
#include "iam/clt/activation.h"
#include "iam/clt/decode.h"
#include "iam/clt/edit.h"
#include "iam/clt/encode.h"
#include "iam/clt/pursuit.h"

namespace iam::py_ {
namespace {

using rt::Status;

struct EncoderInputs {
  EncoderInputs(const char *op, const py::object &x, const py::object &wEnc, const py::object &bEnc,
                const py::object &bDec)
      : x(op, "x", x, 2), wEnc(op, "W_enc", wEnc, 2), bEnc(optional<float>(op, "b_enc", bEnc, 1)),
        bDec(optional<float>(op, "b_dec", bDec, 1)) {}
  rt::Encoder view() const { return {x.mat(), wEnc.mat(), bEnc.vec(), bDec.vec()}; }
  Input<float> x, wEnc, bEnc, bDec;
};

// Codes given from Python: k-form when offsets is None.
struct CodesInputs {
  CodesInputs(const char *op, const py::object &values, const py::object &indices,
              const py::object &offsets)
      : fixed(offsets.is_none()), values(op, "values", values, fixed ? 2 : 1),
        indices(op, "indices", indices, fixed ? 2 : 1),
        offsets(optional<int64_t>(op, "offsets", offsets, 1)) {}
  rt::FixedCodes k() const { return {values.mat(), indices.mat()}; }
  rt::CsrCodes csr() const { return {values.vec(), indices.vec(), offsets.vec()}; }
  int64_t rows() const {
    return fixed ? values.mat().rows : std::max<int64_t>(offsets.vec().size - 1, 0);
  }
  bool fixed;
  Input<float> values;
  Input<int32_t> indices;
  Input<int64_t> offsets;
};

py::tuple give(rt::CsrResult &&codes) {
  const int64_t nnz = codes.values.size(), rows1 = codes.offsets.size();
  return py::make_tuple(adopt(std::move(codes.values), {nnz}),
                        adopt(std::move(codes.indices), {nnz}),
                        adopt(std::move(codes.offsets), {rows1}));
}

// Room for k-form codes, and their arrays.
struct FixedRoom {
  FixedRoom(const char *op, int64_t rows, int64_t k) : rows(rows), k(k) {
    check(values.resize(rows * k, op));
    check(indices.resize(rows * k, op));
  }
  rt::FixedCodesOut view() const { return {{values.data(), rows, k}, {indices.data(), rows, k}}; }
  py::array takeValues() { return adopt(std::move(values), {rows, k}); }
  py::array takeIndices() { return adopt(std::move(indices), {rows, k}); }
  int64_t rows, k;
  rt::Buffer<float> values;
  rt::Buffer<int32_t> indices;
};

// k-form codes of `kernel`, which checks k itself.
template <typename Kernel>
py::tuple fixedResult(const char *op, int64_t rows, int64_t k, Kernel &&kernel) {
  FixedRoom out(op, rows, std::max<int64_t>(k, 0));
  call(op, [&] { return kernel(out.view()); });
  return py::make_tuple(out.takeValues(), out.takeIndices());
}

void checkK(const char *op, int64_t k, int64_t features) {
  if (k < 1 || k > features)
    raise(rt::Code::kKRange, std::string(op) + ": expected k in 1.." + std::to_string(features) +
                                 " (features), got k=" + std::to_string(k));
}

// A dense [rows, cols] result of `kernel`.
template <typename Kernel>
py::array denseResult(const char *op, int64_t rows, int64_t cols, Kernel &&kernel) {
  rt::Buffer<float> out;
  check(out.resize(rows * cols, op));
  call(op, [&] { return kernel(rt::Mat<float>(out.data(), rows, cols)); });
  return adopt(std::move(out), {rows, cols});
}

struct EditInputs {
  EditInputs(const char *op, const py::object &features, int64_t mode, const py::object &a,
             const py::object &b)
      : features(op, "features", features, 1), a(optional<float>(op, "a", a, 1)),
        b(optional<float>(op, "b", b, 1)), mode(static_cast<rt::EditMode>(mode)) {}
  rt::Edit view() const { return {mode, features.vec(), a.vec(), b.vec()}; }
  Input<int32_t> features;
  Input<float> a, b;
  rt::EditMode mode;
};

} // namespace

void bindClt(py::module_ &m) {
  using O = const py::object &;

  m.def(
      "encode_dense",
      [](O x, O wEnc, O bEnc, O bDec) {
        const char *op = "iam.clt.encode";
        const EncoderInputs in(op, x, wEnc, bEnc, bDec);
        const rt::Encoder e = in.view();
        return denseResult(op, e.x.rows, e.wEnc.cols,
                           [&](rt::Mat<float> pre) { return rt::encodeDense(e, pre); });
      },
      py::arg("x"), py::arg("W_enc"), py::arg("b_enc"), py::arg("b_dec") = py::none(),
      "Pre-activations [rows, features] of x [rows, d]: (x - b_dec) @ W_enc + b_enc.");
  m.def(
      "encode_topk",
      [](O x, O wEnc, O bEnc, O bDec, int64_t k) {
        const char *op = "iam.clt.encode_topk";
        const EncoderInputs in(op, x, wEnc, bEnc, bDec);
        const rt::Encoder e = in.view();
        checkK(op, k, e.wEnc.cols);
        FixedRoom out(op, e.x.rows, k);
        call(op, [&] { return rt::encodeTopK(e, out.view()); });
        return py::make_tuple(out.takeValues(), out.takeIndices());
      },
      py::arg("x"), py::arg("W_enc"), py::arg("b_enc"), py::arg("b_dec"), py::arg("k"),
      "The k largest pre-activations of each row, then ReLU: (values [rows, k], indices [rows, "
      "k]).");
  m.def(
      "encode_abstopk",
      [](O x, O wEnc, O bEnc, O bDec, int64_t k) {
        const char *op = "iam.clt.encode_abstopk";
        const EncoderInputs in(op, x, wEnc, bEnc, bDec);
        const rt::Encoder e = in.view();
        return fixedResult(op, e.x.rows, k,
                           [&](rt::FixedCodesOut out) { return rt::encodeAbsTopK(e, out); });
      },
      py::arg("x"), py::arg("W_enc"), py::arg("b_enc"), py::arg("b_dec"), py::arg("k"),
      "The k pre-activations of each row that are largest in magnitude, with their signs: (values "
      "[rows, k], indices [rows, k]).");
  m.def(
      "encode_groupmax",
      [](O x, O wEnc, O bEnc, O bDec, int64_t k) {
        const char *op = "iam.clt.encode_groupmax";
        const EncoderInputs in(op, x, wEnc, bEnc, bDec);
        const rt::Encoder e = in.view();
        return fixedResult(op, e.x.rows, k,
                           [&](rt::FixedCodesOut out) { return rt::encodeGroupMax(e, out); });
      },
      py::arg("x"), py::arg("W_enc"), py::arg("b_enc"), py::arg("b_dec"), py::arg("k"),
      "The largest pre-activation of each of k groups, then ReLU: (values [rows, k], indices "
      "[rows, "
      "k]).");
  m.def(
      "matching_pursuit",
      [](O x, O wDec, O bDec, float residualThreshold, int64_t maxIterations,
         bool stopOnDuplicateSupport) {
        const char *op = "iam.clt.matching_pursuit";
        const Input<float> xIn(op, "x", x, 2), w(op, "W_dec", wDec, 2);
        const auto b = optional<float>(op, "b_dec", bDec, 1);
        const rt::Pursuit p = {xIn.mat(),         w.mat(),       b.vec(),
                               residualThreshold, maxIterations, stopOnDuplicateSupport};
        rt::CsrResult out;
        call(op, [&] { return rt::matchingPursuit(p, out); });
        return give(std::move(out));
      },
      py::arg("x"), py::arg("W_dec"), py::arg("b_dec"), py::arg("residual_threshold"),
      py::arg("max_iterations"), py::arg("stop_on_duplicate_support"),
      "Features found one at a time: (values, indices, offsets).");
  m.def(
      "encode_threshold",
      [](O x, O wEnc, O bEnc, O bDec, O theta) {
        const char *op = "iam.clt.encode_threshold";
        const EncoderInputs in(op, x, wEnc, bEnc, bDec);
        const auto limits = optional<float>(op, "threshold", theta, 1);
        rt::CsrResult out;
        call(op, [&] { return rt::encodeThreshold(in.view(), limits.vec(), out); });
        return give(std::move(out));
      },
      py::arg("x"), py::arg("W_enc"), py::arg("b_enc"), py::arg("b_dec"), py::arg("threshold"),
      "JumpReLU codes, ReLU without threshold: (values, indices, offsets).");
  m.def(
      "encode_threshold_only",
      [](O x, O wEnc, O bEnc, O bDec, O theta, O only) {
        const char *op = "iam.clt.encode_threshold_only";
        const EncoderInputs in(op, x, wEnc, bEnc, bDec);
        const auto limits = optional<float>(op, "threshold", theta, 1);
        const Input<int32_t> features(op, "only", only, 1);
        rt::CsrResult out;
        call(op,
             [&] { return rt::encodeThresholdOnly(in.view(), limits.vec(), features.vec(), out); });
        return give(std::move(out));
      },
      py::arg("x"), py::arg("W_enc"), py::arg("b_enc"), py::arg("b_dec"), py::arg("threshold"),
      py::arg("only"), "encode_threshold of the features in `only` (ascending) alone.");
  m.def(
      "encode_gate",
      [](O x, O wEnc, O bEnc, O bDec, O wMag, O bMag, O only) {
        const char *op = "iam.clt.encode_gate";
        const EncoderInputs in(op, x, wEnc, bEnc, bDec);
        const Input<float> w(op, "W_mag", wMag, 2);
        const auto b = optional<float>(op, "b_mag", bMag, 1);
        const auto features = optional<int32_t>(op, "only", only, 1);
        rt::CsrResult out;
        call(op, [&] { return rt::encodeGate(in.view(), w.mat(), b.vec(), features.vec(), out); });
        return give(std::move(out));
      },
      py::arg("x"), py::arg("W_enc"), py::arg("b_enc"), py::arg("b_dec"), py::arg("W_mag"),
      py::arg("b_mag"), py::arg("only") = py::none(),
      "relu of the pre-activations of W_mag where those of W_enc are positive: (values, indices, "
      "offsets). `only` (ascending): these features alone.");
  m.def(
      "encode_batch_topk",
      [](O x, O wEnc, O bEnc, O bDec, int64_t k) {
        const char *op = "iam.clt.encode_batch_topk";
        const EncoderInputs in(op, x, wEnc, bEnc, bDec);
        rt::CsrResult out;
        call(op, [&] { return rt::encodeBatchTopK(in.view(), k, out); });
        return give(std::move(out));
      },
      py::arg("x"), py::arg("W_enc"), py::arg("b_enc"), py::arg("b_dec"), py::arg("k"),
      "The k * rows largest positive pre-activations of the batch: (values, indices, offsets).");
  m.def(
      "topk",
      [](O pre, int64_t k) {
        const char *op = "iam.clt.topk";
        const Input<float> in(op, "pre", pre, 2);
        checkK(op, k, in.mat().cols);
        FixedRoom out(op, in.mat().rows, k);
        call(op, [&] { return rt::topK(in.mat(), out.view()); });
        return py::make_tuple(out.takeValues(), out.takeIndices());
      },
      py::arg("pre"), py::arg("k"));
  m.def(
      "select",
      [](O scores, int64_t n) {
        const char *op = "iam.attr.select";
        const Input<float> in(op, "scores", scores, 2);
        FixedRoom out(op, in.mat().rows, std::max<int64_t>(n, 0));
        call(op, [&] { return rt::select(in.mat(), out.view().indices, out.view().values); });
        return py::make_tuple(out.takeIndices(), out.takeValues());
      },
      py::arg("scores"), py::arg("n"),
      "Indices and values of the n scores of largest magnitude of each row [rows, F].");
  m.def(
      "abstopk",
      [](O pre, int64_t k) {
        const char *op = "iam.clt.abstopk";
        const Input<float> in(op, "pre", pre, 2);
        return fixedResult(op, in.mat().rows, k,
                           [&](rt::FixedCodesOut out) { return rt::absTopK(in.mat(), out); });
      },
      py::arg("pre"), py::arg("k"));
  m.def(
      "groupmax",
      [](O pre, int64_t k) {
        const char *op = "iam.clt.groupmax";
        const Input<float> in(op, "pre", pre, 2);
        return fixedResult(op, in.mat().rows, k,
                           [&](rt::FixedCodesOut out) { return rt::groupMax(in.mat(), out); });
      },
      py::arg("pre"), py::arg("k"));
  m.def(
      "threshold",
      [](O pre, O theta) {
        const char *op = "iam.clt.threshold";
        const Input<float> in(op, "pre", pre, 2);
        const auto limits = optional<float>(op, "threshold", theta, 1);
        rt::CsrResult out;
        call(op, [&] { return rt::threshold(in.mat(), limits.vec(), out); });
        return give(std::move(out));
      },
      py::arg("pre"), py::arg("threshold"));
  m.def(
      "batch_topk",
      [](O pre, int64_t k) {
        const char *op = "iam.clt.batch_topk";
        const Input<float> in(op, "pre", pre, 2);
        rt::CsrResult out;
        call(op, [&] { return rt::batchTopK(in.mat(), k, out); });
        return give(std::move(out));
      },
      py::arg("pre"), py::arg("k"));
  m.def(
      "gate",
      [](O gatePre, O magnitudePre) {
        const char *op = "iam.clt.gate";
        const Input<float> g(op, "gate_pre", gatePre, 2), mag(op, "magnitude_pre", magnitudePre, 2);
        rt::CsrResult out;
        call(op, [&] { return rt::gate(g.mat(), mag.mat(), out); });
        return give(std::move(out));
      },
      py::arg("gate_pre"), py::arg("magnitude_pre"));

  m.def(
      "decode",
      [](O values, O indices, O offsets, O wDec, O bDec) {
        const char *op = "iam.clt.decode";
        const CodesInputs codes(op, values, indices, offsets);
        const Input<float> w(op, "W_dec", wDec, 2);
        const auto b = optional<float>(op, "b_dec", bDec, 1);
        return denseResult(op, codes.rows(), w.mat().cols, [&](rt::Mat<float> y) {
          return codes.fixed ? rt::decode(codes.k(), w.mat(), b.vec(), y)
                             : rt::decode(codes.csr(), w.mat(), b.vec(), y);
        });
      },
      py::arg("values"), py::arg("indices"), py::arg("offsets"), py::arg("W_dec"),
      py::arg("b_dec") = py::none());
  m.def(
      "densify",
      [](O values, O indices, O offsets, int64_t features) {
        const char *op = "iam.clt.densify";
        const CodesInputs codes(op, values, indices, offsets);
        if (features < 0)
          raise(rt::Code::kInvalidArgument,
                std::string(op) + ": expected n_features >= 0, got " + std::to_string(features));
        return denseResult(op, codes.rows(), features, [&](rt::Mat<float> out) {
          return codes.fixed ? rt::densify(codes.k(), out) : rt::densify(codes.csr(), out);
        });
      },
      py::arg("values"), py::arg("indices"), py::arg("offsets"), py::arg("n_features"));
  m.def(
      "residual",
      [](O y, O x, O wSkip) {
        const char *op = "iam.clt.residual";
        const Input<float> yIn(op, "y", y, 2), xIn(op, "x", x, 2);
        const auto w = optional<float>(op, "W_skip", wSkip, 2);
        return denseResult(op, yIn.mat().rows, yIn.mat().cols, [&](rt::Mat<float> z) {
          return rt::residual(yIn.mat(), xIn.mat(), w.mat(), z);
        });
      },
      py::arg("y"), py::arg("x"), py::arg("W_skip") = py::none());

  m.def(
      "edit",
      [](O values, O indices, O offsets, O features, int64_t mode, O a, O b) -> py::tuple {
        const char *op = "iam.clt.edit";
        const CodesInputs codes(op, values, indices, offsets);
        const EditInputs e(op, features, mode, a, b);
        if (!codes.fixed) {
          rt::CsrResult out;
          call(op, [&] { return rt::edit(codes.csr(), e.view(), out); });
          return give(std::move(out));
        }
        const int64_t k =
            codes.values.mat().cols + (rt::mayActivate(e.mode) ? e.view().features.size : 0);
        FixedRoom out(op, codes.rows(), k);
        call(op, [&] { return rt::edit(codes.k(), e.view(), out.view()); });
        return py::make_tuple(out.takeValues(), out.takeIndices(), py::none());
      },
      py::arg("values"), py::arg("indices"), py::arg("offsets"), py::arg("features"),
      py::arg("mode"), py::arg("a") = py::none(), py::arg("b") = py::none());
  m.def(
      "delta",
      [](O values, O indices, O offsets, O features, int64_t mode, O a, O b) {
        const char *op = "iam.clt.delta";
        const CodesInputs codes(op, values, indices, offsets);
        const EditInputs e(op, features, mode, a, b);
        FixedRoom out(op, codes.rows(), e.view().features.size);
        call(op, [&] {
          return codes.fixed ? rt::delta(codes.k(), e.view(), out.view())
                             : rt::delta(codes.csr(), e.view(), out.view());
        });
        return py::make_tuple(out.takeValues(), out.takeIndices());
      },
      py::arg("values"), py::arg("indices"), py::arg("offsets"), py::arg("features"),
      py::arg("mode"), py::arg("a") = py::none(), py::arg("b") = py::none());
  m.def(
      "sub",
      [](O values1, O indices1, O offsets1, O values2, O indices2, O offsets2) -> py::tuple {
        const char *op = "iam.clt.sub";
        const CodesInputs p(op, values1, indices1, offsets1), q(op, values2, indices2, offsets2);
        if (p.fixed != q.fixed)
          raise(rt::Code::kInvalidArgument,
                std::string(op) +
                    ": expected both codes with offsets or both without, got one of each");
        if (!p.fixed) {
          rt::CsrResult out;
          call(op, [&] { return rt::sub(p.csr(), q.csr(), out); });
          return give(std::move(out));
        }
        FixedRoom out(op, p.rows(), p.values.mat().cols + q.values.mat().cols);
        call(op, [&] { return rt::sub(p.k(), q.k(), out.view()); });
        return py::make_tuple(out.takeValues(), out.takeIndices(), py::none());
      },
      py::arg("values1"), py::arg("indices1"), py::arg("offsets1"), py::arg("values2"),
      py::arg("indices2"), py::arg("offsets2"));
}

} // namespace iam::py_
