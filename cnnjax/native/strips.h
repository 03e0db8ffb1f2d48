// 1x1 convolutions, alone or of what a depthwise convolution gives, which is then never written to memory.
#pragma once

#include "levels.h"
#include "ways.h"

namespace strips {

// A depthwise convolution (kernel [h, w, 1, C], one output for each channel) and the 1x1 convolution of its results.
struct Separable {
  // How many floats of scratch memory a call needs. The shape's kernel is the depthwise one, its outputs are the last.
  int64_t (*scratch)(const Shape&, int threads);
  // With `rectified`, ReLU of the images is taken first.
  void (*forward)(const Shape&, const float* images, bool rectified, const float* depthwise, const float* pointwise,
                  float* outputs, const Finish&, float* scratch, int threads);
};

CNNJAX_EACH_LEVEL(extern const Ways kWays; extern const Separable kSeparable)

// The ways for this processor, or null where it has none. They know no nonlinearity but ReLU.
inline const Ways* ways() { return CNNJAX_BEST_LEVEL(kWays); }
inline const Separable* separable() { return CNNJAX_BEST_LEVEL(kSeparable); }

}  // namespace strips
