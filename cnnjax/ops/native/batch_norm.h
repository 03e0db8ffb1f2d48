// Training-mode batch normalization with an optional residual and ReLU.
#pragma once

#include <cstdint>

#include "cpu_dispatch.h"

namespace batch_norm {

// Arrays are float32 [rows, channels]. Per channel: mean, and scale and offset of y = scale * x + offset.
struct Shape {
  int64_t rows, channels;
};

// ReLU's mask is recomputed from the input or, with a residual, read from the output.
struct Inputs {
  const float *x, *mean, *scale, *offset;
  const float* added;   // the residual, or null
  const float* output;  // only for gradients, and only with both added and relu
  bool relu;
};

struct Kernels {
  // The mean and the biased variance over all rows, both [channels].
  void (*moments)(const Shape&, const float* x, float* mean, float* variance, int threads);
  // relu(scale * x + offset + added)
  void (*forward)(const Shape&, const Inputs&, float* y, int threads);
  // With z the cotangent masked by ReLU: sum z and sum z * (x - mean) over all rows, both [channels]. z itself is stored
  // if requested.
  void (*sums)(const Shape&, const Inputs&, const float* cotangent, float* sum, float* product, float* z, int threads);
  // a * z + b * (x - mean) + c, with a, b and c per channel. If `masked`, `cotangent` is already z.
  void (*gradient)(const Shape&, const Inputs&, const float* cotangent, bool masked, const float* a, const float* b,
                   const float* c, float* dx, int threads);
};

CNNJAX_EACH_LEVEL(extern const Kernels kKernels)

// The build for this processor, or null if there is none.
inline const Kernels* kernels() { return CNNJAX_BEST_LEVEL(kKernels); }

}  // namespace batch_norm
