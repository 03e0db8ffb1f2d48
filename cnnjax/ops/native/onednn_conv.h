// Convolution and its gradients by oneDNN, for everything that our own kernels do not compute.
#pragma once

#include "convolution.h"

namespace onednn {

// Like `compute` in convolution.h.
void compute(const Geometry&, void* images, void* kernel, void* outputs, const std::vector<void*>& others);

}  // namespace onednn
