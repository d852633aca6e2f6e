// A call of a compiled program, as what it calls sees it.
#pragma once

#include "bindings.h"

#include <memory>
#include <vector>

namespace iam::py_ {

/// What lives as long as a call: tapes of parts of models, and the exception that one of them raised.
/// Calls nest: a model may run programs of its own.
struct Frame {
  struct Tape {
    py::object object;
    int64_t rows; ///< of what was linearised
  };

  Frame() : outer(current()) { current() = this; }
  ~Frame() { current() = outer; }
  Frame(const Frame &) = delete;
  Frame &operator=(const Frame &) = delete;

  /// The innermost call of this thread.
  static Frame *&current();

  /// The number of a tape. Needs the GIL.
  int64_t keep(py::object tape, int64_t rows) {
    tapes.push_back({std::move(tape), rows});
    return static_cast<int64_t>(tapes.size()) - 1;
  }

  std::vector<Tape> tapes;
  std::unique_ptr<py::error_already_set> error;

private:
  Frame *outer;
};

} // namespace iam::py_
