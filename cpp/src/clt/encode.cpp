#include "iam/clt/encode.h"

#include "../core/kernels.h"
#include "checks.h"
#include "iam/core/threads.h"
#include "search.h"

#include <atomic>
#include <vector>

namespace iam::rt {
namespace {

using kernels::Candidate;
using kernels::featureOf;
using kernels::Pair;
using kernels::Rows;
using kernels::Search;
using kernels::Table;
using kernels::TopKState;
using kernels::Weights;

// Work is split into row parts, which amortise the packing of weights, times column chunks, which
// balance threads.
constexpr int64_t kRowPart = 256, kChunk = 384, kStreamRows = 8, kStreamChunk = 4096;
// encodeTopK takes rows in blocks, so that what it holds does not grow with the batch.
constexpr int64_t kTopKRows = 1024, kTopKBytes = 24 << 20;

int64_t chunkFor(int64_t rows, int64_t features) {
  if (rows > kStreamRows)
    return kChunk;
  // Long runs along rows of W, as long as there are two for each thread.
  const int64_t share = divideUp(features, 2 * static_cast<int64_t>(numThreads()));
  return std::clamp<int64_t>(divideUp(share, 64) * 64, 512, kStreamChunk);
}

Status checkEncoder(const char *op, const Encoder &e) {
  if (e.wEnc.rows != e.x.cols)
    return shapeError(op, "expected W_enc of shape [" + std::to_string(e.x.cols) +
                              ", features] (x has shape " + shapeOf(e.x) + "), got " +
                              shapeOf(e.wEnc));
  IAM_RETURN_IF_ERROR(expectFeatureCount(op, e.wEnc.cols));
  if (!e.bEnc.empty())
    IAM_RETURN_IF_ERROR(expectSize(op, "b_enc", e.bEnc, e.wEnc.cols, "the columns of W_enc"));
  if (!e.bDec.empty())
    IAM_RETURN_IF_ERROR(expectSize(op, "b_dec", e.bDec, e.x.cols, "the columns of x"));
  return {};
}

Weights weightsOf(const Encoder &e) {
  return {e.wEnc.data, e.wEnc.stride, e.wEnc.cols, e.bEnc.empty() ? nullptr : e.bEnc.data};
}

struct Prepared {
  Rows rows;
  Buffer<float> x;
  Buffer<std::byte> packed;
  Buffer<float> slack;
};

// Rows begin..end-1 of x: checked to be finite, b_dec subtracted, and packed for screening if
// asked.
Status prepare(const char *op, const Table &table, const Encoder &e, int64_t begin, int64_t end,
               bool screen, Prepared &out) {
  const int64_t count = end - begin, depth = e.x.cols;
  out.rows = Rows{};
  out.rows.x = e.x.row(begin);
  out.rows.stride = e.x.stride;
  out.rows.rows = count;
  out.rows.depth = depth;
  if (!e.bDec.empty()) {
    IAM_RETURN_IF_ERROR(out.x.resize(count * depth, op));
    out.rows.x = out.x.data();
    out.rows.stride = depth;
  }
  if (screen) {
    IAM_RETURN_IF_ERROR(out.packed.resize(count * table.packedStride(depth), op));
    IAM_RETURN_IF_ERROR(out.slack.resize(count * table.slacks, op));
    out.rows.packed = out.packed.data();
    out.rows.slack = out.slack.data();
  }
  constexpr int64_t kPart = 32;
  std::atomic<int64_t> bad{count}; // the first row that is not finite
  IAM_RETURN_IF_ERROR(parallelFor(op, divideUp(count, kPart), [&](int64_t part, int) {
    const int64_t first = part * kPart, last = std::min(count, first + kPart);
    for (int64_t r = first; r < last; ++r) {
      if (table.findNonFinite(e.x.row(begin + r), depth) >= 0) {
        for (int64_t seen = bad.load(); r < seen && !bad.compare_exchange_weak(seen, r);) {
        }
        return;
      }
      if (!e.bDec.empty())
        out.x.vec().eigen().segment(r * depth, depth) = e.x.vec(begin + r).eigen() - e.bDec.eigen();
    }
    if (screen)
      table.prepare(out.rows, first, last, out.packed.data(), out.slack.data());
  }));
  if (const int64_t r = bad.load(); r < count) {
    const int64_t c = table.findNonFinite(e.x.row(begin + r), depth);
    return Status(Code::kNonFinite, std::string(op) + ": expected finite x, got " +
                                        printed(e.x(begin + r, c)) + " at row " +
                                        std::to_string(begin + r) + ", column " +
                                        std::to_string(c) + "; x has shape " + shapeOf(e.x));
  }
  return {};
}

Status nanStatus(const char *op, int64_t row, int64_t feature) {
  return Status(Code::kNonFinite, std::string(op) + ": the pre-activation of feature " +
                                      std::to_string(feature) + " in row " + std::to_string(row) +
                                      " is NaN although x is finite: look at column " +
                                      std::to_string(feature) + " of W_enc, at b_enc and at b_dec");
}

// One scratch area per worker.
struct Scratch {
  Buffer<std::byte> bytes;
  int64_t each = 0;

  Status allocate(const char *op, const Table &table, int64_t depth, int workers) {
    each = divideUp(table.scratchBytes(depth), 64) * 64;
    return bytes.resize(each * workers, op);
  }
  void *of(int worker) const { return bytes.data() + each * worker; }
};

Rows partOf(const Rows &rows, const Table &table, int64_t begin, int64_t end) {
  Rows part = rows;
  part.x += begin * rows.stride;
  part.rows = end - begin;
  if (part.packed) {
    part.packed =
        static_cast<const std::byte *>(rows.packed) + begin * table.packedStride(rows.depth);
    part.slack += table.slacks * begin;
  }
  return part;
}

// -----------------------------------------------------------------------------------------------------------
// topk

// The searches of a block of rows: one state per worker, merged at the end.
class TopKBlock {
public:
  TopKBlock(const char *op, const Table &table, int64_t k, bool magnitude, int64_t maxRows,
            int workers)
      : op(op), table(table), k(k), magnitude(magnitude), maxRows(maxRows), workers(workers),
        capacity(kernels::minCapacity(k)) {}

  Status allocate() {
    IAM_RETURN_IF_ERROR(searches.resize(maxRows * workers, op));
    IAM_RETURN_IF_ERROR(recomputed.resize(workers, op));
    IAM_RETURN_IF_ERROR(candidates.resize(maxRows * workers * capacity, op));
    return merged.resize(capacity * workers * workers, op);
  }

  TopKState state(int worker) const {
    return {k,
            capacity,
            magnitude,
            searches.data() + worker * maxRows,
            candidates.data() + worker * maxRows * capacity,
            recomputed.data() + worker};
  }

  void start(int64_t rows) {
    for (int w = 0; w < workers; ++w) {
      const TopKState s = state(w);
      *s.recomputed = 0;
      for (int64_t r = 0; r < rows; ++r)
        table.start(s, r);
    }
  }

  // Bounds decided too little for screening to pay.
  bool hopeless() const {
    return std::any_of(recomputed.data(), recomputed.data() + workers,
                       [](int64_t n) { return n > kernels::kPatience; });
  }

  // Row r, all workers: those that may be among the k largest, in worker 0's place. Recomputes on
  // the spot only if there are more of them than fit.
  void merge(int64_t r, int worker, const Rows *rows, const Weights *weights) {
    Candidate *all = merged.data() + worker * capacity * workers;
    int64_t count = 0;
    for (int w = 0; w < workers; ++w) {
      const TopKState s = state(w);
      count = std::copy_n(s.candidates + r * capacity, s.searches[r].count, all + count) - all;
      if (s.searches[r].nan >= 0)
        state(0).searches[r].nan = s.searches[r].nan;
    }
    count = table.prune(all, count, k);
    if (count > capacity) {
      if ((recomputed[worker] += count) > kernels::kPatience)
        return;
      for (int64_t i = 0; i < count; ++i)
        if (all[i].lower != all[i].upper)
          recompute(all[i], r, *rows, *weights);
      count = table.prune(all, count, k);
    }
    const TopKState s = state(0);
    std::copy_n(all, count, s.candidates + r * capacity);
    s.searches[r].count = static_cast<int32_t>(count);
  }

  void recompute(Candidate &c, int64_t r, const Rows &rows, const Weights &weights) const {
    const Pair pair = {static_cast<int32_t>(r), featureOf(c)};
    float value = 0;
    table.exact(rows, weights, &pair, 1, &value);
    settle(c, value, r);
  }

  void settle(Candidate &c, float value, int64_t r) const {
    const int32_t feature = featureOf(c);
    if (value != value) {
      state(0).searches[r].nan = feature;
      value = std::numeric_limits<float>::infinity();
    }
    c = kernels::exactly(value, feature, magnitude);
  }

  // All entries of the block that are not exact yet, a group of columns of W at a time, so that
  // reading them is shared.
  Status settleAll(const Rows &rows, const Weights &weights) {
    const TopKState s = state(0);
    constexpr int64_t kGroup = kernels::kExactGroup;
    std::vector<int64_t> place(static_cast<std::size_t>(divideUp(weights.features, kGroup) + 1), 0);
    const auto forOpen = [&](auto &&visit) {
      for (int64_t r = 0; r < rows.rows; ++r)
        for (int32_t i = 0; i < s.searches[r].count; ++i)
          if (Candidate &c = s.candidates[r * capacity + i]; c.lower != c.upper)
            visit(r, c);
    };
    int64_t count = 0;
    forOpen([&](int64_t, Candidate &c) {
      ++place[static_cast<std::size_t>(c.index / kGroup + 1)], ++count;
    });
    for (std::size_t g = 1; g < place.size(); ++g)
      place[g] += place[g - 1];
    Buffer<Pair> pairs;
    Buffer<Candidate *> targets;
    Buffer<float> values;
    IAM_RETURN_IF_ERROR(pairs.resize(count, op));
    IAM_RETURN_IF_ERROR(targets.resize(count, op));
    IAM_RETURN_IF_ERROR(values.resize(count, op));
    forOpen([&](int64_t r, Candidate &c) {
      const int64_t at = place[static_cast<std::size_t>(c.index / kGroup)]++;
      pairs[at] = {static_cast<int32_t>(r), c.index};
      targets[at] = &c;
    });
    constexpr int64_t kPart = 256;
    IAM_RETURN_IF_ERROR(parallelFor(op, divideUp(count, kPart), [&](int64_t part, int) {
      const int64_t first = part * kPart, n = std::min(kPart, count - first);
      table.exact(rows, weights, pairs.data() + first, n, values.data() + first);
    }));
    for (int64_t i = 0; i < count; ++i)
      settle(*targets[i], values[i], pairs[i].row);
    return {};
  }

  // Writes row r, whose entries are all exact now. False if it holds a NaN.
  bool finish(int64_t r, float *values, int32_t *indices) {
    const TopKState s = state(0);
    if (s.searches[r].nan >= 0)
      return false;
    Candidate *held = s.candidates + r * capacity;
    std::partial_sort(held, held + k, held + s.searches[r].count, kernels::better);
    for (int64_t i = 0; i < k; ++i) {
      values[i] = valueOf(held[i]);
      indices[i] = featureOf(held[i]);
    }
    return true;
  }

  int64_t nanFeature(int64_t r) const { return state(0).searches[r].nan; }

private:
  const char *op;
  const Table &table;
  int64_t k;
  bool magnitude;
  int64_t maxRows;
  int workers;
  int64_t capacity;
  Buffer<Search> searches;
  Buffer<int64_t> recomputed;
  Buffer<Candidate> candidates;
  Buffer<Candidate> merged;
};

} // namespace

Status encodeDense(const Encoder &e, Mat<float> pre) {
  constexpr const char *op = "iam.clt.encode";
  IAM_RETURN_IF_ERROR(checkEncoder(op, e));
  IAM_RETURN_IF_ERROR(expectShape(op, "pre", pre, e.x.rows, e.wEnc.cols));
  const Table *table = nullptr;
  IAM_RETURN_IF_ERROR(kernels::get(table));
  Prepared prepared;
  IAM_RETURN_IF_ERROR(prepare(op, *table, e, 0, e.x.rows, false, prepared));
  Scratch scratch;
  IAM_RETURN_IF_ERROR(scratch.allocate(op, *table, e.x.cols, numThreads()));
  const Weights weights = weightsOf(e);
  const int64_t chunk = chunkFor(e.x.rows, weights.features),
                chunks = divideUp(weights.features, chunk);
  return parallelFor(op, divideUp(e.x.rows, kRowPart) * chunks, [&](int64_t task, int worker) {
    const int64_t row = task / chunks * kRowPart, begin = task % chunks * chunk;
    const Rows part = partOf(prepared.rows, *table, row, std::min(e.x.rows, row + kRowPart));
    table->dense(part, weights, begin, std::min(weights.features, begin + chunk), nullptr, 0,
                 pre.row(row), pre.stride, scratch.of(worker));
  });
}

Status searchRows(const char *op, const Encoder &e, bool magnitude, FixedCodesOut codes,
                  kernels::Pair &nan) {
  IAM_RETURN_IF_ERROR(checkEncoder(op, e));
  const int64_t k = codes.values.cols, rows = e.x.rows;
  IAM_RETURN_IF_ERROR(expectK(op, k, e.wEnc.cols, "W_enc has shape " + shapeOf(e.wEnc)));
  IAM_RETURN_IF_ERROR(expectShape(op, "values", codes.values, rows, k));
  IAM_RETURN_IF_ERROR(expectCodes(op, codes));
  if (rows == 0)
    return {};
  const Table *table = nullptr;
  IAM_RETURN_IF_ERROR(kernels::get(table));
  const int workers = numThreads();
  const int64_t perRow =
      static_cast<int64_t>(sizeof(Candidate)) * kernels::minCapacity(k) * workers;
  const int64_t block = std::min(rows, std::clamp<int64_t>(kTopKBytes / perRow, 8, kTopKRows));
  TopKBlock search(op, *table, k, magnitude, block, workers);
  IAM_RETURN_IF_ERROR(search.allocate());
  Scratch scratch;
  IAM_RETURN_IF_ERROR(scratch.allocate(op, *table, e.x.cols, workers));
  const Weights weights = weightsOf(e);
  const int64_t chunk = chunkFor(rows, weights.features);
  std::atomic<int64_t> nanRow{rows};
  for (int64_t begin = 0; begin < rows; begin += block) {
    const int64_t count = std::min(block, rows - begin);
    bool screen = count >= table->screenFrom && table->packedStride(e.x.cols) > 0;
    Prepared prepared;
    IAM_RETURN_IF_ERROR(prepare(op, *table, e, begin, begin + count, screen, prepared));
    constexpr int64_t kPart = 16;
    const auto forRows = [&](auto &&body) {
      return parallelFor(op, divideUp(count, kPart), [&](int64_t part, int worker) {
        for (int64_t r = part * kPart; r < std::min(count, (part + 1) * kPart); ++r)
          body(r, worker);
      });
    };
    const auto searchAll = [&]() -> Status {
      search.start(count);
      IAM_RETURN_IF_ERROR(
          parallelFor(op, divideUp(weights.features, chunk), [&](int64_t task, int worker) {
            table->topk(prepared.rows, weights, task * chunk,
                        std::min(weights.features, (task + 1) * chunk), search.state(worker),
                        scratch.of(worker));
          }));
      if (search.hopeless())
        return {};
      return forRows(
          [&](int64_t r, int worker) { search.merge(r, worker, &prepared.rows, &weights); });
    };
    IAM_RETURN_IF_ERROR(searchAll());
    if (screen && search.hopeless()) {
      screen = false;
      prepared.rows.packed = nullptr;
      IAM_RETURN_IF_ERROR(searchAll());
    }
    if (screen)
      IAM_RETURN_IF_ERROR(search.settleAll(prepared.rows, weights));
    IAM_RETURN_IF_ERROR(forRows([&](int64_t r, int) {
      if (!search.finish(r, codes.values.row(begin + r), codes.indices.row(begin + r)))
        for (int64_t seen = nanRow.load();
             begin + r < seen && !nanRow.compare_exchange_weak(seen, begin + r);) {
        }
    }));
    if (const int64_t r = nanRow.load(); r < rows) {
      nan = {static_cast<int32_t>(r), static_cast<int32_t>(search.nanFeature(r - begin))};
      return {};
    }
  }
  return {};
}

namespace {

Status encodeLargest(const char *op, const Encoder &e, bool magnitude, FixedCodesOut codes) {
  Pair nan = {-1, -1};
  IAM_RETURN_IF_ERROR(searchRows(op, e, magnitude, codes, nan));
  return nan.row < 0 ? Status() : nanStatus(op, nan.row, nan.feature);
}

} // namespace

Status encodeTopK(const Encoder &e, FixedCodesOut codes) {
  return encodeLargest("iam.clt.encode_topk", e, false, codes);
}

Status encodeAbsTopK(const Encoder &e, FixedCodesOut codes) {
  return encodeLargest("iam.clt.encode_abstopk", e, true, codes);
}

Status encodeGroupMax(const Encoder &e, FixedCodesOut codes) {
  constexpr const char *op = "iam.clt.encode_groupmax";
  IAM_RETURN_IF_ERROR(checkEncoder(op, e));
  const int64_t groups = codes.values.cols, rows = e.x.rows;
  IAM_RETURN_IF_ERROR(expectGroups(op, groups, e.wEnc.cols, "W_enc has shape " + shapeOf(e.wEnc)));
  IAM_RETURN_IF_ERROR(expectShape(op, "values", codes.values, rows, groups));
  IAM_RETURN_IF_ERROR(expectCodes(op, codes));
  const Table *table = nullptr;
  IAM_RETURN_IF_ERROR(kernels::get(table));
  Prepared prepared;
  IAM_RETURN_IF_ERROR(prepare(op, *table, e, 0, rows, false, prepared));
  Scratch scratch;
  IAM_RETURN_IF_ERROR(scratch.allocate(op, *table, e.x.cols, numThreads()));
  const Weights weights = weightsOf(e);
  // A group is searched by one task, in the room of its result.
  const int64_t width = weights.features / groups,
                chunk = std::max<int64_t>(chunkFor(rows, weights.features) / width, 1) * width,
                chunks = divideUp(weights.features, chunk);
  std::atomic<int64_t> nan{-1}; // row * features + feature
  IAM_RETURN_IF_ERROR(
      parallelFor(op, divideUp(rows, kRowPart) * chunks, [&](int64_t task, int worker) {
        const int64_t row = task / chunks * kRowPart, begin = task % chunks * chunk;
        const Rows part = partOf(prepared.rows, *table, row, std::min(rows, row + kRowPart));
        const int64_t end = std::min(weights.features, begin + chunk);
        const Pair bad = table->groupMax(part, weights, width, begin, end, codes.values.row(row),
                                         codes.values.stride, codes.indices.row(row),
                                         codes.indices.stride, scratch.of(worker));
        if (bad.row >= 0)
          nan = (row + bad.row) * weights.features + bad.feature;
        for (int64_t r = row; r < row + part.rows; ++r)
          for (int64_t g = begin / width; g < end / width; ++g)
            codes.values(r, g) = std::max(codes.values(r, g), 0.0f);
      }));
  const int64_t at = nan.load();
  return at < 0 ? Status() : nanStatus(op, at / weights.features, at % weights.features);
}

namespace {

// encodeThreshold of operands that fit. `ids`, one per column of W_enc, are what the features are
// called; empty: their number.
Status encodeAbove(const char *op, const Encoder &e, Vec<const float> theta, Vec<const int32_t> ids,
                   CsrResult &codes) {
  const Table *table = nullptr;
  IAM_RETURN_IF_ERROR(kernels::get(table));
  const int64_t rows = e.x.rows;
  Prepared prepared;
  IAM_RETURN_IF_ERROR(prepare(op, *table, e, 0, rows, false, prepared));
  const int workers = numThreads();
  const Weights weights = weightsOf(e);
  const int64_t chunk = chunkFor(rows, weights.features),
                chunks = divideUp(weights.features, chunk);
  const int64_t tasks = divideUp(rows, kRowPart) * chunks, partRows = std::min(rows, kRowPart);
  Scratch scratch;
  IAM_RETURN_IF_ERROR(scratch.allocate(op, *table, e.x.cols, workers));
  // A task fills its worker's room for the worst case, then keeps only what there is.
  Buffer<float> roomValues;
  Buffer<int32_t> roomIndices, counts;
  IAM_RETURN_IF_ERROR(roomValues.resize(workers * partRows * chunk, op));
  IAM_RETURN_IF_ERROR(roomIndices.resize(workers * partRows * chunk, op));
  IAM_RETURN_IF_ERROR(counts.resize(tasks * partRows, op));
  struct Kept {
    Buffer<float> values;
    Buffer<int32_t> indices;
    Pair nan{-1, -1};
  };
  std::vector<Kept> kept(static_cast<std::size_t>(tasks));
  std::atomic<bool> full{false};
  IAM_RETURN_IF_ERROR(parallelFor(op, tasks, [&](int64_t task, int worker) {
    const int64_t row = task / chunks * kRowPart, begin = task % chunks * chunk;
    const Rows part = partOf(prepared.rows, *table, row, std::min(rows, row + kRowPart));
    float *values = roomValues.data() + worker * partRows * chunk;
    int32_t *indices = roomIndices.data() + worker * partRows * chunk,
            *count = counts.data() + task * partRows;
    Kept &own = kept[static_cast<std::size_t>(task)];
    own.nan = table->threshold(part, weights, theta.empty() ? nullptr : theta.data, begin,
                               std::min(weights.features, begin + chunk), values, indices, count,
                               chunk, scratch.of(worker));
    int64_t total = 0;
    for (int64_t r = 0; r < part.rows; ++r)
      total += count[r];
    if (!own.values.resize(total, op).ok() || !own.indices.resize(total, op).ok()) {
      full = true;
      return;
    }
    int64_t at = 0;
    for (int64_t r = 0; r < part.rows; at += count[r++]) {
      std::copy_n(values + r * chunk, count[r], own.values.data() + at);
      std::copy_n(indices + r * chunk, count[r], own.indices.data() + at);
    }
  }));
  if (full)
    return outOfMemory(op);
  for (int64_t task = 0; task < tasks; ++task)
    if (const Pair nan = kept[static_cast<std::size_t>(task)].nan; nan.row >= 0)
      return nanStatus(op, task / chunks * kRowPart + nan.row,
                       ids.empty() ? nan.feature : ids[nan.feature]);
  IAM_RETURN_IF_ERROR(codes.offsets.resize(rows + 1, op));
  int64_t total = 0;
  codes.offsets[0] = 0;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < chunks; ++c)
      total += counts[(r / kRowPart * chunks + c) * partRows + r % kRowPart];
    codes.offsets[r + 1] = total;
  }
  IAM_RETURN_IF_ERROR(codes.values.resize(total, op));
  IAM_RETURN_IF_ERROR(codes.indices.resize(total, op));
  return parallelFor(op, divideUp(rows, kRowPart), [&](int64_t part, int) {
    const int64_t first = part * kRowPart, last = std::min(rows, first + kRowPart);
    std::vector<int64_t> read(static_cast<std::size_t>(chunks), 0);
    for (int64_t r = first; r < last; ++r) {
      int64_t at = codes.offsets[r];
      for (int64_t c = 0; c < chunks; ++c) {
        const Kept &own = kept[static_cast<std::size_t>(part * chunks + c)];
        const int32_t n = counts[(part * chunks + c) * partRows + r - first];
        int64_t &from = read[static_cast<std::size_t>(c)];
        std::copy_n(own.values.data() + from, n, codes.values.data() + at);
        const int32_t *found = own.indices.data() + from;
        if (ids.empty())
          std::copy_n(found, n, codes.indices.data() + at);
        else
          std::transform(found, found + n, codes.indices.data() + at,
                         [&](int32_t column) { return ids[column]; });
        from += n, at += n;
      }
    }
  });
}

Status checkThreshold(const char *op, const Encoder &e, Vec<const float> theta) {
  IAM_RETURN_IF_ERROR(checkEncoder(op, e));
  if (!theta.empty())
    IAM_RETURN_IF_ERROR(expectSize(op, "threshold", theta, e.wEnc.cols, "the columns of W_enc"));
  return {};
}

// Ascending, so that the rows of the result are: their order is that of the columns.
Status expectAscending(const char *op, Vec<const int32_t> only, int64_t features) {
  if (only.empty())
    return Status(Code::kInvalidArgument, std::string(op) + ": expected at least one feature");
  for (int64_t i = 0; i < only.size; ++i) {
    if (only[i] < 0 || only[i] >= features)
      return Status(Code::kFeatureRange, std::string(op) + ": expected features in 0.." +
                                             std::to_string(features - 1) + ", got " +
                                             std::to_string(only[i]));
    if (i > 0 && only[i] <= only[i - 1])
      return Status(Code::kInvalidArgument,
                    std::string(op) + ": expected features in ascending order, each once, got " +
                        std::to_string(only[i]) + " after " + std::to_string(only[i - 1]));
  }
  return {};
}

// The chosen columns of W_enc, b_enc and threshold, side by side.
struct Columns {
  Buffer<float> w, b, theta;

  Status gather(const char *op, const Encoder &e, Vec<const float> threshold,
                Vec<const int32_t> only) {
    const int64_t n = only.size, depth = e.wEnc.rows;
    IAM_RETURN_IF_ERROR(w.resize(depth * n, op));
    IAM_RETURN_IF_ERROR(take(op, e.bEnc, only, b));
    IAM_RETURN_IF_ERROR(take(op, threshold, only, theta));
    constexpr int64_t kPart = 128;
    return parallelFor(op, divideUp(depth, kPart), [&](int64_t part, int) {
      const int64_t first = part * kPart, last = std::min(depth, first + kPart);
      for (int64_t i = first; i < last; ++i) {
        const float *from = e.wEnc.row(i);
        float *to = w.data() + i * n;
        for (int64_t j = 0; j < n; ++j)
          to[j] = from[only[j]];
      }
    });
  }

  static Status take(const char *op, Vec<const float> from, Vec<const int32_t> only,
                     Buffer<float> &to) {
    IAM_RETURN_IF_ERROR(to.resize(from.empty() ? 0 : only.size, op));
    for (int64_t j = 0; j < to.size(); ++j)
      to[j] = from[only[j]];
    return {};
  }
};

} // namespace

Status encodeThreshold(const Encoder &e, Vec<const float> theta, CsrResult &codes) {
  constexpr const char *op = "iam.clt.encode_threshold";
  IAM_RETURN_IF_ERROR(checkThreshold(op, e, theta));
  return encodeAbove(op, e, theta, {}, codes);
}

Status encodeThresholdOnly(const Encoder &e, Vec<const float> theta, Vec<const int32_t> only,
                           CsrResult &codes) {
  constexpr const char *op = "iam.clt.encode_threshold_only";
  IAM_RETURN_IF_ERROR(checkThreshold(op, e, theta));
  IAM_RETURN_IF_ERROR(expectAscending(op, only, e.wEnc.cols));
  Columns columns;
  IAM_RETURN_IF_ERROR(columns.gather(op, e, theta, only));
  const Encoder sliced = {e.x,
                          {columns.w.data(), e.wEnc.rows, only.size},
                          {columns.b.data(), columns.b.size()},
                          e.bDec};
  return encodeAbove(op, sliced, {columns.theta.data(), columns.theta.size()}, only, codes);
}

} // namespace iam::rt
