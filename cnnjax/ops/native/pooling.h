// Max pooling over square windows, its derivative along a tangent, and that one's transpose, the gradient.
#pragma once

#include <cstdint>

#include "cpu_dispatch.h"

namespace pooling {

// Images [N, H, W, C] and outputs [N, H', W', C], both float32.
struct Shape {
  int64_t batch, height, width, channels, out_height, out_width, size, stride, padding;
};

// The kernels of one build. A place is the number, from left to right and from top to bottom, of the position
// in a window that gave the output: uint8, in the outputs' shape.
struct Kernels {
  // The largest of each window, and its place unless `places` is null. Of equal values it is the first. A NaN is the
  // largest, of several the last. What lies outside is -inf.
  void (*largest)(const Shape&, const float* images, float* outputs, uint8_t* places);
  // What lies at the places; outside is 0.
  void (*take)(const Shape&, const float* images, const uint8_t* places, float* outputs);
  // Each position of the images gets the sum of the outputs whose place it is.
  void (*put)(const Shape&, const float* outputs, const uint8_t* places, float* images);
};

CNNJAX_EACH_LEVEL(extern const Kernels kKernels)

// The build for this processor, or null where it has none.
inline const Kernels* kernels() { return CNNJAX_BEST_LEVEL(kKernels); }

}  // namespace pooling
