// Convolution with kernels of 3x3 by Winograd's minimal filtering, F(4x4, 3x3): 36 products where the plain sum has 144.
// C and O are multiples of 16, and of the nonlinearities there is ReLU.
#pragma once

#include "levels.h"
#include "ways.h"

namespace winograd {

CNNJAX_EACH_LEVEL(extern const Ways kWays)

// The ways for this processor, or null where it has none.
inline const Ways* ways() { return CNNJAX_BEST_LEVEL(kWays); }

}  // namespace winograd
