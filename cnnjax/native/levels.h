// Kernels of our own are compiled once for each level of vector registers, in a namespace of that name (see build.py);
// which of them is taken is known when the library is loaded.
#pragma once

#if defined(__x86_64__)
#define CNNJAX_EACH_LEVEL(declaration) \
  namespace v3 { declaration; }        \
  namespace v4 { declaration; }

namespace levels {
inline bool has_v4() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
inline bool has_v3() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
}
inline bool any() { return has_v4() || has_v3(); }
inline bool is_wide() { return has_v4(); }  // vectors of 16 floats
}  // namespace levels

// `name` of the best level, or null where the processor has none.
#define CNNJAX_BEST_LEVEL(name) (levels::has_v4() ? &v4::name : levels::has_v3() ? &v3::name : nullptr)
#else
#define CNNJAX_EACH_LEVEL(declaration) \
  namespace generic { declaration; }
#define CNNJAX_BEST_LEVEL(name) (&generic::name)
namespace levels {
inline bool any() { return true; }
inline bool is_wide() { return false; }
}  // namespace levels
#endif
