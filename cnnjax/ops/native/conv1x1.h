// 1x1 convolutions, alone or of what a depthwise convolution gives, which is then never written to memory.
#pragma once

#include "cpu_dispatch.h"
#include "algorithms.h"

namespace conv1x1 {

// A depthwise convolution (kernel [h, w, 1, C], one output for each channel) and the 1x1 convolution of its results.
struct Separable {
  // How many floats of scratch memory a call needs. The shape's kernel is the depthwise one, its outputs are the last.
  int64_t (*scratch)(const Shape&, int threads);
  // With `rectified`, ReLU of the images is taken first.
  void (*forward)(const Shape&, const float* images, bool rectified, const float* depthwise, const float* pointwise,
                  float* outputs, const Finish&, float* scratch, int threads);
};

CNNJAX_EACH_LEVEL(extern const Algorithm kAlgorithm; extern const Separable kSeparable)

// The build for this processor, or null where it has none. They know no nonlinearity but ReLU.
inline const Algorithm* algorithm() { return CNNJAX_BEST_LEVEL(kAlgorithm); }
inline const Separable* separable() { return CNNJAX_BEST_LEVEL(kSeparable); }

}  // namespace conv1x1
