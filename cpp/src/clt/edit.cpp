#include "iam/clt/edit.h"

#include "checks.h"
#include "iam/core/threads.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace iam::rt {
namespace {

constexpr int64_t kRowPart = 64;

// An edit, checked, its features sorted so that a row can be merged with them.
class Plan {
public:
  Status make(const char *op, const Edit &e) {
    if (e.mode < EditMode::kSet || e.mode > EditMode::kAblate)
      return Status(Code::kMode,
                    std::string(op) +
                        ": expected mode 0 (set), 1 (scale), 2 (clamp) or 3 (ablate), got " +
                        std::to_string(static_cast<int64_t>(e.mode)));
    const int64_t n = e.features.size;
    mode = e.mode;
    if (mode == EditMode::kAblate) {
      if (!e.a.empty() || !e.b.empty())
        return Status(Code::kInvalidArgument, std::string(op) + ": ablate takes no operands");
    } else {
      IAM_RETURN_IF_ERROR(expectSize(op, "a", e.a, n, "one per edited feature"));
    }
    if (mode == EditMode::kClamp)
      IAM_RETURN_IF_ERROR(expectSize(op, "b", e.b, n, "one per edited feature"));
    else if (!e.b.empty())
      return Status(Code::kInvalidArgument,
                    std::string(op) + ": only clamp takes a second operand");
    edits.resize(static_cast<std::size_t>(n));
    for (int64_t i = 0; i < n; ++i) {
      Item &item = edits[static_cast<std::size_t>(i)];
      item = {e.features[i], i, e.a.empty() ? 0.0f : e.a[i], e.b.empty() ? 0.0f : e.b[i]};
      if (item.feature < 0)
        return Status(Code::kFeatureRange,
                      std::string(op) + ": expected feature indices >= 0, got " +
                          std::to_string(item.feature) + " at position " + std::to_string(i));
      if (std::isnan(item.a) || std::isnan(item.b))
        return Status(Code::kInvalidArgument,
                      std::string(op) + ": expected no NaN operand, got one for feature " +
                          std::to_string(item.feature));
      if (mode == EditMode::kClamp && item.a > item.b)
        return Status(Code::kInvalidArgument,
                      std::string(op) + ": expected clamp bounds a <= b, got a=" + printed(item.a) +
                          ", b=" + printed(item.b) + " for feature " +
                          std::to_string(item.feature));
    }
    std::sort(edits.begin(), edits.end(),
              [](const Item &p, const Item &q) { return p.feature < q.feature; });
    for (std::size_t i = 1; i < edits.size(); ++i)
      if (edits[i - 1].feature == edits[i].feature)
        return Status(Code::kFeatureDuplicate, std::string(op) +
                                                   ": expected distinct features, got feature " +
                                                   std::to_string(edits[i].feature) + " twice");
    return {};
  }

  struct Item {
    int32_t feature;
    int64_t position; // in Edit::features
    float a, b;
  };

  const Item *find(int32_t feature) const {
    const auto at = std::lower_bound(edits.begin(), edits.end(), feature,
                                     [](const Item &item, int32_t f) { return item.feature < f; });
    return at != edits.end() && at->feature == feature ? &*at : nullptr;
  }

  float apply(const Item &item, float value) const {
    switch (mode) {
    case EditMode::kSet:
      return item.a;
    case EditMode::kScale:
      return value * item.a;
    case EditMode::kClamp:
      return std::min(std::max(value, item.a), item.b);
    case EditMode::kAblate:
      return 0;
    }
    return value;
  }

  EditMode mode = EditMode::kSet;
  std::vector<Item> edits; // by feature
};

template <typename Body> Status forRows(const char *op, int64_t rows, Body &&body) {
  return parallelFor(op, divideUp(rows, kRowPart), [&](int64_t part, int) {
    for (int64_t r = part * kRowPart; r < std::min(rows, (part + 1) * kRowPart); ++r)
      body(r);
  });
}

// CSR codes of rows that `walk(r, emit)` lists by ascending index; zeros are dropped. Walks twice:
// count, then write.
template <typename Walk>
Status buildCsr(const char *op, int64_t rows, CsrResult &out, Walk &&walk) {
  IAM_RETURN_IF_ERROR(out.offsets.resize(rows + 1, op));
  out.offsets[0] = 0;
  IAM_RETURN_IF_ERROR(forRows(op, rows, [&](int64_t r) {
    int64_t count = 0;
    walk(r, [&](int32_t, float value) { count += value != 0; });
    out.offsets[r + 1] = count;
  }));
  for (int64_t r = 0; r < rows; ++r)
    out.offsets[r + 1] += out.offsets[r];
  IAM_RETURN_IF_ERROR(out.values.resize(out.offsets[rows], op));
  IAM_RETURN_IF_ERROR(out.indices.resize(out.offsets[rows], op));
  return forRows(op, rows, [&](int64_t r) {
    int64_t at = out.offsets[r];
    walk(r, [&](int32_t index, float value) {
      if (value == 0)
        return;
      out.values[at] = value;
      out.indices[at++] = index;
    });
  });
}

Status expectOut(const char *op, const FixedCodesOut &out, int64_t rows, int64_t slots) {
  IAM_RETURN_IF_ERROR(expectShape(op, "out values", out.values, rows, slots));
  return expectShape(op, "out indices", out.indices, rows, slots);
}

} // namespace

Status edit(FixedCodes codes, const Edit &e, FixedCodesOut out) {
  constexpr const char *op = "iam.clt.edit";
  Plan plan;
  IAM_RETURN_IF_ERROR(plan.make(op, e));
  IAM_RETURN_IF_ERROR(expectCodes(op, codes));
  const int64_t rows = codes.values.rows, k = codes.values.cols, n = e.features.size;
  const bool grows = mayActivate(plan.mode);
  IAM_RETURN_IF_ERROR(expectOut(op, out, rows, grows ? k + n : k));
  return forRows(op, rows, [&](int64_t r) {
    if (grows) // start as if no edited feature were held
      for (const Plan::Item &item : plan.edits) {
        out.values(r, k + item.position) = plan.apply(item, 0);
        out.indices(r, k + item.position) = item.feature;
      }
    for (int64_t i = 0; i < k; ++i) {
      const float value = codes.values(r, i);
      const int32_t index = codes.indices(r, i);
      out.indices(r, i) = index;
      out.values(r, i) = value;
      if (value == 0)
        continue;
      if (const Plan::Item *item = plan.find(index)) {
        out.values(r, i) = plan.apply(*item, value);
        if (grows)
          out.values(r, k + item->position) = 0;
      }
    }
  });
}

Status edit(CsrCodes codes, const Edit &e, CsrResult &out) {
  constexpr const char *op = "iam.clt.edit";
  Plan plan;
  IAM_RETURN_IF_ERROR(plan.make(op, e));
  int64_t rows = 0;
  IAM_RETURN_IF_ERROR(expectCodes(op, codes, rows));
  return buildCsr(op, rows, out, [&](int64_t r, auto &&emit) {
    auto item = plan.edits.begin();
    for (int64_t i = codes.offsets[r]; i < codes.offsets[r + 1]; ++i) {
      const int32_t index = codes.indices[i];
      for (; item != plan.edits.end() && item->feature < index; ++item)
        emit(item->feature, plan.apply(*item, 0));
      if (item != plan.edits.end() && item->feature == index)
        emit(index, plan.apply(*item++, codes.values[i]));
      else
        emit(index, codes.values[i]);
    }
    for (; item != plan.edits.end(); ++item)
      emit(item->feature, plan.apply(*item, 0));
  });
}

Status delta(FixedCodes codes, const Edit &e, FixedCodesOut out) {
  constexpr const char *op = "iam.clt.delta";
  Plan plan;
  IAM_RETURN_IF_ERROR(plan.make(op, e));
  IAM_RETURN_IF_ERROR(expectCodes(op, codes));
  IAM_RETURN_IF_ERROR(expectOut(op, out, codes.values.rows, e.features.size));
  return forRows(op, codes.values.rows, [&](int64_t r) {
    for (const Plan::Item &item : plan.edits) {
      out.values(r, item.position) = plan.apply(item, 0);
      out.indices(r, item.position) = item.feature;
    }
    for (int64_t i = 0; i < codes.values.cols; ++i)
      if (const float value = codes.values(r, i); value != 0)
        if (const Plan::Item *item = plan.find(codes.indices(r, i)))
          out.values(r, item->position) = plan.apply(*item, value) - value;
  });
}

Status delta(CsrCodes codes, const Edit &e, FixedCodesOut out) {
  constexpr const char *op = "iam.clt.delta";
  Plan plan;
  IAM_RETURN_IF_ERROR(plan.make(op, e));
  int64_t rows = 0;
  IAM_RETURN_IF_ERROR(expectCodes(op, codes, rows));
  IAM_RETURN_IF_ERROR(expectOut(op, out, rows, e.features.size));
  return forRows(op, rows, [&](int64_t r) {
    const int32_t *first = codes.indices.data + codes.offsets[r],
                  *last = codes.indices.data + codes.offsets[r + 1];
    for (const Plan::Item &item : plan.edits) {
      const int32_t *at = std::lower_bound(first, last, item.feature);
      const float value =
          at != last && *at == item.feature ? codes.values[at - codes.indices.data] : 0;
      out.values(r, item.position) = plan.apply(item, value) - value;
      out.indices(r, item.position) = item.feature;
    }
  });
}

Status sub(FixedCodes p, FixedCodes q, FixedCodesOut out) {
  constexpr const char *op = "iam.clt.sub";
  IAM_RETURN_IF_ERROR(expectCodes(op, p));
  IAM_RETURN_IF_ERROR(expectCodes(op, q));
  const int64_t rows = p.values.rows, k1 = p.values.cols, k2 = q.values.cols;
  if (q.values.rows != rows)
    return shapeError(op, "expected codes with equal rows, got values of shapes " +
                              shapeOf(p.values) + " and " + shapeOf(q.values));
  IAM_RETURN_IF_ERROR(expectOut(op, out, rows, k1 + k2));
  struct Slot {
    int32_t index;
    int64_t slot;
  };
  const int64_t parts = divideUp(rows, kRowPart);
  return parallelFor(op, parts, [&](int64_t part, int) {
    std::vector<Slot> held; // of q, by index
    for (int64_t r = part * kRowPart; r < std::min(rows, (part + 1) * kRowPart); ++r) {
      held.clear();
      for (int64_t i = 0; i < k2; ++i) {
        out.values(r, k1 + i) = q.values(r, i) == 0 ? 0.0f : -q.values(r, i);
        out.indices(r, k1 + i) = q.indices(r, i);
        if (q.values(r, i) != 0)
          held.push_back({q.indices(r, i), i});
      }
      std::sort(held.begin(), held.end(),
                [](const Slot &a, const Slot &b) { return a.index < b.index; });
      for (int64_t i = 0; i < k1; ++i) {
        const float value = p.values(r, i);
        const int32_t index = p.indices(r, i);
        out.values(r, i) = value;
        out.indices(r, i) = index;
        if (value == 0)
          continue;
        const auto at = std::lower_bound(held.begin(), held.end(), index,
                                         [](const Slot &s, int32_t f) { return s.index < f; });
        if (at != held.end() && at->index == index) {
          out.values(r, i) = value - q.values(r, at->slot);
          out.values(r, k1 + at->slot) = 0;
        }
      }
    }
  });
}

Status sub(CsrCodes p, CsrCodes q, CsrResult &out) {
  constexpr const char *op = "iam.clt.sub";
  int64_t rows = 0, rowsQ = 0;
  IAM_RETURN_IF_ERROR(expectCodes(op, p, rows));
  IAM_RETURN_IF_ERROR(expectCodes(op, q, rowsQ));
  if (rows != rowsQ)
    return shapeError(op, "expected codes with equal rows, got " + std::to_string(rows) + " and " +
                              std::to_string(rowsQ));
  return buildCsr(op, rows, out, [&](int64_t r, auto &&emit) {
    int64_t i = p.offsets[r], j = q.offsets[r];
    const int64_t endP = p.offsets[r + 1], endQ = q.offsets[r + 1];
    while (i < endP || j < endQ) {
      if (j == endQ || (i < endP && p.indices[i] < q.indices[j])) {
        emit(p.indices[i], p.values[i]);
        ++i;
      } else if (i == endP || q.indices[j] < p.indices[i]) {
        emit(q.indices[j], -q.values[j]);
        ++j;
      } else {
        emit(p.indices[i], p.values[i] - q.values[j]);
        ++i, ++j;
      }
    }
  });
}

} // namespace iam::rt
