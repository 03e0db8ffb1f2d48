// Interface of our own convolution algorithms. Strides and dilation are 1, and all arrays are float32.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>

inline int64_t divided_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Images [N, H, W, C], a kernel [h, w, C / groups, O] and outputs [N, H', W', O].
struct Shape {
  int64_t batch, height, width, channels, out_height, out_width, outputs;
  int64_t kernel_height, kernel_width, top, left;  // top, left: rows and columns of padding
  int64_t groups;
};

enum Nonlinearity : int64_t { kIdentity, kRelu, kSigmoid, kTanh };

// Parses the name used in Python.
inline Nonlinearity nonlinearity_of(std::string_view name) {
  if (name == "identity") return kIdentity;
  if (name == "relu") return kRelu;
  if (name == "sigmoid") return kSigmoid;
  if (name == "tanh") return kTanh;
  throw std::invalid_argument("unknown nonlinearity " + std::string(name));
}

// Operations on each output before it is stored, in this order; a null pointer means none.
struct Finish {
  const float* scale = nullptr;   // [O]
  const float* offset = nullptr;  // [O]
  const float* added = nullptr;   // the residual, in the outputs' shape
  Nonlinearity nonlinearity = kIdentity;

  // The same, starting at one output channel.
  Finish from(int64_t output) const {
    const auto moved = [output](const float* array) { return array ? array + output : nullptr; };
    return {moved(scale), moved(offset), moved(added), nonlinearity};
  }
};

// `others`: the scale, the offset and the residual, if present.
inline Finish make_finish(bool scaled, bool shifted, bool added, Nonlinearity nonlinearity, void* const* others) {
  Finish made;
  if (scaled) made.scale = static_cast<const float*>(*others++);
  if (shifted) made.offset = static_cast<const float*>(*others++);
  if (added) made.added = static_cast<const float*>(*others++);
  made.nonlinearity = nonlinearity;
  return made;
}

struct Algorithm {  // unsupported functions are null
  // Floats of scratch memory that a call needs.
  int64_t (*scratch)(const Shape&, bool kernel_gradient, int threads);
  // Outputs for images and a kernel [h, w, C / groups, O]; with `flipped`, for a kernel [h, w, O / groups, C] rotated by
  // 180 degrees, which gives the input gradient.
  void (*forward)(const Shape&, const float* images, const float* kernel, bool flipped, float* outputs, const Finish&,
                  float* scratch, int threads);
  // The kernel gradient [h, w, C / groups, O].
  void (*kernel_gradient)(const Shape&, const float* images, const float* outputs, float* kernel, float* scratch,
                          int threads);
};
