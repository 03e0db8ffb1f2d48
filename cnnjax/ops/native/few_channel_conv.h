// Direct convolution to few channels, with any kernel and any nonlinearity, but no residual.
#pragma once

#include "cpu_dispatch.h"
#include "algorithms.h"

namespace few_channel_conv {

CNNJAX_EACH_LEVEL(extern const Algorithm kAlgorithm)

// The build for this processor, or null if there is none.
inline const Algorithm* algorithm() { return CNNJAX_BEST_LEVEL(kAlgorithm); }

}  // namespace few_channel_conv
