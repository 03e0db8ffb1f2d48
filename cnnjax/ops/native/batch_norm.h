// Batch normalisation in training with what follows it: an added array and ReLU.
#pragma once

#include <cstdint>

#include "cpu_dispatch.h"

namespace batch_norm {

// Arrays of float32 [rows, channels]; by channel: mean, and scale and offset as y = scale * x + offset.
struct Shape {
  int64_t rows, channels;
};

// What ReLU let through is known from the input again, or, where an array was added before it, from the output.
struct Inputs {
  const float *x, *mean, *scale, *offset;
  const float* added;   // or null
  const float* output;  // only for gradients, and only with both added and relu
  bool relu;
};

struct Kernels {
  // The mean and the biased variance over all rows, both [channels].
  void (*moments)(const Shape&, const float* x, float* mean, float* variance, int threads);
  // relu(scale * x + offset + added)
  void (*forward)(const Shape&, const Inputs&, float* y, int threads);
  // With z the cotangent that ReLU let through: sum z and sum z * (x - mean) over all rows, both [channels]; z itself is
  // stored where it is asked for.
  void (*sums)(const Shape&, const Inputs&, const float* cotangent, float* sum, float* product, float* z, int threads);
  // a * z + b * (x - mean) + c, the three by channel. `cotangent` is z already where `masked`.
  void (*gradient)(const Shape&, const Inputs&, const float* cotangent, bool masked, const float* a, const float* b,
                   const float* c, float* dx, int threads);
};

CNNJAX_EACH_LEVEL(extern const Kernels kKernels)

// The build for this processor, or null where it has none.
inline const Kernels* kernels() { return CNNJAX_BEST_LEVEL(kKernels); }

}  // namespace batch_norm
