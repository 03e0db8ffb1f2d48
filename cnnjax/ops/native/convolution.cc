// Selects the algorithm of a convolution from its shape and calls it. oneDNN computes what our own kernels do not.
#include "convolution.h"

#include <omp.h>

#include <cstring>
#include <utility>

#include "cpu_dispatch.h"
#include "few_channel_conv.h"
#include "onednn_conv.h"
#include "scratch.h"
#include "winograd.h"

namespace {

// Winograd: minimum tiles of 4x4 outputs per thread, and a larger minimum for the kernel gradient; maximum groups
// merged into one, above which too many products have a zero factor; maximum weights, whose sums then take 150 MB.
constexpr int64_t kWinogradTiles = 21, kWinogradTilesToSum = 50, kWinogradGroups = 4, kWinogradWeights = 1 << 20;
// Few channels: maximum output channels of the call, minimum positions in a row, minimum products of a kernel row.
constexpr int64_t kFewChannels = 8, kFewChannelRow = 8, kFewChannelProducts = 5;

struct Bound {
  const char* name;
  int64_t value;
};
constexpr Bound kBounds[] = {
    {"winograd_tiles", kWinogradTiles},
    {"winograd_tiles_to_sum", kWinogradTilesToSum},
    {"few_channels", kFewChannels},
    {"few_channel_row", kFewChannelRow},
    {"few_channel_products", kFewChannelProducts},
};

// Winograd transforms the kernel before the first product, and each thread sums its own kernel gradient, so each thread
// needs many tiles.
bool fits_winograd(const Geometry& g) {
  const int64_t tiles = g.outputs[0] * divided_up(g.outputs[1], 4) * divided_up(g.outputs[2], 4);
  const int64_t merged = winograd::groups_in_one(g.kernel[2], g.kernel[3] / g.groups, g.groups);
  const bool fits = g.is_plain() && g.kernel[0] == 3 && g.kernel[1] == 3 && merged > 0 && merged <= kWinogradGroups &&
                    merged * g.kernel[2] * g.kernel[3] <= kWinogradWeights && g.epilogue.nonlinearity <= kRelu;
  const int64_t per_thread = g.kind == kKernelGradient ? kWinogradTilesToSum : kWinogradTiles;
  return fits && tiles >= per_thread * omp_get_max_threads();
}

// The outputs are those of the call: for an input gradient, the input channels. oneDNN pads them to 16 with AVX-512; with
// AVX2 it pads to 8, and its gradients are as fast. Rows must be long enough to fill the registers, and the kernel large
// enough to pay for the new layout of the images.
bool fits_few_channel_conv(const Geometry& g) {
  const bool back = g.kind == kInputGradient, fits = g.is_plain() && g.groups == 1 && !g.epilogue.added;
  const int64_t outputs = g.kernel[back ? 2 : 3], row = back ? g.images[2] : g.outputs[2];
  const bool pays_off = g.kind == kKernelGradient ? g.kernel[1] * g.kernel[2] >= kFewChannelProducts : g.kernel[1] > 1;
  return fits && outputs <= kFewChannels && row >= kFewChannelRow && pays_off &&
         (g.kind == kForward || cpu_dispatch::has_avx512());
}

// The first algorithm that fits is used.
struct Choice {
  const char* name;
  bool (*fits)(const Geometry&);
  const Algorithm* (*algorithm)();
  int64_t calls;  // read by tests; only the worker writes it
};
Choice choices[] = {
    {"winograd", fits_winograd, winograd::algorithm, 0},
    {"few_channel_conv", fits_few_channel_conv, few_channel_conv::algorithm, 0},
};

Choice* choose(const Geometry& g) {
  if (!cpu_dispatch::has_kernels()) return nullptr;
  for (Choice& choice : choices) {
    if (choice.fits(g)) return &choice;
  }
  return nullptr;
}

void run(const Algorithm& algorithm, const Geometry& g, void* images, void* kernel, void* outputs,
         const std::vector<void*>& others) {
  const auto floats = [](void* at) { return static_cast<float*>(at); };
  const Dims &x = g.images, &y = g.outputs, &k = g.kernel;
  Shape shape = {x[0], x[1], x[2], x[3], y[1], y[2], y[3], k[0], k[1], g.before[0], g.before[1], g.groups};
  if (g.kind == kInputGradient) {  // a convolution of the outputs with the rotated kernel
    const int64_t top = k[0] - 1 - g.before[0], left = k[1] - 1 - g.before[1];
    shape = {y[0], y[1], y[2], y[3], x[1], x[2], x[3], k[0], k[1], top, left, g.groups};
  }
  const int threads = omp_get_max_threads();
  const int64_t needed = algorithm.scratch(shape, g.kind == kKernelGradient, threads);
  float* const room = floats(scratch(kOwn, sizeof(float) * needed));
  if (g.kind == kKernelGradient) {
    algorithm.kernel_gradient(shape, floats(images), floats(outputs), floats(kernel), room, threads);
    return;
  }
  if (g.kind == kInputGradient) std::swap(images, outputs);
  const Epilogue& e = g.epilogue;
  const Finish finish = make_finish(e.scaled, e.shifted, e.added, e.nonlinearity, others.data());
  algorithm.forward(shape, floats(images), floats(kernel), g.kind == kInputGradient, floats(outputs), finish, room,
                    threads);
}

}  // namespace

void compute(const Geometry& g, void* images, void* kernel, void* outputs, const std::vector<void*>& others) {
  if (Choice* const choice = choose(g)) {
    ++choice->calls;
    run(*choice->algorithm(), g, images, kernel, outputs, others);
  } else {
    onednn::compute(g, images, kernel, outputs, others);
  }
}

int64_t calls_of(const char* algorithm) {
  for (const Choice& choice : choices) {
    if (std::strcmp(choice.name, algorithm) == 0) return choice.calls;
  }
  return -1;
}

int64_t bound_of(const char* name) {
  for (const Bound& bound : kBounds) {
    if (std::strcmp(bound.name, name) == 0) return bound.value;
  }
  return -1;
}
