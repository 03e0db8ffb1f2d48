// A nonlinearity by itself, for what oneDNN computes: its own sigmoid and tanh take as long as a small convolution.
#pragma once

#include "cpu_dispatch.h"
#include "algorithms.h"

namespace pointwise {

using Apply = void(Nonlinearity which, float* values, int64_t count, int threads);

CNNJAX_EACH_LEVEL(extern Apply* const kApply)

// Applies it in place; null where this processor has no kernels.
inline Apply* apply() {
  Apply* const* found = CNNJAX_BEST_LEVEL(kApply);
  return found ? *found : nullptr;
}

}  // namespace pointwise
