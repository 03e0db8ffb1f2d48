// Convolution with kernels of 3x3 by Winograd's minimal filtering, F(2x2, 3x3): 16 products where the plain sum has 36.
#pragma once

#include <cstdint>

namespace winograd {

// Images [N, H, W, C] and outputs [N, H', W', O], both float32 with C and O multiples of 16; stride and dilation are 1.
struct Shape {
  int64_t batch, height, width, channels, out_height, out_width, outputs, top, left;  // top, left: rows of padding
};

// What is done to each output before it is stored, in this order; a null pointer stands for nothing.
struct Finish {
  const float* scale = nullptr;   // [O]
  const float* offset = nullptr;  // [O]
  const float* added = nullptr;   // the outputs' shape
  bool relu = false;
};

// The ways for one kind of processor.
struct Ways {
  // How many floats of scratch memory a call needs.
  int64_t (*scratch)(const Shape&, bool kernel_gradient, int threads);
  // Outputs of images and a kernel [3, 3, C, O]; with `flipped`, of a kernel [3, 3, O, C] turned by 180 degrees, which
  // is the gradient by the images.
  void (*forward)(const Shape&, const float* images, const float* kernel, bool flipped, float* outputs, const Finish&,
                  float* scratch, int threads);
  // The gradient [3, 3, C, O] by the kernel.
  void (*kernel_gradient)(const Shape&, const float* images, const float* outputs, float* kernel, float* scratch,
                          int threads);
};

// For each level of vector registers that the library was built for; see build.py.
#if defined(__x86_64__)
namespace v3 { extern const Ways kWays; }
namespace v4 { extern const Ways kWays; }
#else
namespace generic { extern const Ways kWays; }
#endif

// The ways for this processor, or null where it has none.
inline const Ways* ways() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    return &v4::kWays;
  }
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2") ? &v3::kWays
                                                                                                          : nullptr;
#else
  return &generic::kWays;
#endif
}

}  // namespace winograd
