// A product of matrices, [positions][C] and [C][O]. The right one is brought into panels of columns; a thread takes a
// strip of positions after the other, whose part of the left matrix stays in its cache: it lies there as it is, or is
// computed of the images. While a strip is multiplied, what the next one needs is on its way from memory.
#include "conv1x1.h"

#include <omp.h>

#include <algorithm>

#include "depthwise.h"
#include "nonlinearities.h"
#include "tiles.h"

namespace conv1x1 {
namespace CNNJAX_LEVEL {

using namespace ::CNNJAX_LEVEL;

constexpr int64_t kStrip = 8 * kRows;  // positions

// Columns of the right matrix, with their scale and offset.
int64_t panel_floats(const Shape& s) { return (s.channels + 2) * kPanel; }

// What lies in the scratch memory, in floats.
struct Room {
  int64_t zeros, pointers, strip, panels, all_panels;

  Room(const Shape& s, bool computed)
      : zeros(computed ? in_lines(s.channels) : 0),
        pointers(computed ? in_lines(Depthwise::pixels(s) * sizeof(float*) / sizeof(float)) : 0),
        strip(computed ? in_lines(kStrip * s.channels) : 0),
        panels(divided_up(s.outputs, kPanel)),
        all_panels(panels * panel_floats(s)) {}
  static int64_t in_lines(int64_t floats) { return divided_up(floats, kLine) * kLine; }
  int64_t of_thread() const { return pointers + strip; }
  int64_t all(int threads) const { return zeros + threads * of_thread() + all_panels; }
};

// Columns [count] of the right matrix from `column` on, as [C][vectors of them], then their scale and offset. Flipped,
// the matrix lies as [O][C].
void pack(const Shape& s, const float* matrix, bool flipped, const Finish& f, int64_t column, float* panel) {
  const int64_t count = std::min(kPanel, s.outputs - column), width = divided_up(count, kLanes) * kLanes;
  float* const scales = panel + s.channels * width;
  std::fill_n(panel, (s.channels + 2) * width, 0.0f);
  for (int64_t some = 0; some < s.channels; some += kLine) {
    const int64_t end = std::min(some + kLine, s.channels);
    if (flipped) {
      for (int64_t o = 0; o < count; ++o) {
        for (int64_t c = some; c < end; ++c) panel[c * width + o] = matrix[(column + o) * s.channels + c];
      }
    } else {
      for (int64_t c = some; c < end; ++c) std::copy_n(matrix + c * s.outputs + column, count, panel + c * width);
    }
  }
  for (int64_t o = 0; o < count; ++o) scales[o] = f.scale ? f.scale[column + o] : 1.0f;
  if (f.offset) std::copy_n(f.offset + column, count, scales + width);
}

// outputs[R][count] = finished(rows[R][C] panel), where rows of outputs are `stride` apart.
template <int R, int V>
void multiply(const float* rows, int64_t channels, const float* panel, int64_t count, const float* added,
              bool rectified, float* outputs, int64_t stride) {
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      __builtin_prefetch(outputs + r * stride + v * kLanes, 1);
      if (added) __builtin_prefetch(added + r * stride + v * kLanes);
    }
  }
  Vector sums[R][V];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) sums[r][v] = Vector{};
  }
  for (int64_t c = 0; c < channels; ++c, panel += V * kLanes) {
    Vector columns[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) columns[v] = load(panel + v * kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const float factor = rows[r * channels + c];
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) sums[r][v] += factor * columns[v];
    }
  }
  const int64_t left_over = count - (V - 1) * kLanes;  // of the last vector, all or some
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      const int64_t at = r * stride + v * kLanes;
      const bool whole = v + 1 < V || left_over == kLanes;
      Vector y = sums[r][v] * load(panel + v * kLanes) + load(panel + (V + v) * kLanes);
      float some[kLanes] = {};
      if (added && whole) y += load(added + at);
      if (added && !whole) std::copy_n(added + at, left_over, some), y += load(some);
      if (rectified) y = relu(y);
      if (whole) {
        store(outputs + at, y);
      } else {
        store(some, y);
        std::copy_n(some, left_over, outputs + at);
      }
    }
  }
}

struct OfMultiply {
  template <int R, int V>
  static constexpr auto* kOf = &multiply<R, V>;
};

// The lower right pixel that this position meets: what follows it was not met before, by and large.
int64_t newest_pixel(const Shape& s, int64_t position) {
  const Place at(s, position);
  const int64_t row = std::min(at.y * s.down - s.top + s.kernel_height - 1, s.height - 1);
  const int64_t column = std::min(at.x * s.right - s.left + s.kernel_width - 1, s.width - 1);
  return std::clamp<int64_t>((at.image * s.height + row) * s.width + column, 0, s.batch * s.height * s.width);
}

// outputs = finished(left panels) at `count` positions from `first` on; `left` is [count][C]. What lies from `next` to
// `end` is brought nearer meanwhile.
void multiply_strip(const Shape& s, const float* left, const float* panels, int64_t first, int64_t count,
                    const Finish& f, float* outputs, const float* next, const float* end) {
  const int64_t tiles = divided_up(count, kRows), all = divided_up(s.outputs, kPanel);
  const int64_t each = divided_up((end - next) / kLine, tiles * all) * kLine;
  for (int64_t column = 0; column < s.outputs; column += kPanel, panels += panel_floats(s)) {
    const int64_t columns = std::min(kPanel, s.outputs - column);
    const float* rows = left;
    for (int64_t tile = 0, at = first * s.outputs + column; tile < tiles; ++tile) {
      for (const float* const some = std::min(next + each, end); next < some; next += kLine) {
        __builtin_prefetch(next, 0, 2);
      }
      const int64_t height = count / tiles + (tile < count % tiles);
      const float* const added = f.added ? f.added + at : nullptr;
      of_size<OfMultiply>(height, divided_up(columns, kLanes))(rows, s.channels, panels, columns, added,
                                                               f.nonlinearity == kRelu, outputs + at, s.outputs);
      rows += height * s.channels, at += height * s.outputs;
    }
  }
}

// The images by `pointwise`, or with a depthwise kernel, its results by it.
void run(const Shape& s, const float* images, bool rectified, const float* depthwise, const float* pointwise,
         bool flipped, float* outputs, const Finish& f, float* scratch, int threads) {
  const Room room(s, depthwise);
  const int64_t positions = s.batch * s.out_height * s.out_width;
  const int64_t strips = divided_up(divided_up(positions, kStrip), threads) * threads;
  float *const zeros = scratch, *const panels = scratch + room.zeros + threads * room.of_thread();
  std::fill_n(zeros, room.zeros, 0.0f);
#pragma omp parallel num_threads(threads)
  {
    float* const own = scratch + room.zeros + omp_get_thread_num() * room.of_thread();
    float* const strip = own + room.pointers;
    const Depthwise weighed(s, images, rectified, depthwise, zeros, reinterpret_cast<const float**>(own));
#pragma omp for schedule(static)
    for (int64_t panel = 0; panel < room.panels; ++panel) {
      pack(s, pointwise, flipped, f, panel * kPanel, panels + panel * panel_floats(s));
    }
#pragma omp for schedule(static)
    for (int64_t at = 0; at < strips; ++at) {
      const int64_t first = positions * at / strips, after = positions * (at + 1) / strips, count = after - first;
      if (count == 0) continue;
      if (depthwise) weighed.rows(first, count, strip);
      const float* const next = images + newest_pixel(s, after) * s.channels;
      const float* const end = images + newest_pixel(s, std::min(after + count, positions)) * s.channels;
      multiply_strip(s, depthwise ? strip : images + first * s.channels, panels, first, count, f, outputs, next, end);
    }
  }
}

int64_t scratch_floats(const Shape& s, bool, int threads) { return Room(s, false).all(threads); }

void forward(const Shape& s, const float* images, const float* kernel, bool flipped, float* outputs, const Finish& f,
             float* scratch, int threads) {
  run(s, images, false, nullptr, kernel, flipped, outputs, f, scratch, threads);
}

int64_t scratch_of_separable(const Shape& s, int threads) { return Room(s, true).all(threads); }

void separable(const Shape& s, const float* images, bool rectified, const float* depthwise, const float* pointwise,
               float* outputs, const Finish& f, float* scratch, int threads) {
  run(s, images, rectified, depthwise, pointwise, false, outputs, f, scratch, threads);
}

const Algorithm kAlgorithm = {scratch_floats, forward, nullptr};
const Separable kSeparable = {scratch_of_separable, separable};

}  // namespace CNNJAX_LEVEL
}  // namespace conv1x1
