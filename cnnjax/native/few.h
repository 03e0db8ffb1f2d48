// Convolution to few positions, where bringing the kernel into another layout would take as long as the products. Any
// stride, one group; gradients are not here.
#pragma once

#include "levels.h"
#include "ways.h"

namespace few {

constexpr int64_t kOutputs = 64;  // the outputs must be a multiple of it

CNNJAX_EACH_LEVEL(extern const Ways kWays)

// The ways for this processor, or null where it has none.
inline const Ways* ways() { return CNNJAX_BEST_LEVEL(kWays); }

}  // namespace few
