// A convolution or one of its two gradients, as requested by XLA, and the selection of its algorithm.
#pragma once

#include <cstdint>
#include <vector>

#include "algorithms.h"
#include "oneapi/dnnl/dnnl.hpp"

using Dims = dnnl::memory::dims;

enum Kind : int64_t { kForward, kInputGradient, kKernelGradient };

// Operations on each output before it is stored, in this order: times a scale and plus an offset (per channel), plus a
// residual in the outputs' shape, then a nonlinearity.
struct Epilogue {
  bool scaled = false, shifted = false, added = false;
  Nonlinearity nonlinearity = kIdentity;
};

// Images [N, H, W, C], a kernel [h, w, C / groups, O] and outputs [N, H', W', O], the same for all three kinds.
struct Geometry {
  Kind kind;
  dnnl::memory::data_type type;
  Dims images, kernel, outputs, strides, dilation, before, after;  // dilation as in oneDNN: 0 means none
  int64_t groups;
  Epilogue epilogue;

  // Whether our own kernels could compute it.
  bool is_plain() const {
    return type == dnnl::memory::data_type::f32 && strides == Dims{1, 1} && dilation == Dims{0, 0};
  }

  // Key for looking up equal geometries.
  std::vector<int64_t> key() const {
    std::vector<int64_t> all = {kind, static_cast<int64_t>(type), groups, epilogue.scaled, epilogue.shifted,
                                epilogue.added, epilogue.nonlinearity};
    for (const Dims* dims : {&images, &kernel, &outputs, &strides, &dilation, &before, &after}) {
      all.insert(all.end(), dims->begin(), dims->end());
    }
    return all;
  }
};

// Computes the array named by `kind` from the other two. `others`: the epilogue's scale, offset and residual, if present.
// Only the worker thread may call it.
void compute(const Geometry&, void* images, void* kernel, void* outputs, const std::vector<void*>& others = {});

// Number of convolutions that one of our algorithms has computed; -1 for an unknown name.
int64_t calls_of(const char* algorithm);

// A bound of the rules in convolution.cc, for Python and its tests; -1 for an unknown name.
int64_t bound_of(const char* name);
