// The rule by which a convolution is computed, from its shape alone, and the call of what it names. What no kernel of
// our own computes goes to oneDNN.
#include "convolution.h"

#include <omp.h>

#include <cstring>
#include <utility>

#include "conv1x1.h"
#include "conv1x1_weight_grad.h"
#include "cpu_dispatch.h"
#include "few_channel_conv.h"
#include "onednn_conv.h"
#include "pointwise.h"
#include "scratch.h"
#include "small_map_conv.h"
#include "winograd.h"

namespace {

// Winograd: tiles of 4x4 outputs for each thread, for the kernel's gradient more; groups computed as one, of more than
// which too many products would be of zeros; weights, whose sums then take 150 MB.
constexpr int64_t kWinogradTiles = 21, kWinogradTilesToSum = 50, kWinogradGroups = 4, kWinogradWeights = 1 << 20;
// Few channels: outputs of the call at most, positions in a row and products of a kernel's row at least.
constexpr int64_t kFewChannels = 8, kFewChannelRow = 8, kFewChannelProducts = 5;
// Small maps: positions in the batch at most, weights at least.
constexpr int64_t kSmallMapPositions = 256, kSmallMapWeights = 1 << 18;
// Channels from which on it is worth to bring the outputs of a 1x1 convolution into panels.
constexpr int64_t kWeightGradChannels = 64;

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
    {"small_map_positions", kSmallMapPositions},
    {"small_map_weights", kSmallMapWeights},
    {"conv1x1_weight_grad_channels", kWeightGradChannels},
};

// Winograd has to transform the kernel before the first product, and for the kernel's gradient each thread has a sum of
// its own, so that there must be many tiles for each thread.
bool fits_winograd(const Geometry& g) {
  const int64_t tiles = g.outputs[0] * divided_up(g.outputs[1], 4) * divided_up(g.outputs[2], 4);
  const int64_t together = winograd::groups_in_one(g.kernel[2], g.kernel[3] / g.groups, g.groups);
  const bool fits = g.is_plain() && g.kernel[0] == 3 && g.kernel[1] == 3 && together > 0 && together <= kWinogradGroups &&
                    together * g.kernel[2] * g.kernel[3] <= kWinogradWeights && g.epilogue.nonlinearity <= kRelu;
  const int64_t a_thread = g.kind == kKernelGradient ? kWinogradTilesToSum : kWinogradTiles;
  return fits && tiles >= a_thread * omp_get_max_threads();
}

// The outputs are those of the call: for a gradient by the images, its channels. oneDNN pads them to 16 with AVX-512;
// with AVX2 it pads to 8, and its gradients are as fast. Rows must be long enough to fill registers, and a kernel worth
// the new layout of the images.
bool fits_few_channel_conv(const Geometry& g) {
  const bool back = g.kind == kInputGradient, fits = g.is_plain() && g.groups == 1 && !g.epilogue.added;
  const int64_t outputs = g.kernel[back ? 2 : 3], row = back ? g.images[2] : g.outputs[2];
  const bool worth = g.kind == kKernelGradient ? g.kernel[1] * g.kernel[2] >= kFewChannelProducts : g.kernel[1] > 1;
  return fits && outputs <= kFewChannels && row >= kFewChannelRow && worth &&
         (g.kind == kForward || cpu_dispatch::has_avx512());
}

// With a large kernel, which comes from memory, and for few positions, of which the products hardly take longer than
// that. oneDNN would write it in another layout first.
bool fits_small_map_conv(const Geometry& g) {
  const int64_t positions = g.outputs[0] * g.outputs[1] * g.outputs[2];
  const int64_t weights = g.kernel[0] * g.kernel[1] * g.kernel[2] * g.kernel[3];
  return g.kind == kForward && g.is_dense() && g.groups == 1 && g.kernel[3] % small_map_conv::kOutputs == 0 &&
         positions > 0 && positions <= kSmallMapPositions && weights >= kSmallMapWeights;
}

bool is_1x1(const Geometry& g) {
  return g.is_plain() && g.groups == 1 && g.kernel[0] * g.kernel[1] == 1 && g.images[1] == g.outputs[1] &&
         g.images[2] == g.outputs[2];
}

bool fits_conv1x1(const Geometry& g) {
  return g.kind != kKernelGradient && is_1x1(g) && g.epilogue.nonlinearity <= kRelu;
}

bool fits_conv1x1_weight_grad(const Geometry& g) {
  return g.kind == kKernelGradient && is_1x1(g) && g.images[3] >= kWeightGradChannels;
}

// The first of them that fits is taken.
struct Choice {
  const char* name;
  bool (*fits)(const Geometry&);
  const Algorithm* (*algorithm)();
  int64_t calls;  // so that a test can tell; only the worker writes it
};
Choice choices[] = {
    {"winograd", fits_winograd, winograd::algorithm, 0},
    {"few_channel_conv", fits_few_channel_conv, few_channel_conv::algorithm, 0},
    {"small_map_conv", fits_small_map_conv, small_map_conv::algorithm, 0},
    {"conv1x1", fits_conv1x1, conv1x1::algorithm, 0},
    {"conv1x1_weight_grad", fits_conv1x1_weight_grad, conv1x1_weight_grad::algorithm, 0},
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
  Shape shape = {x[0], x[1], x[2], x[3], y[1], y[2], y[3], k[0], k[1], g.before[0], g.before[1], g.groups, g.strides[0],
                 g.strides[1]};
  if (g.kind == kInputGradient) {  // a convolution of the outputs by the turned kernel
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

// Whether the nonlinearity is a step of our own after oneDNN, whose sigmoid and tanh are slow.
bool is_finished_apart(const Geometry& g) {
  return g.type == dnnl::memory::data_type::f32 && g.epilogue.nonlinearity > kRelu && pointwise::apply();
}

}  // namespace

void compute(const Geometry& g, void* images, void* kernel, void* outputs, const std::vector<void*>& others) {
  if (Choice* const choice = choose(g)) {
    ++choice->calls;
    run(*choice->algorithm(), g, images, kernel, outputs, others);
  } else if (is_finished_apart(g)) {
    Geometry before = g;
    before.epilogue.nonlinearity = kIdentity;
    compute(before, images, kernel, outputs, others);
    const int64_t count = g.outputs[0] * g.outputs[1] * g.outputs[2] * g.outputs[3];
    pointwise::apply()(g.epilogue.nonlinearity, static_cast<float*>(outputs), count, omp_get_max_threads());
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
