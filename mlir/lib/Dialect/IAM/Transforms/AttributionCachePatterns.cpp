//===- AttributionCachePatterns.cpp - rewrites of iam-attribution-cache -------===//
//
// Part of the IAM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// They are no patterns of the greedy driver: each looks at all segments of a
// function at once, to find the op that serves most of them.
//
//===----------------------------------------------------------------------===//

#include "iam/Dialect/IAM/IR/IAMOps.h"
#include "iam/Dialect/IAM/IR/Sites.h"
#include "iam/Dialect/IAM/Transforms/Passes.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/Dialect/SCF/Utils/Utils.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/Dominance.h"
#include "mlir/IR/Matchers.h"
#include "mlir/IR/PatternMatch.h"
#include "mlir/Interfaces/SideEffectInterfaces.h"
#include "mlir/Transforms/LoopInvariantCodeMotionUtils.h"
#include "llvm/ADT/SetVector.h"
#include "llvm/ADT/TypeSwitch.h"

using namespace mlir;
using namespace iam;

namespace {
bool isSegment(Operation *op) { return isa<ModelRunOp, ModelLinearizeOp>(op); }

bool isOurs(Operation *op) { return isa_and_present<IAMDialect>(op->getDialect()); }

/// What a segment says, whichever of the two ops it is.
struct Segment {
  explicit Segment(Operation *op) : op(op) {
    llvm::TypeSwitch<Operation *>(op).Case<ModelRunOp, ModelLinearizeOp>([&](auto segment) {
      model = segment.getModel();
      h = segment.getH();
      from = segment.getFromAttr();
      to = segment.getToAttr();
      tokens = segment.getTokensAttr();
      positions = segment.getPositionsAttr();
      y = segment.getY();
    });
  }
  bool isLinearize() const { return isa<ModelLinearizeOp>(op); }

  Operation *op;
  Value model, h, y;
  StringAttr from, to;
  DenseI64ArrayAttr tokens, positions;
};

SmallVector<Operation *> segmentsIn(Operation *root) {
  SmallVector<Operation *> found;
  root->walk<WalkOrder::PreOrder>([&](Operation *op) {
    if (isSegment(op))
      found.push_back(op);
  });
  return found;
}

//===----------------------------------------------------------------------===//
// 1. Loops over one path
//===----------------------------------------------------------------------===//

bool isEqual(Value a, Value b) {
  if (a == b)
    return true;
  APInt m, n;
  return matchPattern(a, m_ConstantInt(&m)) && matchPattern(b, m_ConstantInt(&n)) && m == n;
}

/// Nothing but arithmetic and assertions.
bool mayBeReordered(Operation *op) {
  return !op->walk([](Operation *inner) {
              bool isFree = isOurs(inner) || inner->hasTrait<OpTrait::IsTerminator>() ||
                            inner->hasTrait<OpTrait::HasRecursiveMemoryEffects>() ||
                            isMemoryEffectFree(inner);
              return isFree ? WalkResult::advance() : WalkResult::interrupt();
            }).wasInterrupted();
}

/// The ops between two ops of a block that the second one needs, in order; none if one of them is
/// or needs the first, or has to stay where it is.
std::optional<SmallVector<Operation *>> neededBetween(Operation *first, Operation *second) {
  Block *block = first->getBlock();
  llvm::SmallSetVector<Operation *, 8> needed;
  SmallVector<Operation *> pending{second};
  while (!pending.empty()) {
    Operation *op = pending.pop_back_val();
    WalkResult result = op->walk([&](Operation *inner) {
      for (Value operand : inner->getOperands()) {
        Operation *made = operand.getDefiningOp();
        made = made ? block->findAncestorOpInBlock(*made) : nullptr;
        if (!made || made == op || made->isBeforeInBlock(first))
          continue;
        if (made == first || !isMemoryEffectFree(made))
          return WalkResult::interrupt();
        if (needed.insert(made))
          pending.push_back(made);
      }
      return WalkResult::advance();
    });
    if (result.wasInterrupted())
      return std::nullopt;
  }
  SmallVector<Operation *> sorted = needed.takeVector();
  llvm::sort(sorted, [](Operation *a, Operation *b) { return a->isBeforeInBlock(b); });
  return sorted;
}

/// `second` joins `first`; the loop that both are, or none.
scf::ForOp joined(scf::ForOp first, scf::ForOp second, RewriterBase &rewriter) {
  if (!isEqual(first.getLowerBound(), second.getLowerBound()) ||
      !isEqual(first.getUpperBound(), second.getUpperBound()) ||
      !isEqual(first.getStep(), second.getStep())) {
    second.emitRemark("is a loop of its own: its bounds are not those of the loop before");
    return {};
  }
  for (Operation *op = first; op != second->getNextNode(); op = op->getNextNode())
    if (!mayBeReordered(op)) {
      second.emitRemark("is a loop of its own: something with an effect is in it, or between it "
                        "and the loop before");
      return {};
    }
  std::optional<SmallVector<Operation *>> needed = neededBetween(first, second);
  if (!needed) {
    second.emitRemark("is a loop of its own: it needs a result of the loop before");
    return {};
  }
  for (Operation *op : *needed)
    rewriter.moveOpBefore(op, first);
  second.emitRemark("joins the loop before, which goes over the same points");
  return fuseIndependentSiblingForLoops(second, first, rewriter);
}

bool holdsSegment(scf::ForOp loop) {
  return loop
      ->walk([](Operation *op) {
        return isSegment(op) ? WalkResult::interrupt() : WalkResult::advance();
      })
      .wasInterrupted();
}
} // namespace

void iam::fuseAttributionLoops(Operation *root, RewriterBase &rewriter,
                               AttributionCacheCounts &counts) {
  SmallVector<Block *> blocks;
  root->walk([&](Block *block) { blocks.push_back(block); });
  for (Block *block : blocks) {
    SmallVector<scf::ForOp> open; // loops that others may join, one for each group of equal bounds
    for (scf::ForOp loop : llvm::to_vector(block->getOps<scf::ForOp>())) {
      if (!holdsSegment(loop))
        continue;
      bool isJoined = false;
      for (scf::ForOp &first : open)
        if (scf::ForOp both = joined(first, loop, rewriter)) {
          first = both;
          isJoined = true;
          ++counts.loopsFused;
          break;
        }
      if (!isJoined)
        open.push_back(loop);
    }
  }
}

//===----------------------------------------------------------------------===//
// 2. Hoisting
//===----------------------------------------------------------------------===//

static bool mayBeHoisted(Operation *op) {
  return isOurs(op) && op->getNumRegions() == 0 && isMemoryEffectFree(op) && isSpeculatable(op);
}

/// Ops that both branches compute move before the choice.
static int64_t hoistFromBranches(scf::IfOp choice, RewriterBase &rewriter) {
  if (!choice.elseBlock())
    return 0;
  int64_t moved = 0;
  auto isOutside = [&](Value v) { return !choice->isAncestor(v.getParentBlock()->getParentOp()); };
  for (Operation &op : llvm::make_early_inc_range(choice.thenBlock()->without_terminator())) {
    if (!mayBeHoisted(&op) || !llvm::all_of(op.getOperands(), isOutside))
      continue;
    for (Operation &other : choice.elseBlock()->without_terminator())
      if (OperationEquivalence::isEquivalentTo(&op, &other,
                                               OperationEquivalence::IgnoreLocations)) {
        op.emitRemark("is computed before the choice: both branches need it");
        rewriter.moveOpBefore(&op, choice);
        rewriter.replaceOp(&other, op.getResults());
        ++moved;
        break;
      }
  }
  return moved;
}

void iam::hoistAttributionOps(Operation *root, RewriterBase &rewriter,
                              AttributionCacheCounts &counts) {
  // Inner loops come first, so that an op leaves all of its loops.
  root->walk([&](Operation *op) {
    if (auto choice = dyn_cast<scf::IfOp>(op)) {
      counts.hoisted += hoistFromBranches(choice, rewriter);
      return;
    }
    auto loop = dyn_cast<LoopLikeOpInterface>(op);
    if (!loop)
      return;
    counts.hoisted += moveLoopInvariantCode(
        loop.getLoopRegions(),
        [&](Value value, Region *) { return loop.isDefinedOutsideOfLoop(value); },
        [](Operation *inner, Region *) { return mayBeHoisted(inner); },
        [&](Operation *inner, Region *) {
          inner->emitRemark("is computed before the loop: it does not change in it");
          loop.moveOutOfLoop(inner);
        });
  });
}

//===----------------------------------------------------------------------===//
// 3. A run beside a derivative
//===----------------------------------------------------------------------===//

void iam::shareDerivativeValues(Operation *root, RewriterBase &rewriter,
                                AttributionCacheCounts &counts) {
  SmallVector<ModelRunOp> runs;
  SmallVector<ModelLinearizeOp> linears;
  root->walk([&](Operation *op) {
    if (auto run = dyn_cast<ModelRunOp>(op); run && run.getH())
      runs.push_back(run);
    else if (auto linear = dyn_cast<ModelLinearizeOp>(op))
      linears.push_back(linear);
  });
  DominanceInfo dominance(root);
  for (ModelRunOp run : runs) {
    for (ModelLinearizeOp linear : linears) {
      if (linear.getModel() != run.getModel() || linear.getH() != run.getH() ||
          linear.getFromAttr() != run.getFromAttr() || linear.getToAttr() != run.getToAttr() ||
          linear.getTokensAttr() != run.getTokensAttr() ||
          linear.getPositionsAttr() != run.getPositionsAttr() ||
          linear.getY().getType() != run.getType())
        continue;
      if (linear->getBlock() == run->getBlock() && run->isBeforeInBlock(linear))
        rewriter.moveOpBefore(linear, run); // equal operands: they are there
      else if (!dominance.properlyDominates(linear.getOperation(), run.getOperation()))
        continue;
      run.emitRemark("is not computed: the derivative of this segment has its value");
      rewriter.replaceOp(run, linear.getY());
      ++counts.runsShared;
      break;
    }
  }
}

//===----------------------------------------------------------------------===//
// 4. Tokens
//===----------------------------------------------------------------------===//

namespace {
/// dy with zeros in the columns of other tokens.
Value widened(ModelPullbackOp pullback, int64_t first, int64_t width, RewriterBase &rewriter) {
  Location loc = pullback.getLoc();
  rewriter.setInsertionPoint(pullback);
  Value dy = pullback.getDy();
  auto type = cast<RankedTensorType>(dy.getType());
  SmallVector<OpFoldResult> sizes = tensor::getMixedSizes(rewriter, loc, dy);
  SmallVector<OpFoldResult> all{sizes[0], rewriter.getIndexAttr(width)};
  Value empty = tensor::EmptyOp::create(rewriter, loc, all, type.getElementType());
  Value zero = arith::ConstantOp::create(rewriter, loc, rewriter.getF32FloatAttr(0.0f));
  Value zeros = linalg::FillOp::create(rewriter, loc, zero, empty).getResult(0);
  SmallVector<OpFoldResult> offsets{rewriter.getIndexAttr(0), rewriter.getIndexAttr(first)},
      strides(2, rewriter.getIndexAttr(1));
  return tensor::InsertSliceOp::create(rewriter, loc, dy, zeros, offsets, sizes, strides);
}

void mergeGroup(ArrayRef<Operation *> group, RewriterBase &rewriter,
                AttributionCacheCounts &counts) {
  bool hasTape = false;
  SmallVector<int64_t> tokens;
  for (Operation *op : group) {
    Segment segment(op);
    hasTape |= segment.isLinearize();
    llvm::append_range(tokens, segment.tokens.asArrayRef());
  }
  Segment first(group.front());
  rewriter.setInsertionPoint(first.op);
  int64_t width = static_cast<int64_t>(tokens.size());
  auto firstType = cast<RankedTensorType>(first.y.getType());
  auto type = RankedTensorType::get({firstType.getDimSize(0), width}, firstType.getElementType());
  auto all = rewriter.getDenseI64ArrayAttr(tokens);
  Location loc =
      rewriter.getFusedLoc(llvm::map_to_vector(group, [](Operation *op) { return op->getLoc(); }));
  Value y, tape;
  if (hasTape) {
    auto made = ModelLinearizeOp::create(
        rewriter, loc, TypeRange{type, TapeType::get(rewriter.getContext())}, first.model, first.h,
        first.from, first.to, all, first.positions);
    y = made.getY();
    tape = made.getTape();
  } else {
    y = ModelRunOp::create(rewriter, loc, type, first.model, first.h, first.from, first.to, all,
                           first.positions);
  }
  int64_t column = 0;
  for (Operation *op : group) {
    Segment segment(op);
    int64_t count = segment.tokens.size();
    op->emitRemark("shares one forward pass with the segments for other tokens of this input");
    if (segment.isLinearize()) {
      Value old = cast<ModelLinearizeOp>(op).getTape();
      for (Operation *user : llvm::to_vector(old.getUsers())) {
        auto pullback = cast<ModelPullbackOp>(user);
        Value dy = widened(pullback, column, width, rewriter);
        rewriter.modifyOpInPlace(pullback, [&] {
          pullback.getTapeMutable().assign(tape);
          pullback.getDyMutable().assign(dy);
        });
      }
    }
    if (!segment.y.use_empty()) {
      rewriter.setInsertionPointAfterValue(y);
      auto part = cast<RankedTensorType>(segment.y.getType());
      SmallVector<OpFoldResult> sizes = tensor::getMixedSizes(rewriter, op->getLoc(), y);
      sizes[1] = rewriter.getIndexAttr(count);
      SmallVector<OpFoldResult> offsets{rewriter.getIndexAttr(0), rewriter.getIndexAttr(column)},
          strides(2, rewriter.getIndexAttr(1));
      Value slice =
          tensor::ExtractSliceOp::create(rewriter, op->getLoc(), part, y, offsets, sizes, strides);
      rewriter.replaceAllUsesWith(segment.y, slice);
    }
    rewriter.eraseOp(op);
    column += count;
    ++counts.tokensMerged;
  }
}
} // namespace

void iam::mergeTokens(Operation *root, RewriterBase &rewriter, AttributionCacheCounts &counts) {
  using Key = std::tuple<Block *, Value, Value, Attribute, Attribute, int64_t>;
  // Few segments: a list of groups is enough.
  SmallVector<std::pair<Key, SmallVector<Operation *>>> groups;
  for (Operation *op : segmentsIn(root)) {
    Segment segment(op);
    if (segment.to.getValue() != kLogits)
      continue;
    int64_t rows = cast<RankedTensorType>(segment.y.getType()).getDimSize(0);
    Key key{op->getBlock(), segment.model, segment.h, segment.from, segment.positions, rows};
    auto *found = llvm::find_if(groups, [&](const auto &group) { return group.first == key; });
    if (found == groups.end()) {
      groups.emplace_back(key, SmallVector<Operation *>());
      found = std::prev(groups.end());
    }
    found->second.push_back(op);
  }
  for (auto &[key, group] : groups) {
    if (group.size() < 2)
      continue;
    llvm::erase_if(group, [](Operation *op) {
      Segment segment(op);
      if (!segment.tokens) {
        op->emitRemark("has a forward pass of its own: it computes the logits of all tokens");
        return true;
      }
      auto linear = dyn_cast<ModelLinearizeOp>(op);
      if (linear && !llvm::all_of(linear.getTape().getUsers(), llvm::IsaPred<ModelPullbackOp>)) {
        op->emitRemark("has a forward pass of its own: its tape goes elsewhere than to pullbacks");
        return true;
      }
      return false;
    });
    if (group.size() > 1)
      mergeGroup(group, rewriter, counts);
  }
}

//===----------------------------------------------------------------------===//
// 5. Prefixes
//===----------------------------------------------------------------------===//

namespace {
/// Between two blocks of the model: the whole state of the forward pass is there.
bool isBetweenBlocks(StringRef site) {
  return site.starts_with("resid_pre.") || site.starts_with("resid_post.");
}

/// The number of whole blocks below a site.
int64_t blocksBelow(StringRef text) {
  std::optional<SiteName> site = SiteName::parse(text);
  return site ? site->layer + (text.starts_with("resid_post.") ? 1 : 0) : 0;
}

/// Where the input of a segment came from before the model ran at all: null for its tokens.
struct Root {
  Value h;
  StringAttr from;
};

Root rootOf(const Segment &segment) {
  Root root{segment.h, segment.from};
  while (root.h) {
    Operation *made = root.h.getDefiningOp();
    if (!made || !isSegment(made))
      break;
    Segment before(made);
    if (before.y != root.h || before.model != segment.model || before.to != root.from ||
        before.positions || !isBetweenBlocks(before.to))
      break;
    root = {before.h, before.from};
  }
  return root;
}

struct Node {
  Operation *op;
  Value model;
  Root root;

  Segment segment() const { return Segment(op); }
  bool mayServe() const {
    Segment s = segment();
    return !s.positions && isBetweenBlocks(s.to);
  }
};

/// An activation that would be kept, and for which runs.
struct Kept {
  Node *base;
  SmallVector<Node *> users;
  int64_t bytes, blocks;
};

class Prefixes {
public:
  Prefixes(SmallVector<Node> found, Operation *root, RewriterBase &rewriter, int64_t budget,
           int64_t assumedRows, AttributionCacheCounts &counts)
      : nodes(std::move(found)), dominance(root), rewriter(rewriter), budget(budget),
        assumedRows(assumedRows), counts(counts) {
    llvm::stable_sort(nodes, [](const Node &a, const Node &b) {
      return isBefore(a.segment().to, b.segment().to.getValue());
    });
  }

  void run() {
    SmallVector<Node *> givenUp;
    plan(givenUp);
    if (budget)
      while (Kept *worst = overBudget()) {
        Node *base = worst->base;
        for (Node *user : worst->users)
          user->op->emitRemark("computes ")
              << base->segment().to.getValue() << " again: keeping it takes " << worst->bytes
              << " bytes, and the budget is " << budget;
        givenUp.push_back(base);
        ++counts.givenUp;
        plan(givenUp);
      }
    // From the first site to the last: what a run continues from is in its final form.
    for (Node &user : nodes) {
      if (user.segment().isLinearize())
        continue;
      auto *found =
          llvm::find_if(kept, [&](Kept &one) { return llvm::is_contained(one.users, &user); });
      if (found != kept.end())
        apply(*found->base, user, found->bytes);
      else if (!givenUp.empty() && user.segment().h != user.root.h)
        rewrite(user, user.root.h, user.root.from);
    }
  }

private:
  /// The latest site that `user` may continue from.
  Node *baseOf(Node &user, ArrayRef<Node *> givenUp) {
    Segment segment = user.segment();
    if (segment.isLinearize()) // its derivative is by its own input
      return nullptr;
    Node *best = nullptr;
    for (Node &base : nodes) {
      if (&base == &user || !base.mayServe() || llvm::is_contained(givenUp, &base))
        continue;
      if (!isBefore(base.segment().to, segment.to.getValue()))
        continue;
      if (!canServe(base, user))
        continue;
      if (!best || isBefore(best->segment().to, base.segment().to.getValue()))
        best = &base;
    }
    return best;
  }

  bool canServe(Node &base, Node &user) {
    if (dominance.properlyDominates(base.op, user.op))
      return true;
    // A run that comes later in the block may move before, when its operands are there.
    return base.op->getBlock() == user.op->getBlock() &&
           llvm::all_of(rootOperands(base), [&](Value operand) {
             return dominance.properlyDominates(operand, user.op);
           });
  }

  SmallVector<Value> rootOperands(Node &base) {
    // A linearize stays with its input; a run will have another one.
    Segment segment = base.segment();
    SmallVector<Value> operands{segment.model};
    Value h = segment.isLinearize() ? segment.h : base.root.h;
    if (h)
      operands.push_back(h);
    return operands;
  }

  void plan(ArrayRef<Node *> givenUp) {
    kept.clear();
    for (Node &user : nodes) {
      Node *base = baseOf(user, givenUp);
      if (!base)
        continue;
      auto *found = llvm::find_if(kept, [&](Kept &one) { return one.base == base; });
      if (found == kept.end()) {
        kept.push_back({base, {}, bytesOf(*base), 0});
        found = std::prev(kept.end());
      }
      found->users.push_back(&user);
    }
    for (Kept &one : kept) {
      Node *below = baseOf(*one.base, givenUp);
      int64_t start = below                 ? blocksBelow(below->segment().to)
                      : one.base->root.from ? blocksBelow(one.base->root.from)
                                            : 0;
      one.blocks =
          (blocksBelow(one.base->segment().to) - start) * static_cast<int64_t>(one.users.size());
    }
  }

  int64_t bytesOf(Node &base) {
    auto type = cast<RankedTensorType>(base.segment().y.getType());
    int64_t bytes = 4;
    for (int64_t size : type.getShape())
      bytes *= ShapedType::isDynamic(size) ? assumedRows : size;
    return bytes;
  }

  /// The ops of the innermost block that holds all of them, from the first to the last.
  bool lives(const Kept &one, Operation *at) {
    Block *block = one.base->op->getBlock();
    Operation *here = block->findAncestorOpInBlock(*at);
    if (!here || here->isBeforeInBlock(one.base->op))
      return here && llvm::any_of(one.users, [&](Node *user) { // the base will move before it
               Operation *use = block->findAncestorOpInBlock(*user->op);
               return use && !here->isBeforeInBlock(use);
             });
    auto isBeforeUse = [&](Operation *user) {
      Operation *use = block->findAncestorOpInBlock(*user);
      return use && !use->isBeforeInBlock(here);
    };
    // What the program keeps that long anyway costs nothing more.
    if (llvm::any_of(one.base->segment().y.getUsers(), [&](Operation *user) {
          return isBeforeUse(user) &&
                 llvm::none_of(one.users, [&](Node *node) { return node->op == user; });
        }))
      return false;
    return llvm::any_of(one.users, [&](Node *user) { return isBeforeUse(user->op); });
  }

  /// The least useful activation at the first place where more than the budget is alive.
  Kept *overBudget() {
    for (Kept &place : kept)
      for (Node *user : place.users) {
        int64_t sum = 0;
        Kept *worst = nullptr;
        for (Kept &one : kept) {
          if (!lives(one, user->op))
            continue;
          sum += one.bytes;
          if (!worst || one.blocks * worst->bytes < worst->blocks * one.bytes)
            worst = &one;
        }
        if (worst && sum > budget)
          return worst;
      }
    return nullptr;
  }

  void apply(Node &base, Node &user, int64_t bytes) {
    Segment before = user.segment(), from = base.segment();
    if (before.h == from.y)
      return;
    moveBefore(base.op, user.op);
    user.op->emitRemark("continues from ") << from.to.getValue() << ", which is kept: " << bytes
                                           << " bytes for " << rowsOf(from.y) << " rows";
    rewrite(user, from.y, from.to);
    ++counts.prefixes;
  }

  /// The run of `node` starts with `h` at `from`.
  void rewrite(Node &node, Value h, StringAttr from) {
    auto run = cast<ModelRunOp>(node.op);
    rewriter.setInsertionPoint(run);
    auto made = ModelRunOp::create(rewriter, run.getLoc(), run.getType(), run.getModel(), h, from,
                                   run.getToAttr(), run.getTokensAttr(), run.getPositionsAttr());
    rewriter.replaceOp(run, made.getY());
    node.op = made;
  }

  /// With the segments that it continues from.
  void moveBefore(Operation *op, Operation *place) {
    if (dominance.properlyDominates(op, place))
      return;
    if (Value h = Segment(op).h)
      if (Operation *made = h.getDefiningOp(); made && isSegment(made))
        moveBefore(made, place);
    rewriter.moveOpBefore(op, place);
  }

  int64_t rowsOf(Value y) {
    int64_t rows = cast<RankedTensorType>(y.getType()).getDimSize(0);
    return ShapedType::isDynamic(rows) ? assumedRows : rows;
  }

  SmallVector<Node> nodes;
  SmallVector<Kept> kept;
  DominanceInfo dominance;
  RewriterBase &rewriter;
  int64_t budget, assumedRows;
  AttributionCacheCounts &counts;
};
} // namespace

void iam::continuePrefixes(Operation *root, RewriterBase &rewriter, int64_t budget,
                           int64_t assumedRows, AttributionCacheCounts &counts) {
  SmallVector<SmallVector<Node>> groups;
  for (Operation *op : segmentsIn(root)) {
    Segment segment(op);
    Node node{op, segment.model, rootOf(segment)};
    auto *found = llvm::find_if(groups, [&](const SmallVector<Node> &group) {
      const Node &other = group.front();
      return other.model == node.model && other.root.h == node.root.h &&
             other.root.from == node.root.from;
    });
    if (found == groups.end()) {
      groups.emplace_back();
      found = std::prev(groups.end());
    }
    found->push_back(node);
  }
  for (SmallVector<Node> &group : groups)
    if (group.size() > 1)
      Prefixes(std::move(group), root, rewriter, budget, assumedRows, counts).run();
}

//===----------------------------------------------------------------------===//
// 6. Variants
//===----------------------------------------------------------------------===//

namespace {
/// The most inputs that go through a model together: as many as points of a path do. Its matrix products are at full speed by
/// then, and what it holds on the way grows with every one.
constexpr size_t kTogether = 8;

/// An input that holds several already.
bool isStack(Value h) { return h.getDefiningOp<tensor::InsertSliceOp>() != nullptr; }

/// Runs of one segment on inputs of their own, each of which can be there before the first of them.
void runTogether(ArrayRef<ModelRunOp> group, RewriterBase &rewriter,
                 AttributionCacheCounts &counts) {
  ModelRunOp first = group.front();
  Location loc = rewriter.getFusedLoc(
      llvm::map_to_vector(group, [](ModelRunOp run) { return Location(run.getLoc()); }));
  rewriter.setInsertionPoint(first);
  auto index = [&](int64_t n) -> Value { return arith::ConstantIndexOp::create(rewriter, loc, n); };
  SmallVector<OpFoldResult> strides(2, rewriter.getIndexAttr(1)),
      zeros(2, rewriter.getIndexAttr(0));
  // Rows of the inputs: those of the prompt, or a multiple.
  SmallVector<Value> rows, before{index(0)};
  for (ModelRunOp run : group) {
    rows.push_back(tensor::DimOp::create(rewriter, loc, run.getH(), 0));
    before.push_back(arith::AddIOp::create(rewriter, loc, before.back(), rows.back()));
  }
  auto type = cast<RankedTensorType>(first.getH().getType());
  SmallVector<OpFoldResult> sizes{before.back(), rewriter.getIndexAttr(type.getDimSize(1))};
  Value stack = tensor::EmptyOp::create(rewriter, loc, sizes, type.getElementType());
  for (auto [given, offset] : llvm::zip_first(group, before)) {
    ModelRunOp run = given;
    auto offsets = zeros, part = sizes;
    offsets[0] = offset;
    part[0] = tensor::getMixedSize(rewriter, loc, run.getH(), 0);
    stack = tensor::InsertSliceOp::create(rewriter, loc, run.getH(), stack, offsets, part, strides);
  }
  auto resultType = cast<RankedTensorType>(first.getType());
  auto allType = RankedTensorType::get({ShapedType::kDynamic, resultType.getDimSize(1)},
                                       resultType.getElementType());
  auto y = ModelRunOp::create(rewriter, loc, allType, first.getModel(), stack, first.getFromAttr(),
                              first.getToAttr(), first.getTokensAttr(), first.getPositionsAttr());
  // The same share of the results, which may be at some positions only.
  Value total = tensor::DimOp::create(rewriter, loc, y.getY(), 0);
  auto share = [&](Value of) -> Value {
    Value product = arith::MulIOp::create(rewriter, loc, of, total);
    Value least = arith::MaxUIOp::create(rewriter, loc, before.back(), index(1)); // no rows at all
    return arith::DivUIOp::create(rewriter, loc, product, least);
  };
  sizes[1] = rewriter.getIndexAttr(resultType.getDimSize(1));
  for (auto [given, offset, count] : llvm::zip_first(group, before, rows)) {
    ModelRunOp run = given;
    auto offsets = zeros, part = sizes;
    offsets[0] = share(offset);
    part[0] = share(count);
    run.emitRemark("goes through the model with other inputs of this segment, ")
        << group.size() << " together";
    Value slice =
        tensor::ExtractSliceOp::create(rewriter, loc, allType, y.getY(), offsets, part, strides);
    if (slice.getType() != run.getType())
      slice = tensor::CastOp::create(rewriter, loc, run.getType(), slice);
    rewriter.replaceOp(run, slice);
    ++counts.variants;
  }
}

/// The results of some of `others` are needed for `op`, of the same block.
bool needsAny(Operation *op, ArrayRef<ModelRunOp> others) {
  Block *block = op->getBlock();
  llvm::SmallPtrSet<Operation *, 16> seen;
  SmallVector<Operation *> pending{op};
  while (!pending.empty()) {
    bool found = pending.pop_back_val()
                     ->walk([&](Operation *inner) {
                       for (Value operand : inner->getOperands()) {
                         Operation *made = operand.getDefiningOp();
                         made = made ? block->findAncestorOpInBlock(*made) : nullptr;
                         if (!made || !seen.insert(made).second)
                           continue;
                         if (llvm::is_contained(others, made))
                           return WalkResult::interrupt();
                         pending.push_back(made);
                       }
                       return WalkResult::advance();
                     })
                     .wasInterrupted();
    if (found)
      return true;
  }
  return false;
}

/// Whether `run` may go with `group`, that comes before it; moves what it needs before the first of them.
bool canJoin(ArrayRef<ModelRunOp> group, ModelRunOp run, RewriterBase &rewriter) {
  if (needsAny(run, group))
    return false;
  ModelRunOp first = group.front();
  std::optional<SmallVector<Operation *>> needed = neededBetween(first, run);
  if (!needed)
    return false;
  for (Operation *op : *needed)
    rewriter.moveOpBefore(op, first);
  return true;
}
} // namespace

void iam::stackVariants(Operation *root, RewriterBase &rewriter, int64_t budget,
                        int64_t assumedRows, AttributionCacheCounts &counts) {
  using Key = std::tuple<Block *, Value, Type, Type, Attribute, Attribute, Attribute, Attribute>;
  SmallVector<std::pair<Key, SmallVector<ModelRunOp>>> groups;
  root->walk<WalkOrder::PreOrder>([&](ModelRunOp run) {
    if (!run.getH() || isStack(run.getH()))
      return;
    Key key{run->getBlock(),   run.getModel(),  run.getH().getType(), run.getType(),
            run.getFromAttr(), run.getToAttr(), run.getTokensAttr(),  run.getPositionsAttr()};
    auto *found = llvm::find_if(groups, [&](const auto &group) { return group.first == key; });
    if (found == groups.end()) {
      groups.emplace_back(key, SmallVector<ModelRunOp>());
      found = std::prev(groups.end());
    }
    found->second.push_back(run);
  });
  for (auto &[key, group] : groups) {
    SmallVector<ModelRunOp> left = group;
    while (left.size() > 1) {
      // What was done before may have moved some.
      llvm::sort(left, [](ModelRunOp a, ModelRunOp b) { return a->isBeforeInBlock(b); });
      SmallVector<ModelRunOp> free{left.front()}, others;
      for (ModelRunOp run : ArrayRef(left).drop_front())
        (canJoin(free, run, rewriter) ? free : others).push_back(run);
      auto type = cast<RankedTensorType>(left.front().getH().getType());
      size_t most = kTogether;
      if (budget) {
        int64_t count = type.isDynamicDim(0) ? assumedRows : type.getDimSize(0);
        int64_t bytes = std::max<int64_t>(1, 4 * count * type.getDimSize(1));
        most = std::min<size_t>(most, budget / bytes);
      }
      // In parts of nearly the same size.
      size_t parts = most ? llvm::divideCeil(free.size(), most) : free.size();
      for (size_t part = 0; part < parts; ++part) {
        size_t begin = part * free.size() / parts, end = (part + 1) * free.size() / parts;
        if (end - begin > 1)
          runTogether(ArrayRef(free).slice(begin, end - begin), rewriter, counts);
      }
      left = std::move(others);
    }
  }
}
