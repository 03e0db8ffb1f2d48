// 3x3 convolution by Winograd's minimal filtering, F(4x4, 3x3): 36 products instead of 144 for the direct sum. ReLU is
// the only nonlinearity.
#pragma once

#include "cpu_dispatch.h"
#include "algorithms.h"

namespace winograd {

// Number of groups to merge into one, whose kernel is zero between them, so that channels and outputs are multiples of
// 16; 0 if no number works. `channels` and `outputs` are per group.
inline int64_t groups_in_one(int64_t channels, int64_t outputs, int64_t groups) {
  constexpr int64_t kLanes = 16;
  int64_t together = 1;
  while (together <= kLanes && (together * channels % kLanes != 0 || together * outputs % kLanes != 0)) together *= 2;
  return together <= kLanes && groups % together == 0 ? together : 0;
}

CNNJAX_EACH_LEVEL(extern const Algorithm kAlgorithm)

// The build for this processor, or null if there is none.
inline const Algorithm* algorithm() { return CNNJAX_BEST_LEVEL(kAlgorithm); }

}  // namespace winograd
