// Views of memory that somebody else owns. Row-major float32, unit stride within a row; rows may be
// strided.
#pragma once

#include <Eigen/Core>

#include <cstdint>
#include <string>
#include <type_traits>

namespace iam::rt {

/// A contiguous vector.
template <typename T> struct Vec {
  T *data = nullptr;
  int64_t size = 0;

  Vec() = default;
  Vec(T *data, int64_t size) : data(data), size(size) {}
  template <typename U, typename = std::enable_if_t<std::is_same_v<const U, T>>>
  Vec(Vec<U> other) : data(other.data), size(other.size) {}

  bool empty() const { return size == 0; }
  T &operator[](int64_t i) const { return data[i]; }
  T *begin() const { return data; }
  T *end() const { return data + size; }

  using Dense = Eigen::Matrix<std::remove_const_t<T>, 1, Eigen::Dynamic>;
  Eigen::Map<std::conditional_t<std::is_const_v<T>, const Dense, Dense>> eigen() const {
    return {data, size};
  }
};

/// A row-major matrix whose rows start `stride` elements apart.
template <typename T> struct Mat {
  T *data = nullptr;
  int64_t rows = 0, cols = 0, stride = 0;

  Mat() = default;
  Mat(T *data, int64_t rows, int64_t cols) : Mat(data, rows, cols, cols) {}
  Mat(T *data, int64_t rows, int64_t cols, int64_t stride)
      : data(data), rows(rows), cols(cols), stride(stride) {}
  template <typename U, typename = std::enable_if_t<std::is_same_v<const U, T>>>
  Mat(Mat<U> other) : data(other.data), rows(other.rows), cols(other.cols), stride(other.stride) {}

  bool empty() const { return rows == 0 || cols == 0; }
  T *row(int64_t r) const { return data + r * stride; }
  T &operator()(int64_t r, int64_t c) const { return data[r * stride + c]; }
  Vec<T> vec(int64_t r) const { return {row(r), cols}; }

  using Dense =
      Eigen::Matrix<std::remove_const_t<T>, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  using Map = Eigen::Map<std::conditional_t<std::is_const_v<T>, const Dense, Dense>,
                         Eigen::Unaligned, Eigen::OuterStride<>>;
  Map eigen() const { return Map(data, rows, cols, Eigen::OuterStride<>(stride)); }
};

/// "[5, 768]", as messages print shapes.
template <typename T> std::string shapeOf(const Mat<T> &m) {
  return "[" + std::to_string(m.rows) + ", " + std::to_string(m.cols) + "]";
}
template <typename T> std::string shapeOf(const Vec<T> &v) {
  return "[" + std::to_string(v.size) + "]";
}

} // namespace iam::rt
