// Float vectors for the level that a file is compiled for; CNNJAX_LEVEL is the name of its namespace.
#pragma once

#include <cstdint>

namespace CNNJAX_LEVEL {

#if defined(__AVX512F__)
constexpr int kLanes = 16, kRegisters = 32;
#elif defined(__AVX2__)
constexpr int kLanes = 8, kRegisters = 16;
#else
constexpr int kLanes = 4, kRegisters = 32;
#endif

// Vectors of kWidth lanes.
template <int kWidth>
struct Of {
  typedef float Vector __attribute__((vector_size(kWidth * sizeof(float)), aligned(4), may_alias));
  static_assert(sizeof(Vector) == kWidth * sizeof(float));  // with `using`, g++ 12 would make it a single float

  static Vector load(const float* from) { return *reinterpret_cast<const Vector*>(from); }
  static void store(float* to, Vector v) { *reinterpret_cast<Vector*>(to) = v; }
};

using Vector = Of<kLanes>::Vector;
using Integers = uint32_t __attribute__((vector_size(kLanes * sizeof(uint32_t)), aligned(4), may_alias));

inline Vector load(const float* from) { return Of<kLanes>::load(from); }
inline void store(float* to, Vector v) { Of<kLanes>::store(to, v); }

}  // namespace CNNJAX_LEVEL
