#include "iam/clt/decode.h"

#include "../core/kernels.h"
#include "checks.h"
#include "iam/core/threads.h"

#include <atomic>
#include <cstring>

namespace iam::rt {
namespace {

using kernels::Table;

constexpr int64_t kRowPart = 8;

// One entry of a row of codes.
struct Entry {
  float value;
  int32_t index;
};

// Where the entries of row r are: a walk over both forms.
struct FixedRows {
  FixedCodes codes;
  int64_t size(int64_t) const { return codes.values.cols; }
  Entry at(int64_t r, int64_t i) const { return {codes.values(r, i), codes.indices(r, i)}; }
};
struct CsrRows {
  CsrCodes codes;
  int64_t size(int64_t r) const { return codes.offsets[r + 1] - codes.offsets[r]; }
  Entry at(int64_t r, int64_t i) const {
    const int64_t j = codes.offsets[r] + i;
    return {codes.values[j], codes.indices[j]};
  }
};

// visit(row, entry) for all entries that are not padding, row by row, after begin(row). The lowest
// row with an index outside the dictionary becomes the error.
template <typename Source, typename Begin, typename Visit>
Status walk(const char *op, const Source &source, int64_t rows, int64_t features, Begin &&begin,
            Visit &&visit) {
  std::atomic<int64_t> bad{rows};
  IAM_RETURN_IF_ERROR(parallelFor(op, divideUp(rows, kRowPart), [&](int64_t part, int) {
    for (int64_t r = part * kRowPart; r < std::min(rows, (part + 1) * kRowPart); ++r) {
      begin(r);
      const int64_t n = source.size(r);
      for (int64_t i = 0; i < n; ++i) {
        const Entry e = source.at(r, i);
        if (e.value == 0)
          continue;
        if (e.index < 0 || e.index >= features) {
          for (int64_t seen = bad.load(); r < seen && !bad.compare_exchange_weak(seen, r);) {
          }
          break;
        }
        visit(r, i, e);
      }
    }
  }));
  if (const int64_t r = bad.load(); r < rows)
    for (int64_t i = 0; i < source.size(r); ++i)
      if (const Entry e = source.at(r, i); e.value != 0 && (e.index < 0 || e.index >= features))
        return featureRange(op, r, e.index, features);
  return {};
}

template <typename Source>
Status decodeRows(const Source &source, int64_t rows, Mat<const float> wDec, Vec<const float> bDec,
                  Mat<float> y) {
  constexpr const char *op = "iam.clt.decode";
  if (!bDec.empty())
    IAM_RETURN_IF_ERROR(expectSize(op, "b_dec", bDec, wDec.cols, "the columns of W_dec"));
  IAM_RETURN_IF_ERROR(expectShape(op, "y", y, rows, wDec.cols));
  const Table *table = nullptr;
  IAM_RETURN_IF_ERROR(kernels::get(table));
  const auto start = [&](int64_t r) {
    if (bDec.empty())
      y.vec(r).eigen().setZero();
    else
      y.vec(r).eigen() = bDec.eigen();
  };
  return walk(op, source, rows, wDec.rows, start, [&](int64_t r, int64_t i, Entry e) {
    // The next active row is somewhere else in memory: ask for it now.
    if (i + 1 < source.size(r))
      if (const Entry next = source.at(r, i + 1); next.index >= 0 && next.index < wDec.rows)
        for (int64_t c = 0; c < wDec.cols; c += 16)
          __builtin_prefetch(wDec.row(next.index) + c);
    table->axpy(e.value, wDec.row(e.index), y.row(r), wDec.cols);
  });
}

template <typename Source> Status densifyRows(const Source &source, int64_t rows, Mat<float> out) {
  constexpr const char *op = "iam.clt.densify";
  if (out.rows != rows)
    return shapeError(op, "expected out of shape [" + std::to_string(rows) + ", features], got " +
                              shapeOf(out));
  return walk(
      op, source, rows, out.cols, [&](int64_t r) { out.vec(r).eigen().setZero(); },
      [&](int64_t r, int64_t, Entry e) { out(r, e.index) += e.value; });
}

} // namespace

Status decode(FixedCodes codes, Mat<const float> wDec, Vec<const float> bDec, Mat<float> y) {
  IAM_RETURN_IF_ERROR(expectCodes("iam.clt.decode", codes));
  return decodeRows(FixedRows{codes}, codes.values.rows, wDec, bDec, y);
}

Status decode(CsrCodes codes, Mat<const float> wDec, Vec<const float> bDec, Mat<float> y) {
  int64_t rows = 0;
  IAM_RETURN_IF_ERROR(expectCodes("iam.clt.decode", codes, rows));
  return decodeRows(CsrRows{codes}, rows, wDec, bDec, y);
}

Status densify(FixedCodes codes, Mat<float> out) {
  IAM_RETURN_IF_ERROR(expectCodes("iam.clt.densify", codes));
  return densifyRows(FixedRows{codes}, codes.values.rows, out);
}

Status densify(CsrCodes codes, Mat<float> out) {
  int64_t rows = 0;
  IAM_RETURN_IF_ERROR(expectCodes("iam.clt.densify", codes, rows));
  return densifyRows(CsrRows{codes}, rows, out);
}

Status residual(Mat<const float> y, Mat<const float> x, Mat<const float> wSkip, Mat<float> z) {
  constexpr const char *op = "iam.clt.residual";
  IAM_RETURN_IF_ERROR(expectShape(op, "z", z, y.rows, y.cols));
  if (wSkip.empty()) {
    IAM_RETURN_IF_ERROR(expectShape(op, "x", x, y.rows, y.cols));
    return parallelFor(op, divideUp(y.rows, 64), [&](int64_t part, int) {
      for (int64_t r = part * 64; r < std::min(y.rows, (part + 1) * 64); ++r)
        z.vec(r).eigen() = y.vec(r).eigen() + x.vec(r).eigen();
    });
  }
  if (x.rows != y.rows)
    return shapeError(op, "expected x of shape [" + std::to_string(y.rows) +
                              ", d_in] (y has shape " + shapeOf(y) + "), got " + shapeOf(x));
  IAM_RETURN_IF_ERROR(expectShape(op, "W_skip", wSkip, x.cols, y.cols));
  const Table *table = nullptr;
  IAM_RETURN_IF_ERROR(kernels::get(table));
  const int64_t bytes = divideUp(table->scratchBytes(x.cols), 64) * 64;
  Buffer<std::byte> scratch;
  IAM_RETURN_IF_ERROR(scratch.resize(bytes * numThreads(), op));
  constexpr int64_t kRows = 256, kChunk = 384;
  const int64_t chunks = divideUp(y.cols, kChunk);
  return parallelFor(op, divideUp(y.rows, kRows) * chunks, [&](int64_t task, int worker) {
    const int64_t row = task / chunks * kRows, begin = task % chunks * kChunk;
    kernels::Rows rows;
    rows.x = x.row(row);
    rows.stride = x.stride;
    rows.rows = std::min(kRows, y.rows - row);
    rows.depth = x.cols;
    table->dense(rows, {wSkip.data, wSkip.stride, wSkip.cols, nullptr}, begin,
                 std::min(y.cols, begin + kChunk), y.row(row), y.stride, z.row(row), z.stride,
                 scratch.data() + bytes * worker);
  });
}

} // namespace iam::rt
