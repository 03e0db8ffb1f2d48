// Convolution to few channels by the plain sum, with any kernel and any nonlinearity; no array is added.
#pragma once

#include "cpu_dispatch.h"
#include "algorithms.h"

namespace few_channel_conv {

CNNJAX_EACH_LEVEL(extern const Algorithm kAlgorithm)

// The build for this processor, or null where it has none.
inline const Algorithm* algorithm() { return CNNJAX_BEST_LEVEL(kAlgorithm); }

}  // namespace few_channel_conv
