// Nonlinearities on vectors. NaN propagates.
#pragma once

#include <algorithm>

#include "simd.h"
#include "algorithms.h"

namespace CNNJAX_LEVEL {

// e^x - 1 for |x| < 88, with a relative error of about 1e-7 even near 0: x = n ln 2 + r with an integer n and
// |r| <= ln 2 / 2, and 2^n (e^r - 1) + (2^n - 1), where e^r - 1 is the Taylor polynomial of degree 7.
inline Vector exp_less_one(Vector x) {
  constexpr float kShift = 0x1.8p23f;  // adding it rounds to an integer, in the lowest bits
  constexpr float kHigh = 0x1.62ep-1f, kLow = 0x1.0bfbe8p-15f;  // ln 2; n kHigh is exact
  const Vector shifted = x * 0x1.715476p0f + kShift, n = shifted - kShift;
  const Vector r = (x - n * kHigh) - n * kLow;
  Vector p = r * (1.0f / 5040) + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = r + r * r * p;
  const Vector power = (Vector)(((Integers)shifted << 23) + (127u << 23));
  return power * p + (power - 1.0f);
}

inline Vector relu(Vector x) { return x < 0.0f ? Vector{} : x; }

inline Vector sigmoid(Vector x) {  // below -88 the result is below the smallest normal number
  const Vector within = x > 88.0f ? Vector{} + 88.0f : x < -88.0f ? Vector{} - 88.0f : x;
  return x < -88.0f ? Vector{} : 1.0f / (2.0f + exp_less_one(-within));
}

inline Vector tanh(Vector x) {  // beyond 10 the result rounds to 1
  const Vector within = x > 10.0f ? Vector{} + 10.0f : x < -10.0f ? Vector{} - 10.0f : x;
  const Vector e = exp_less_one(2.0f * within);
  return e / (e + 2.0f);
}

template <Nonlinearity kWhich>
inline Vector applied(Vector x) {
  return kWhich == kRelu ? relu(x) : kWhich == kSigmoid ? sigmoid(x) : kWhich == kTanh ? tanh(x) : x;
}

// Applies the nonlinearity to `count` values; both arrays may be the same.
template <Nonlinearity kWhich>
void apply(const float* from, float* to, int64_t count) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) store(to + i, applied<kWhich>(load(from + i)));
  float end[kLanes] = {};
  std::copy_n(from + i, count - i, end);
  store(end, applied<kWhich>(load(end)));
  std::copy_n(end, count - i, to + i);
}

inline auto apply_of(Nonlinearity which) {
  return which == kRelu      ? apply<kRelu>
         : which == kSigmoid ? apply<kSigmoid>
         : which == kTanh    ? apply<kTanh>
                             : apply<kIdentity>;
}

}  // namespace CNNJAX_LEVEL
