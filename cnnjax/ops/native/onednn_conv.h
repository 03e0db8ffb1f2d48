// Convolution and its gradients by oneDNN: whatever no kernel of our own computes.
#pragma once

#include "convolution.h"

namespace onednn {

// As `compute` in convolution.h.
void compute(const Geometry&, void* images, void* kernel, void* outputs, const std::vector<void*>& others);

}  // namespace onednn
