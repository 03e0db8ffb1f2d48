// Vectors of floats of the level that a file is compiled for; CNNJAX_LEVEL is the name of its namespace.
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

using Vector = float __attribute__((vector_size(kLanes * sizeof(float)), aligned(4), may_alias));

inline Vector load(const float* from) { return *reinterpret_cast<const Vector*>(from); }
inline void store(float* to, Vector v) { *reinterpret_cast<Vector*>(to) = v; }

}  // namespace CNNJAX_LEVEL
