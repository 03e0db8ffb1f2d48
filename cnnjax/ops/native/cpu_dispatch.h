// Selects among the builds of a kernel. Each kernel is compiled once per level of x86-64, in a namespace of that name
// (see build.py), and the build is selected at load time by the processor.
#pragma once

#if defined(__x86_64__)
#define CNNJAX_EACH_LEVEL(declaration) \
  namespace v3 { declaration; }        \
  namespace v4 { declaration; }

namespace cpu_dispatch {
inline bool has_v4() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
inline bool has_v3() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
}
inline bool has_kernels() { return has_v4() || has_v3(); }
inline bool has_avx512() { return has_v4(); }  // vectors of 16 floats
}  // namespace cpu_dispatch

// `name` of the best level, or null if the processor supports none.
#define CNNJAX_BEST_LEVEL(name) (cpu_dispatch::has_v4() ? &v4::name : cpu_dispatch::has_v3() ? &v3::name : nullptr)
#else
#define CNNJAX_EACH_LEVEL(declaration) \
  namespace generic { declaration; }
#define CNNJAX_BEST_LEVEL(name) (&generic::name)
namespace cpu_dispatch {
inline bool has_kernels() { return true; }
inline bool has_avx512() { return false; }
}  // namespace cpu_dispatch
#endif
