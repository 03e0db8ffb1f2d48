// The gradient of 1x1 convolutions by their kernel.
#pragma once

#include "cpu_dispatch.h"
#include "algorithms.h"

namespace conv1x1_weight_grad {

CNNJAX_EACH_LEVEL(extern const Algorithm kAlgorithm)

// The build for this processor, or null where it has none.
inline const Algorithm* algorithm() { return CNNJAX_BEST_LEVEL(kAlgorithm); }

}  // namespace conv1x1_weight_grad
