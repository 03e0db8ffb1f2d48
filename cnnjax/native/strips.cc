// A product of matrices, [positions][C] and [C][O]. The right one is brought into panels of columns; a thread takes a
// strip of positions after the other, whose part of the left matrix stays in its cache: it lies there as it is, or is
// computed of the images. While a strip is multiplied, what the next one needs is on its way from memory.
#include "strips.h"

#include <omp.h>

#include <algorithm>

#include "depthwise.h"
#include "nonlinearities.h"

namespace strips {
namespace CNNJAX_LEVEL {

using namespace ::CNNJAX_LEVEL;

constexpr int kVectors = kRegisters == 32 ? 4 : 2, kRows = 6;  // of a product: its sums fit the registers
constexpr int64_t kPanel = kVectors * kLanes;
constexpr int64_t kStrip = 8 * kRows;  // positions
constexpr int64_t kLine = 16;          // floats of a line of the cache

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

// The function `OfSize::kOf<rows, vectors>` of that size.
template <typename OfSize, int V>
auto of_rows(int64_t rows) {
  constexpr decltype(OfSize::template kOf<1, 1>) kAll[] = {OfSize::template kOf<1, V>, OfSize::template kOf<2, V>,
                                                           OfSize::template kOf<3, V>, OfSize::template kOf<4, V>,
                                                           OfSize::template kOf<5, V>, OfSize::template kOf<6, V>};
  static_assert(sizeof kAll / sizeof *kAll == kRows);
  return kAll[rows - 1];
}
template <typename OfSize>
auto of_size(int64_t rows, int64_t vectors) {
  return vectors == 1   ? of_rows<OfSize, 1>(rows)
         : vectors == 2 ? of_rows<OfSize, 2>(rows)
         : vectors == 3 ? of_rows<OfSize, 3>(rows)
                        : of_rows<OfSize, 4>(rows);
}

struct OfMultiply {
  template <int R, int V>
  static constexpr auto* kOf = &multiply<R, V>;
};

// The first pixel that this position meets and those before it do not, or one near it.
int64_t newest_pixel(const Shape& s, int64_t position) {
  const Place at(s, position);
  const int64_t row = std::min(at.y * s.down - s.top + s.kernel_height - 1, s.height - 1);
  const int64_t column = std::min(at.x * s.right - s.left + s.kernel_width - 1, s.width - 1);
  return std::clamp<int64_t>((at.image * s.height + row) * s.width + column, 0, s.batch * s.height * s.width);
}

// outputs = finished(left panels) at `count` positions from `first` on; `left` is [count][C]. What lies from `next` to
// `end` is brought nearer meanwhile.
void multiply_strip(const Shape& s, const float* left, const float* panels, int64_t first, int64_t count, const Finish& f,
                    float* outputs, const float* next, const float* end) {
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

// sums[R][V vectors] += the sum over `depth` positions of channel r times the row of `panel`.
template <int R, int V>
void sum_products(const float* images, int64_t channels, const float* panel, int64_t depth, float* sums) {
  Vector found[R][V];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) found[r][v] = load(sums + (r * V + v) * kLanes);
  }
  for (int64_t position = 0; position < depth; ++position, images += channels, panel += V * kLanes) {
    Vector columns[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) columns[v] = load(panel + v * kLanes);
    __builtin_prefetch(images + kLine);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const float factor = images[r];
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) found[r][v] += factor * columns[v];
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) store(sums + (r * V + v) * kLanes, found[r][v]);
  }
}

struct OfSumProducts {
  template <int R, int V>
  static constexpr auto* kOf = &sum_products<R, V>;
};

// The gradient by the kernel is divided into tasks: a panel of its columns, at a part of its rows.
struct Tasks {
  int64_t channels, panels, parts = 1;

  Tasks(const Shape& s, int threads) : channels(s.channels), panels(divided_up(s.outputs, kPanel)) {
    while (panels * parts % threads != 0 && panels * parts < 4 * threads && parts * kRows < channels) ++parts;
  }
  int64_t count() const { return panels * parts; }
  int64_t first(int64_t part) const { return channels * part / parts; }
};

constexpr int64_t kDepth = 128;  // positions whose products are summed while a panel of the outputs lies in the cache

int64_t scratch_of_gradient(const Shape& s, int threads) {
  return divided_up(s.outputs, kPanel) * s.channels * kPanel + threads * kDepth * kPanel;
}

void kernel_gradient(const Shape& s, const float* images, const float* outputs, float* kernel, float* scratch, int threads) {
  const Tasks tasks(s, threads);
  const int64_t positions = s.batch * s.out_height * s.out_width, all = tasks.panels * s.channels * kPanel;
#pragma omp parallel num_threads(threads)
  {
    const int64_t thread = omp_get_thread_num();
    const int64_t begin = tasks.count() * thread / threads, end = tasks.count() * (thread + 1) / threads;
    float* const panel = scratch + all + thread * kDepth * kPanel;
    for (int64_t at = 0; at < positions; at += kDepth) {
      const int64_t depth = std::min(kDepth, positions - at);
      for (int64_t task = begin; task < end; ++task) {
        const int64_t column = task / tasks.parts * kPanel, count = std::min(kPanel, s.outputs - column);
        const int64_t first = tasks.first(task % tasks.parts), rows = tasks.first(task % tasks.parts + 1) - first;
        const int64_t vectors = divided_up(count, kLanes), width = vectors * kLanes, tiles = divided_up(rows, kRows);
        if (count < width) std::fill_n(panel, depth * width, 0.0f);
        for (int64_t p = 0; p < depth; ++p) std::copy_n(outputs + (at + p) * s.outputs + column, count, panel + p * width);
        float* sums = scratch + column * s.channels + first * width;
        if (at == 0) std::fill_n(sums, rows * width, 0.0f);
        const float* from = images + at * s.channels + first;
        for (int64_t tile = 0; tile < tiles; ++tile) {
          const int64_t height = rows / tiles + (tile < rows % tiles);
          of_size<OfSumProducts>(height, vectors)(from, s.channels, panel, depth, sums);
          from += height, sums += height * width;
        }
      }
    }
    for (int64_t task = begin; task < end; ++task) {
      const int64_t column = task / tasks.parts * kPanel, count = std::min(kPanel, s.outputs - column);
      const int64_t width = divided_up(count, kLanes) * kLanes;
      for (int64_t c = tasks.first(task % tasks.parts); c < tasks.first(task % tasks.parts + 1); ++c) {
        std::copy_n(scratch + column * s.channels + c * width, count, kernel + c * s.outputs + column);
      }
    }
  }
}

int64_t scratch_floats(const Shape& s, bool kernel_gradient, int threads) {
  return kernel_gradient ? scratch_of_gradient(s, threads) : Room(s, false).all(threads);
}

void forward(const Shape& s, const float* images, const float* kernel, bool flipped, float* outputs, const Finish& f,
             float* scratch, int threads) {
  run(s, images, false, nullptr, kernel, flipped, outputs, f, scratch, threads);
}

int64_t scratch_of_separable(const Shape& s, int threads) { return Room(s, true).all(threads); }

void separable(const Shape& s, const float* images, bool rectified, const float* depthwise, const float* pointwise,
               float* outputs, const Finish& f, float* scratch, int threads) {
  run(s, images, rectified, depthwise, pointwise, false, outputs, f, scratch, threads);
}

const Ways kWays = {scratch_floats, forward, kernel_gradient};
const Separable kSeparable = {scratch_of_separable, separable};

}  // namespace CNNJAX_LEVEL
}  // namespace strips
