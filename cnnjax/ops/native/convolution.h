// A convolution or one of its two gradients, as XLA asks for it, and which algorithm computes it.
#pragma once

#include <cstdint>
#include <vector>

#include "algorithms.h"
#include "oneapi/dnnl/dnnl.hpp"

using Dims = dnnl::memory::dims;

enum Kind : int64_t { kForward, kInputGradient, kKernelGradient };

// What is done to each output before it is stored, in this order: times a scale and plus an offset (by channel), plus
// an array of the outputs' shape, then a nonlinearity.
struct Epilogue {
  bool scaled = false, shifted = false, added = false;
  Nonlinearity nonlinearity = kIdentity;
};

// Images [N, H, W, C], a kernel [h, w, C / groups, O] and outputs [N, H', W', O], the same for all three kinds.
struct Geometry {
  Kind kind;
  dnnl::memory::data_type type;
  Dims images, kernel, outputs, strides, dilation, before, after;  // dilation as oneDNN counts it: 0 is none
  int64_t groups;
  Epilogue epilogue;

  // Whether kernels of our own could compute it.
  bool is_plain() const { return is_dense() && strides == Dims{1, 1}; }
  bool is_dense() const { return type == dnnl::memory::data_type::f32 && dilation == Dims{0, 0}; }

  // A key by which equal geometries are found again.
  std::vector<int64_t> key() const {
    std::vector<int64_t> all = {kind, static_cast<int64_t>(type), groups, epilogue.scaled, epilogue.shifted,
                                epilogue.added, epilogue.nonlinearity};
    for (const Dims* dims : {&images, &kernel, &outputs, &strides, &dilation, &before, &after}) {
      all.insert(all.end(), dims->begin(), dims->end());
    }
    return all;
  }
};

// Computes what `kind` says from the other two arrays. `others`: the epilogue's scale, offset and added array, those
// that there are. Only the worker's thread may call it.
void compute(const Geometry&, void* images, void* kernel, void* outputs, const std::vector<void*>& others = {});

// How many convolutions an algorithm of our own has computed; -1 where there is none of that name.
int64_t calls_of(const char* algorithm);

// A bound of the rules in convolution.cc, for Python and its tests; -1 where there is none of that name.
int64_t bound_of(const char* name);
