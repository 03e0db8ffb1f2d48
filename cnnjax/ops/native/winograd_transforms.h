// The transforms of Winograd's F(4x4, 3x3) on vectors, along one side of a tile and along both.
//
// The polynomials are evaluated at 0, -a, a, -b, b and infinity with a = 1 / b = sqrt(1/2). With the paper's integers, 1
// and 2, rounding errors are four times larger.
#pragma once

#include "simd.h"

namespace winograd {
namespace CNNJAX_LEVEL {

using namespace ::CNNJAX_LEVEL;

constexpr int kIn = 6, kOut = 4;  // a tile's inputs and outputs on each side
constexpr float kA = 0.70710678118654752f, kB = 1.41421356237309505f;

inline void inputs_along(const Vector d[kIn], Vector t[kIn]) {  // B' d
  const Vector even_a = d[4] - 2.0f * d[2], odd_a = kA * (d[3] - 2.0f * d[1]);
  const Vector even_b = d[4] - 0.5f * d[2], odd_b = kB * (d[3] - 0.5f * d[1]);
  t[0] = d[0] + (d[4] - 2.5f * d[2]);
  t[1] = even_a + odd_a, t[2] = even_a - odd_a;
  t[3] = even_b + odd_b, t[4] = even_b - odd_b;
  t[5] = d[1] + (d[5] - 2.5f * d[3]);
}

inline void products_along(const Vector m[kIn], Vector y[kOut]) {  // A' m
  const Vector sum_a = m[1] + m[2], odd_a = kA * (m[1] - m[2]);
  const Vector sum_b = m[3] + m[4], odd_b = kB * (m[3] - m[4]);
  y[0] = m[0] + sum_a + sum_b;
  y[1] = odd_a + odd_b;
  y[2] = 0.5f * sum_a + 2.0f * sum_b;
  y[3] = 0.5f * odd_a + 2.0f * odd_b + m[5];
}

inline void cotangents_along(const Vector y[kOut], Vector d[kIn]) {  // A y
  const Vector even_a = y[0] + 0.5f * y[2], odd_a = kA * (y[1] + 0.5f * y[3]);
  const Vector even_b = y[0] + 2.0f * y[2], odd_b = kB * (y[1] + 2.0f * y[3]);
  d[0] = y[0];
  d[1] = even_a + odd_a, d[2] = even_a - odd_a;
  d[3] = even_b + odd_b, d[4] = even_b - odd_b;
  d[5] = y[3];
}

inline void weights_along(const Vector g[3], Vector u[kIn]) {  // G g
  const Vector even_a = (-2.0f / 3) * (g[0] + 0.5f * g[2]), odd_a = (-2.0f / 3 * kA) * g[1];
  const Vector even_b = (1.0f / 6) * (g[0] + 2.0f * g[2]), odd_b = (1.0f / 6 * kB) * g[1];
  u[0] = g[0];
  u[1] = even_a + odd_a, u[2] = even_a - odd_a;
  u[3] = even_b + odd_b, u[4] = even_b - odd_b;
  u[5] = g[2];
}

inline void sums_along(const Vector s[kIn], Vector g[3]) {  // G' s
  const Vector sum_a = (-2.0f / 3) * (s[1] + s[2]), sum_b = (1.0f / 6) * (s[3] + s[4]);
  g[0] = s[0] + sum_a + sum_b;
  g[1] = (-2.0f / 3 * kA) * (s[1] - s[2]) + (1.0f / 6 * kB) * (s[3] - s[4]);
  g[2] = 0.5f * sum_a + 2.0f * sum_b + s[5];
}

// The transform `along`, applied along both sides of a square of vectors.
template <int kFrom, int kTo, void (*along)(const Vector*, Vector*), typename Load, typename Store>
[[gnu::always_inline]] inline void transform_square(Load load_at, Store store_at) {
  Vector half[kTo][kFrom];
#pragma GCC unroll 6
  for (int i = 0; i < kFrom; ++i) {
    Vector line[kFrom], found[kTo];
#pragma GCC unroll 6
    for (int j = 0; j < kFrom; ++j) line[j] = load_at(i, j);
    along(line, found);
#pragma GCC unroll 6
    for (int j = 0; j < kTo; ++j) half[j][i] = found[j];
  }
#pragma GCC unroll 6
  for (int j = 0; j < kTo; ++j) {
    Vector found[kTo];
    along(half[j], found);
#pragma GCC unroll 6
    for (int i = 0; i < kTo; ++i) store_at(i, j, found[i]);
  }
}

}  // namespace CNNJAX_LEVEL
}  // namespace winograd
