// A product of matrices, [C][positions] and [positions][O], whose sum is long. A thread has some panels of the columns
// for itself: of some positions after the other it copies a panel into the nearest cache, and adds the products with
// all channels to what it has.
#include "conv1x1_weight_grad.h"

#include <omp.h>

#include <algorithm>

#include "tiles.h"

namespace conv1x1_weight_grad {
namespace CNNJAX_LEVEL {

using namespace ::CNNJAX_LEVEL;

constexpr int64_t kDepth = 128;  // positions of a panel

// sums[R][V vectors] += of `depth` positions, R channels times a row of the panel. These are summed by themselves
// first: a single sum over all positions would round far more.
template <int R, int V>
void sum_products(const float* images, int64_t channels, const float* panel, int64_t depth, float* sums) {
  Vector found[R][V];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) found[r][v] = Vector{};
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
    for (int v = 0; v < V; ++v) {
      float* const sum = sums + (r * V + v) * kLanes;
      store(sum, load(sum) + found[r][v]);
    }
  }
}

struct OfSumProducts {
  template <int R, int V>
  static constexpr auto* kOf = &sum_products<R, V>;
};

// A thread's task: of the kernel, a panel of its columns at some of its rows.
struct Task {
  int64_t column, columns, vectors, first, rows;
  int64_t width() const { return vectors * kLanes; }
};

struct Tasks {
  int64_t channels, outputs, parts = 1;  // parts: of a panel's rows

  Tasks(const Shape& s, int threads) : channels(s.channels), outputs(s.outputs) {
    while (count() % threads != 0 && count() < 4 * threads && parts * kRows < channels) ++parts;
  }
  int64_t panels() const { return divided_up(outputs, kPanel); }
  int64_t count() const { return panels() * parts; }
  Task operator[](int64_t task) const {
    const int64_t column = task / parts * kPanel, columns = std::min(kPanel, outputs - column);
    const int64_t first = channels * (task % parts) / parts, end = channels * (task % parts + 1) / parts;
    return {column, columns, divided_up(columns, kLanes), first, end - first};
  }
};

// The columns of `count` positions, side by side.
void copy_panel(const Task& t, const float* outputs, int64_t stride, int64_t count, float* panel) {
  if (t.columns < t.width()) std::fill_n(panel, count * t.width(), 0.0f);
  for (int64_t p = 0; p < count; ++p) std::copy_n(outputs + p * stride + t.column, t.columns, panel + p * t.width());
}

void add_products(const Task& t, const float* images, int64_t channels, const float* panel, int64_t depth,
                  float* sums) {
  const int64_t tiles = divided_up(t.rows, kRows);
  images += t.first;
  for (int64_t tile = 0; tile < tiles; ++tile) {
    const int64_t rows = t.rows / tiles + (tile < t.rows % tiles);
    of_size<OfSumProducts>(rows, t.vectors)(images, channels, panel, depth, sums);
    images += rows, sums += rows * t.width();
  }
}

int64_t scratch_floats(const Shape& s, bool, int threads) {
  return divided_up(s.outputs, kPanel) * kPanel * s.channels + threads * kDepth * kPanel;
}

void kernel_gradient(const Shape& s, const float* images, const float* outputs, float* kernel, float* scratch,
                     int threads) {
  const Tasks tasks(s, threads);
  const int64_t positions = s.batch * s.out_height * s.out_width;
  const auto sums_of = [&](const Task& t) { return scratch + t.column * s.channels + t.first * t.width(); };
#pragma omp parallel num_threads(threads)
  {
    const int64_t thread = omp_get_thread_num();
    const int64_t begin = tasks.count() * thread / threads, end = tasks.count() * (thread + 1) / threads;
    float* const panel = scratch + tasks.panels() * kPanel * s.channels + thread * kDepth * kPanel;
    for (int64_t task = begin; task < end; ++task) {
      const Task t = tasks[task];
      std::fill_n(sums_of(t), t.rows * t.width(), 0.0f);
    }
    for (int64_t at = 0; at < positions; at += kDepth) {
      const int64_t depth = std::min(kDepth, positions - at);
      for (int64_t task = begin; task < end; ++task) {
        const Task t = tasks[task];
        copy_panel(t, outputs + at * s.outputs, s.outputs, depth, panel);
        add_products(t, images + at * s.channels, s.channels, panel, depth, sums_of(t));
      }
    }
    for (int64_t task = begin; task < end; ++task) {
      const Task t = tasks[task];
      const float* sums = sums_of(t);
      float* to = kernel + t.first * s.outputs + t.column;
      for (int64_t row = 0; row < t.rows; ++row, sums += t.width(), to += s.outputs) std::copy_n(sums, t.columns, to);
    }
  }
}

const Algorithm kAlgorithm = {scratch_floats, nullptr, kernel_gradient};

}  // namespace CNNJAX_LEVEL
}  // namespace conv1x1_weight_grad
