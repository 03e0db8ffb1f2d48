// Convolution to few channels by the plain sum, with any kernel and any nonlinearity; no array is added.
#pragma once

#include "levels.h"
#include "ways.h"

namespace narrow {

CNNJAX_EACH_LEVEL(extern const Ways kWays)

// The ways for this processor, or null where it has none.
inline const Ways* ways() { return CNNJAX_BEST_LEVEL(kWays); }

}  // namespace narrow
