// Inside the runtime: what edits of codes and their derivatives share.
#pragma once

#include "checks.h"
#include "iam/clt/edit.h"
#include "iam/core/threads.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace iam::rt {

inline constexpr int64_t kRowPart = 64;

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

inline Status expectOut(const char *op, const FixedCodesOut &out, int64_t rows, int64_t slots) {
  IAM_RETURN_IF_ERROR(expectShape(op, "out values", out.values, rows, slots));
  return expectShape(op, "out indices", out.indices, rows, slots);
}

} // namespace iam::rt
