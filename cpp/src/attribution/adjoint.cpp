#include "iam/attribution/adjoint.h"

#include "../clt/edit_plan.h"
#include "../core/kernels.h"
#include "../steering/rows.h"

#include <numeric>

namespace iam::rt {
namespace {

// Codes like `codes` with other values, given entry by entry; zeros are dropped.
Status withValues(const char *op, const CsrCodes &codes, const Buffer<float> &values, int64_t rows,
                  CsrResult &out) {
  return buildCsr(op, rows, out, [&](int64_t r, auto &&emit) {
    for (int64_t i = codes.offsets[r]; i < codes.offsets[r + 1]; ++i)
      emit(codes.indices[i], values.data()[i]);
  });
}

// value(r, index, activation) for every active feature, in the slots of codes. The lowest row with
// an index outside of 0..features-1 becomes the error.
template <typename Value>
Status overActive(const char *op, FixedCodes codes, int64_t features, FixedCodesOut out,
                  Value &&value) {
  const int64_t rows = codes.values.rows, k = codes.values.cols;
  IAM_RETURN_IF_ERROR(expectOut(op, out, rows, k));
  int64_t bad = rows;
  IAM_RETURN_IF_ERROR(forRows(op, rows, bad, [&](int64_t r) {
    for (int64_t i = 0; i < k; ++i) {
      const float activation = codes.values(r, i);
      const int32_t index = codes.indices(r, i);
      out.indices(r, i) = index;
      out.values(r, i) = 0;
      if (activation == 0)
        continue;
      if (index < 0 || index >= features)
        return false;
      out.values(r, i) = value(r, index, activation);
    }
    return true;
  }));
  for (int64_t i = 0; bad < rows && i < k; ++i)
    if (const int32_t index = codes.indices(bad, i);
        codes.values(bad, i) != 0 && (index < 0 || index >= features))
      return featureRange(op, bad, index, features);
  return {};
}

template <typename Value>
Status overActive(const char *op, CsrCodes codes, int64_t rows, int64_t features, CsrResult &out,
                  Value &&value) {
  Buffer<float> values;
  IAM_RETURN_IF_ERROR(values.resize(codes.values.size, op));
  int64_t bad = rows;
  IAM_RETURN_IF_ERROR(forRows(op, rows, bad, [&](int64_t r) {
    for (int64_t i = codes.offsets[r]; i < codes.offsets[r + 1]; ++i) {
      const int32_t index = codes.indices[i];
      if (index < 0 || index >= features)
        return false;
      values.data()[i] = codes.values[i] == 0 ? 0.0f : value(r, index, codes.values[i]);
    }
    return true;
  }));
  if (bad < rows)
    for (int64_t i = codes.offsets[bad]; i < codes.offsets[bad + 1]; ++i)
      if (codes.indices[i] < 0 || codes.indices[i] >= features)
        return featureRange(op, bad, codes.indices[i], features);
  return withValues(op, codes, values, rows, out);
}

Status expectRows(const char *op, const char *name, int64_t got, int64_t rows) {
  if (got == rows)
    return {};
  return shapeError(op, std::string("expected ") + name + " with " + std::to_string(rows) +
                            " rows (those of the features), got " + std::to_string(got));
}

// Where a listed column is in dd; all columns, if none is listed.
class Columns {
public:
  Status make(const char *op, const Vec<const int32_t> *columns, Mat<const float> dd) {
    all = columns == nullptr;
    if (all)
      return {};
    if (columns->size != dd.cols)
      return shapeError(op, "expected dd of shape [rows, " + std::to_string(columns->size) +
                                "] (one column for each listed feature), got " + shapeOf(dd));
    for (int64_t i = 0; i < columns->size; ++i)
      sorted.push_back({(*columns)[i], i});
    std::sort(sorted.begin(), sorted.end());
    for (std::size_t i = 1; i < sorted.size(); ++i)
      if (sorted[i].first == sorted[i - 1].first)
        return Status(Code::kFeatureDuplicate, std::string(op) +
                                                   ": expected distinct columns, got column " +
                                                   std::to_string(sorted[i].first) + " twice");
    return {};
  }

  float at(Mat<const float> dd, int64_t r, int32_t index) const {
    if (all)
      return dd(r, index);
    const auto found =
        std::lower_bound(sorted.begin(), sorted.end(), std::pair<int32_t, int64_t>(index, 0));
    return found != sorted.end() && found->first == index ? dd(r, found->second) : 0.0f;
  }

  int64_t features(Mat<const float> dd) const {
    return all ? dd.cols : int64_t(std::numeric_limits<int32_t>::max()) + 1;
  }

private:
  bool all = true;
  std::vector<std::pair<int32_t, int64_t>> sorted;
};

// Reads codes of either form by feature.
class Reader {
public:
  Status make(const char *op, AnyCodes codes, int64_t rows) {
    source = codes;
    int64_t got = 0;
    if (codes.fixed) {
      IAM_RETURN_IF_ERROR(expectCodes(op, *codes.fixed));
      got = codes.fixed->values.rows;
    } else {
      IAM_RETURN_IF_ERROR(expectCodes(op, *codes.csr, got));
    }
    return expectRows(op, "dg", got, rows);
  }

  float at(int64_t r, int32_t index) const {
    if (source.fixed) {
      const FixedCodes &codes = *source.fixed;
      for (int64_t i = 0; i < codes.values.cols; ++i)
        if (codes.indices(r, i) == index && codes.values(r, i) != 0)
          return codes.values(r, i);
      return 0;
    }
    const CsrCodes &codes = *source.csr;
    const int32_t *first = codes.indices.data + codes.offsets[r],
                  *last = codes.indices.data + codes.offsets[r + 1];
    const int32_t *found = std::lower_bound(first, last, index);
    return found != last && *found == index ? codes.values[found - codes.indices.data] : 0;
  }

private:
  AnyCodes source;
};

// m[j] of docs/spec.md#iamcltedit_adjoint.
class Factors {
public:
  Status make(const char *op, const Edit &e, bool delta) {
    isDelta = delta;
    // The values that set writes have no part in its derivative; the plan wants some.
    std::vector<float> unused;
    Edit planned = e;
    if (e.mode == EditMode::kSet && e.a.empty()) {
      unused.assign(static_cast<std::size_t>(e.features.size), 0.0f);
      planned.a = Vec<const float>(unused.data(), e.features.size);
    }
    return plan.make(op, planned);
  }

  float at(int32_t index, float activation) const {
    const Plan::Item *item = plan.find(index);
    if (!item)
      return isDelta ? 0.0f : 1.0f;
    return listed(*item, activation) - (isDelta ? 1.0f : 0.0f);
  }

private:
  float listed(const Plan::Item &item, float activation) const {
    switch (plan.mode) {
    case EditMode::kScale:
      return item.a;
    case EditMode::kClamp:
      return item.a <= activation && activation <= item.b ? 1.0f : 0.0f;
    case EditMode::kSet:
    case EditMode::kAblate:
      break;
    }
    return 0;
  }

  Plan plan;
  bool isDelta = false;
};

constexpr int64_t kAnyFeature = int64_t(std::numeric_limits<int32_t>::max()) + 1;

} // namespace

Status decodeAdjoint(FixedCodes codes, Mat<const float> wDec, Mat<const float> dy,
                     FixedCodesOut out) {
  constexpr const char *op = "iam.clt.decode_adjoint";
  const kernels::Table *table = nullptr;
  IAM_RETURN_IF_ERROR(kernels::get(table));
  IAM_RETURN_IF_ERROR(expectCodes(op, codes));
  IAM_RETURN_IF_ERROR(expectShape(op, "dy", dy, codes.values.rows, wDec.cols));
  return overActive(op, codes, wDec.rows, out, [&](int64_t r, int32_t index, float) {
    return table->dot(dy.row(r), wDec.row(index), wDec.cols);
  });
}

Status decodeAdjoint(CsrCodes codes, Mat<const float> wDec, Mat<const float> dy, CsrResult &out) {
  constexpr const char *op = "iam.clt.decode_adjoint";
  const kernels::Table *table = nullptr;
  IAM_RETURN_IF_ERROR(kernels::get(table));
  int64_t rows = 0;
  IAM_RETURN_IF_ERROR(expectCodes(op, codes, rows));
  IAM_RETURN_IF_ERROR(expectShape(op, "dy", dy, rows, wDec.cols));
  return overActive(op, codes, rows, wDec.rows, out, [&](int64_t r, int32_t index, float) {
    return table->dot(dy.row(r), wDec.row(index), wDec.cols);
  });
}

Status densifyAdjoint(FixedCodes codes, Mat<const float> dd, const Vec<const int32_t> *columns,
                      FixedCodesOut out) {
  constexpr const char *op = "iam.clt.densify_adjoint";
  IAM_RETURN_IF_ERROR(expectCodes(op, codes));
  IAM_RETURN_IF_ERROR(expectRows(op, "dd", dd.rows, codes.values.rows));
  Columns listed;
  IAM_RETURN_IF_ERROR(listed.make(op, columns, dd));
  return overActive(op, codes, listed.features(dd), out,
                    [&](int64_t r, int32_t index, float) { return listed.at(dd, r, index); });
}

Status densifyAdjoint(CsrCodes codes, Mat<const float> dd, const Vec<const int32_t> *columns,
                      CsrResult &out) {
  constexpr const char *op = "iam.clt.densify_adjoint";
  int64_t rows = 0;
  IAM_RETURN_IF_ERROR(expectCodes(op, codes, rows));
  IAM_RETURN_IF_ERROR(expectRows(op, "dd", dd.rows, rows));
  Columns listed;
  IAM_RETURN_IF_ERROR(listed.make(op, columns, dd));
  return overActive(op, codes, rows, listed.features(dd), out,
                    [&](int64_t r, int32_t index, float) { return listed.at(dd, r, index); });
}

Status editAdjoint(FixedCodes codes, AnyCodes dg, const Edit &e, bool isDelta, FixedCodesOut out) {
  constexpr const char *op = "iam.clt.edit_adjoint";
  Factors factors;
  IAM_RETURN_IF_ERROR(factors.make(op, e, isDelta));
  IAM_RETURN_IF_ERROR(expectCodes(op, codes));
  Reader reader;
  IAM_RETURN_IF_ERROR(reader.make(op, dg, codes.values.rows));
  return overActive(op, codes, kAnyFeature, out, [&](int64_t r, int32_t index, float activation) {
    const float factor = factors.at(index, activation);
    return factor == 0 ? 0.0f : factor * reader.at(r, index);
  });
}

Status editAdjoint(CsrCodes codes, AnyCodes dg, const Edit &e, bool isDelta, CsrResult &out) {
  constexpr const char *op = "iam.clt.edit_adjoint";
  Factors factors;
  IAM_RETURN_IF_ERROR(factors.make(op, e, isDelta));
  int64_t rows = 0;
  IAM_RETURN_IF_ERROR(expectCodes(op, codes, rows));
  Reader reader;
  IAM_RETURN_IF_ERROR(reader.make(op, dg, rows));
  return overActive(op, codes, rows, kAnyFeature, out,
                    [&](int64_t r, int32_t index, float activation) {
                      const float factor = factors.at(index, activation);
                      return factor == 0 ? 0.0f : factor * reader.at(r, index);
                    });
}

Status select(Mat<const float> scores, Mat<int32_t> indices, Mat<float> top) {
  constexpr const char *op = "iam.attr.select";
  const int64_t n = indices.cols;
  IAM_RETURN_IF_ERROR(expectFeatureCount(op, scores.cols));
  if (n < 1 || n > scores.cols)
    return Status(Code::kKRange, std::string(op) + ": expected n in 1.." +
                                     std::to_string(scores.cols) + " (scores), got " +
                                     std::to_string(n) + "; scores have shape " + shapeOf(scores));
  IAM_RETURN_IF_ERROR(expectShape(op, "indices", indices, scores.rows, n));
  IAM_RETURN_IF_ERROR(expectShape(op, "top", top, scores.rows, n));
  int64_t bad = scores.rows;
  IAM_RETURN_IF_ERROR(forRows(op, scores.rows, bad, [&](int64_t r) {
    thread_local std::vector<int32_t> order;
    const float *row = scores.row(r);
    for (int64_t c = 0; c < scores.cols; ++c)
      if (std::isnan(row[c]))
        return false;
    order.resize(static_cast<std::size_t>(scores.cols));
    std::iota(order.begin(), order.end(), 0);
    std::partial_sort(order.begin(), order.begin() + n, order.end(), [row](int32_t a, int32_t b) {
      const float left = std::abs(row[a]), right = std::abs(row[b]);
      return left != right ? left > right : a < b;
    });
    for (int64_t i = 0; i < n; ++i) {
      indices(r, i) = order[static_cast<std::size_t>(i)];
      top(r, i) = row[indices(r, i)];
    }
    return true;
  }));
  for (int64_t c = 0; bad < scores.rows && c < scores.cols; ++c)
    if (std::isnan(scores(bad, c)))
      return Status(Code::kNonFinite, std::string(op) +
                                          ": expected scores without NaN, got one at row " +
                                          std::to_string(bad) + ", column " + std::to_string(c) +
                                          "; scores have shape " + shapeOf(scores));
  return {};
}

Status checkGradients(Mat<const float> gradients, int64_t first, int64_t points) {
  constexpr const char *op = "iam.attr.grad";
  if (points < 1 || gradients.rows % points)
    return shapeError("iam.attr.check", "expected gradients in " + std::to_string(points) +
                                            " equal parts, got shape " + shapeOf(gradients));
  const kernels::Table *table = nullptr;
  IAM_RETURN_IF_ERROR(kernels::get(table));
  int64_t bad = gradients.rows;
  IAM_RETURN_IF_ERROR(forRows(op, gradients.rows, bad, [&](int64_t r) {
    return table->findNonFinite(gradients.row(r), gradients.cols) < 0;
  }));
  if (bad == gradients.rows)
    return {};
  const int64_t rows = gradients.rows / points;
  const int64_t column = table->findNonFinite(gradients.row(bad), gradients.cols);
  return Status(Code::kNonFinite, std::string(op) + ": expected finite gradients, got " +
                                      printed(gradients(bad, column)) + " at point " +
                                      std::to_string(first + bad / rows) + " of the path, row " +
                                      std::to_string(bad % rows) + ", column " +
                                      std::to_string(column));
}

} // namespace iam::rt
