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
// encodeBatchTopK finds at most this many entries at a time.
constexpr int64_t kBatchEntries = 4 << 20;
// Magnitudes are computed one at a time where fewer than one gate in kOpenPart is open; one of these
// costs about 17 times its share of a tile (768 x 8,192, AVX2).
constexpr int64_t kOpenPart = 20;

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

Status nanStatus(const char *op, int64_t row, int64_t feature, bool isMagnitude = false) {
  return Status(Code::kNonFinite,
                std::string(op) + ": the " + (isMagnitude ? "magnitude" : "pre-activation") +
                    " of feature " + std::to_string(feature) + " in row " + std::to_string(row) +
                    " is NaN although x is finite: look at column " + std::to_string(feature) +
                    " of " + (isMagnitude ? "W_mag, at b_mag" : "W_enc, at b_enc") +
                    " and at b_dec");
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

// Replaces the open gates of a tile by their magnitudes, and keeps those that are positive.
class Magnitudes {
public:
  explicit Magnitudes(const Weights &weights) : weights(weights) {}

  Status allocate(const char *op, int64_t rows, int64_t chunk, int workers) {
    tileRows = rows, width = chunk, few = rows * chunk / kOpenPart;
    IAM_RETURN_IF_ERROR(tiles.resize(workers * rows * chunk, op));
    IAM_RETURN_IF_ERROR(pairs.resize(workers * few, op));
    return places.resize(workers * few, op);
  }

  // values, indices (features) and counts of columns begin..end-1, as Table::threshold leaves them
  // with a capacity of `chunk`. Returns a (row, feature) that is NaN, or {-1, -1}.
  Pair take(const Table &table, const Rows &rows, int64_t begin, int64_t end, float *values,
            int32_t *indices, int32_t *counts, void *scratch, int worker) const {
    float *tile = tiles.data() + worker * tileRows * width;
    int64_t open = 0;
    for (int64_t r = 0; r < rows.rows; ++r)
      open += counts[r];
    if (open > few) {
      const Weights part = {weights.w + begin, weights.stride, end - begin,
                            weights.bias ? weights.bias + begin : nullptr};
      table.dense(rows, part, 0, end - begin, nullptr, 0, tile, width, scratch);
      for (int64_t r = 0; r < rows.rows; ++r)
        for (int32_t i = 0; i < counts[r]; ++i)
          values[r * width + i] = tile[r * width + indices[r * width + i] - begin];
    } else {
      oneByOne(table, rows, begin, end, values, indices, counts, tile, worker);
    }
    Pair nan = {-1, -1};
    for (int64_t r = 0; r < rows.rows; ++r) {
      int32_t kept = 0;
      for (int32_t i = 0; i < counts[r]; ++i) {
        const float v = values[r * width + i];
        const int32_t feature = indices[r * width + i];
        if (v != v)
          nan = {static_cast<int32_t>(r), feature};
        values[r * width + kept] = v;
        indices[r * width + kept] = feature;
        kept += v > 0;
      }
      counts[r] = kept;
    }
    return nan;
  }

private:
  // Pairs of one group of columns come one after another, so that reading these is shared.
  void oneByOne(const Table &table, const Rows &rows, int64_t begin, int64_t end, float *values,
                const int32_t *indices, const int32_t *counts, float *found, int worker) const {
    Pair *pair = pairs.data() + worker * few;
    int64_t *place = places.data() + worker * few, n = 0;
    std::vector<int32_t> next(static_cast<std::size_t>(rows.rows), 0);
    constexpr int64_t kGroup = kernels::kExactGroup;
    for (int64_t limit = (begin / kGroup + 1) * kGroup; limit < end + kGroup; limit += kGroup)
      for (int64_t r = 0; r < rows.rows; ++r) {
        int32_t &i = next[static_cast<std::size_t>(r)];
        for (; i < counts[r] && indices[r * width + i] < limit; ++i) {
          pair[n] = {static_cast<int32_t>(r), indices[r * width + i]};
          place[n++] = r * width + i;
        }
      }
    table.exact(rows, weights, pair, n, found);
    for (int64_t i = 0; i < n; ++i)
      values[place[i]] = found[i];
  }

  Weights weights;
  int64_t tileRows = 0, width = 0, few = 0;
  Buffer<float> tiles;
  Buffer<Pair> pairs;
  Buffer<int64_t> places;
};

// Rows begin..end-1 of encodeThreshold, of operands that fit. `ids`, one per column of W_enc, are
// what the features are called; empty: their number. With `magnitude`, what is above the threshold
// is a gate.
Status encodeAbove(const char *op, const Encoder &e, int64_t firstRow, int64_t rows,
                   Vec<const float> theta, Vec<const int32_t> ids, const Weights *magnitude,
                   CsrResult &codes) {
  const Table *table = nullptr;
  IAM_RETURN_IF_ERROR(kernels::get(table));
  Prepared prepared;
  IAM_RETURN_IF_ERROR(prepare(op, *table, e, firstRow, firstRow + rows, false, prepared));
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
  Magnitudes magnitudes(magnitude ? *magnitude : Weights());
  if (magnitude)
    IAM_RETURN_IF_ERROR(magnitudes.allocate(op, partRows, chunk, workers));
  struct Kept {
    Buffer<float> values;
    Buffer<int32_t> indices;
    Pair nan{-1, -1};
    bool nanIsMagnitude = false;
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
    const int64_t end = std::min(weights.features, begin + chunk);
    own.nan = table->threshold(part, weights, theta.empty() ? nullptr : theta.data, begin, end,
                               values, indices, count, chunk, scratch.of(worker));
    if (magnitude && own.nan.row < 0) {
      own.nan = magnitudes.take(*table, part, begin, end, values, indices, count,
                                scratch.of(worker), worker);
      own.nanIsMagnitude = true;
    }
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
  for (int64_t task = 0; task < tasks; ++task) {
    const Kept &own = kept[static_cast<std::size_t>(task)];
    if (const Pair nan = own.nan; nan.row >= 0)
      return nanStatus(op, firstRow + task / chunks * kRowPart + nan.row,
                       ids.empty() ? nan.feature : ids[nan.feature], own.nanIsMagnitude);
  }
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

// The rows of all parts, one part after the other.
Status join(const char *op, const std::vector<CsrResult> &parts, CsrResult &out) {
  int64_t rows = 0, nnz = 0;
  for (const CsrResult &part : parts)
    rows += part.offsets.size() - 1, nnz += part.values.size();
  IAM_RETURN_IF_ERROR(out.values.resize(nnz, op));
  IAM_RETURN_IF_ERROR(out.indices.resize(nnz, op));
  IAM_RETURN_IF_ERROR(out.offsets.resize(rows + 1, op));
  int64_t row = 0, at = 0;
  out.offsets[0] = 0;
  for (const CsrResult &part : parts) {
    std::copy(part.values.begin(), part.values.end(), out.values.data() + at);
    std::copy(part.indices.begin(), part.indices.end(), out.indices.data() + at);
    for (int64_t r = 1; r < part.offsets.size(); ++r)
      out.offsets[++row] = at + part.offsets[r];
    at += part.values.size();
  }
  return {};
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
  return encodeAbove(op, e, 0, e.x.rows, theta, {}, nullptr, codes);
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
  return encodeAbove(op, sliced, 0, e.x.rows, {columns.theta.data(), columns.theta.size()}, only,
                     nullptr, codes);
}

Status encodeGate(const Encoder &e, Mat<const float> wMag, Vec<const float> bMag,
                  Vec<const int32_t> only, CsrResult &codes) {
  constexpr const char *op = "iam.clt.encode_gate";
  IAM_RETURN_IF_ERROR(checkEncoder(op, e));
  IAM_RETURN_IF_ERROR(expectShape(op, "W_mag", wMag, e.wEnc.rows, e.wEnc.cols));
  if (!bMag.empty())
    IAM_RETURN_IF_ERROR(expectSize(op, "b_mag", bMag, wMag.cols, "the columns of W_mag"));
  const Encoder magnitude = {e.x, wMag, bMag, e.bDec};
  if (only.empty()) {
    const Weights weights = weightsOf(magnitude);
    return encodeAbove(op, e, 0, e.x.rows, {}, {}, &weights, codes);
  }
  IAM_RETURN_IF_ERROR(expectAscending(op, only, e.wEnc.cols));
  Columns gate, size;
  IAM_RETURN_IF_ERROR(gate.gather(op, e, {}, only));
  IAM_RETURN_IF_ERROR(size.gather(op, magnitude, {}, only));
  const Encoder sliced = {
      e.x, {gate.w.data(), e.wEnc.rows, only.size}, {gate.b.data(), gate.b.size()}, e.bDec};
  const Weights weights = {size.w.data(), only.size, only.size,
                           bMag.empty() ? nullptr : size.b.data()};
  return encodeAbove(op, sliced, 0, e.x.rows, {}, only, &weights, codes);
}

Status encodeBatchTopK(const Encoder &e, int64_t k, CsrResult &codes) {
  constexpr const char *op = "iam.clt.encode_batch_topk";
  IAM_RETURN_IF_ERROR(checkEncoder(op, e));
  const int64_t rows = e.x.rows, features = e.wEnc.cols;
  IAM_RETURN_IF_ERROR(expectK(op, k, features, "W_enc has shape " + shapeOf(e.wEnc)));
  // What is not among the k * rows largest of the rows so far never will be, and what comes later
  // loses a tie: once there are as many, only what is strictly above the smallest is of interest.
  const int64_t wanted = k * rows,
                block = std::clamp<int64_t>(kBatchEntries / features, kStreamRows, kRowPart);
  Buffer<float> limits;
  std::vector<CsrResult> parts;
  int64_t held = 0;
  for (int64_t begin = 0; begin < rows; begin += block) {
    const int64_t count = std::min(block, rows - begin);
    IAM_RETURN_IF_ERROR(encodeAbove(op, e, begin, count, {limits.data(), limits.size()}, {},
                                    nullptr, parts.emplace_back()));
    held += parts.back().values.size();
    if (held <= 2 * wanted || begin + count == rows)
      continue;
    float limit = 0;
    CsrResult all, kept;
    IAM_RETURN_IF_ERROR(join(op, parts, all));
    IAM_RETURN_IF_ERROR(keepLargest(op, all, wanted, kept, limit));
    held = wanted;
    parts.clear();
    parts.push_back(std::move(kept));
    if (limits.size() == 0)
      IAM_RETURN_IF_ERROR(limits.resize(features, op));
    std::fill(limits.begin(), limits.end(), limit);
  }
  float limit = 0;
  CsrResult all;
  IAM_RETURN_IF_ERROR(join(op, parts, all));
  if (held > wanted)
    return keepLargest(op, all, wanted, codes, limit);
  codes = std::move(all);
  return {};
}

} // namespace iam::rt
