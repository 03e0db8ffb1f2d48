// Convolution with kernels of 3x3 by Winograd's minimal filtering, F(4x4, 3x3): 36 products where the plain sum has 144.
// Of the nonlinearities there is ReLU.
#pragma once

#include "cpu_dispatch.h"
#include "algorithms.h"

namespace winograd {

// How many groups are computed as one, whose kernel is zero between them, such that channels and outputs are multiples of
// 16; 0 where no number of them is. `channels` and `outputs` are those of one group.
inline int64_t groups_in_one(int64_t channels, int64_t outputs, int64_t groups) {
  constexpr int64_t kLanes = 16;
  int64_t together = 1;
  while (together <= kLanes && (together * channels % kLanes != 0 || together * outputs % kLanes != 0)) together *= 2;
  return together <= kLanes && groups % together == 0 ? together : 0;
}

CNNJAX_EACH_LEVEL(extern const Algorithm kAlgorithm)

// The build for this processor, or null where it has none.
inline const Algorithm* algorithm() { return CNNJAX_BEST_LEVEL(kAlgorithm); }

}  // namespace winograd
