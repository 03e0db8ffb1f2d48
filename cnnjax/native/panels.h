// The gradient of 1x1 convolutions by their kernel.
#pragma once

#include "levels.h"
#include "ways.h"

namespace panels {

CNNJAX_EACH_LEVEL(int64_t scratch_floats(const Shape&, int threads);
                  void kernel_gradient(const Shape&, const float* images, const float* outputs, float* kernel,
                                       float* scratch, int threads))

}  // namespace panels
