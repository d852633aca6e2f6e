#include "iam/clt/edit.h"

#include "edit_plan.h"

namespace iam::rt {
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
