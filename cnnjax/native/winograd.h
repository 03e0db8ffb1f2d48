// Convolution with kernels of 3x3 by Winograd's minimal filtering, F(2x2, 3x3): 16 products where the plain sum has 36.
#pragma once

#include <cstdint>

#include "levels.h"

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

CNNJAX_EACH_LEVEL(extern const Ways kWays)

// The ways for this processor, or null where it has none.
inline const Ways* ways() { return CNNJAX_BEST_LEVEL(kWays); }

}  // namespace winograd
