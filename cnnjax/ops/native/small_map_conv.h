// Convolution to few positions, where bringing the kernel into another layout would take as long as the products. Any
// stride, one group; gradients are not here.
#pragma once

#include "cpu_dispatch.h"
#include "algorithms.h"

namespace small_map_conv {

constexpr int64_t kOutputs = 64;  // the outputs must be a multiple of it

CNNJAX_EACH_LEVEL(extern const Algorithm kAlgorithm)

// The build for this processor, or null where it has none.
inline const Algorithm* algorithm() { return CNNJAX_BEST_LEVEL(kAlgorithm); }

}  // namespace small_map_conv
