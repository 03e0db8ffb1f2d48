// A product of matrices, [positions][h w C] and the kernel [h w C][O] as it lies. Each thread takes some outputs, and
// block after block of the kernel's rows, which it copies side by side into the nearest cache and multiplies with all
// positions while the next block is on its way from memory.
#include "small_map_conv.h"

#include <omp.h>

#include <algorithm>

#include "nonlinearities.h"
#include "tiles.h"

namespace small_map_conv {
namespace CNNJAX_LEVEL {

using namespace ::CNNJAX_LEVEL;

constexpr int64_t kColumns = kOutputs;  // of a block
constexpr int64_t kDepth = 64;          // rows of a block

// A call is divided into tasks: a block of outputs at a part of the positions.
struct Tasks {
  int64_t positions, blocks, parts;

  Tasks(const Shape& s, int threads)
      : positions(s.batch * s.out_height * s.out_width), blocks(s.outputs / kColumns), parts(1) {
    while (blocks * parts % threads != 0 && blocks * parts < 4 * threads && parts * kRows < positions) ++parts;
  }
  int64_t first(int64_t part) const { return positions * part / parts; }
  int64_t most() const { return divided_up(positions, parts); }
};

// What lies in the scratch memory, in floats.
struct Room {
  int64_t weights = kDepth * kColumns, pixels, sums;
  explicit Room(int64_t positions)
      : pixels(divided_up(positions * sizeof(float*), sizeof(float) * kLine) * kLine), sums(positions * kColumns) {}
  int64_t all() const { return weights + pixels + sums; }
};

int64_t zeros_of(const Shape& s) { return divided_up(s.channels, kLine) * kLine; }  // a pixel of zeros

int64_t scratch_floats(const Shape& s, bool, int threads) {
  return zeros_of(s) + threads * Room(Tasks(s, threads).most()).all();
}

// sums[R][kPanel] += rows[R][depth] weights[depth][kPanel], where rows of sums are kColumns apart.
template <int R>
void multiply(const float* const* rows, int64_t channel, int64_t depth, const float* weights, float* sums) {
  Vector found[R][kVectors];
  const float* from[R];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    from[r] = rows[r] + channel;
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) found[r][v] = load(sums + r * kColumns + v * kLanes);
  }
  for (int64_t k = 0; k < depth; ++k, weights += kPanel) {
    Vector columns[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) columns[v] = load(weights + v * kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const float factor = from[r][k];
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) found[r][v] += factor * columns[v];
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) store(sums + r * kColumns + v * kLanes, found[r][v]);
  }
}

constexpr decltype(&multiply<1>) kMultiply[] = {multiply<1>, multiply<2>, multiply<3>,
                                                multiply<4>, multiply<5>, multiply<6>};
static_assert(sizeof kMultiply / sizeof *kMultiply == kRows);

// For each position from `first` on, the pixel that meets the kernel's row i and column j; outside of the image, zeros.
void find_pixels(const Shape& s, const float* images, const float* zeros, int64_t i, int64_t j, int64_t first,
                 int64_t count, const float** pixels) {
  int64_t x = first % s.out_width, y = first / s.out_width % s.out_height, image = first / s.out_width / s.out_height;
  for (int64_t position = 0; position < count; ++position) {
    const int64_t row = y * s.down - s.top + i, column = x * s.right - s.left + j;
    const bool inside = row >= 0 && row < s.height && column >= 0 && column < s.width;
    pixels[position] = inside ? images + ((image * s.height + row) * s.width + column) * s.channels : zeros;
    if (++x < s.out_width) continue;
    x = 0;
    if (++y == s.out_height) y = 0, ++image;
  }
}

// Rows of the kernel, as [panels][depth][kPanel].
void pack(const float* kernel, int64_t outputs, int64_t depth, float* weights) {
  for (int64_t panel = 0; panel < kColumns; panel += kPanel) {
    for (int64_t k = 0; k < depth; ++k, weights += kPanel) {
      const float* from = kernel + k * outputs + panel;
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) store(weights + v * kLanes, load(from + v * kLanes));
    }
  }
}

// What is done to each sum, of positions from `first` on, before it is stored.
void finish(const float* sums, int64_t first, int64_t count, int64_t outputs, const Finish& f, float* to) {
  const auto apply = apply_of(f.nonlinearity);
  for (int64_t at = first * outputs; at < (first + count) * outputs; at += outputs, sums += kColumns) {
    float row[kColumns];
    for (int64_t o = 0; o < kColumns; o += kLanes) {
      Vector y = load(sums + o);
      if (f.scale) y *= load(f.scale + o);
      if (f.offset) y += load(f.offset + o);
      if (f.added) y += load(f.added + at + o);
      store(row + o, y);
    }
    apply(row, to + at, kColumns);
  }
}

void forward(const Shape& s, const float* images, const float* kernel, bool, float* outputs, const Finish& f,
             float* scratch, int threads) {
  const Tasks tasks(s, threads);
  const Room room(tasks.most());
  const int64_t kernel_rows = s.kernel_height * s.kernel_width * s.channels;
  float* zeros = scratch;
  std::fill_n(zeros, s.channels, 0.0f);
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t task = 0; task < tasks.blocks * tasks.parts; ++task) {
    float* weights = scratch + zeros_of(s) + omp_get_thread_num() * room.all();
    auto pixels = reinterpret_cast<const float**>(weights + room.weights);
    float* sums = weights + room.weights + room.pixels;
    const int64_t block = task / tasks.parts * kColumns;
    const int64_t first = tasks.first(task % tasks.parts), count = tasks.first(task % tasks.parts + 1) - first;
    const int64_t tiles = divided_up(count, kRows);
    std::fill_n(sums, count * kColumns, 0.0f);
    for (int64_t place = 0; place < s.kernel_height * s.kernel_width; ++place) {
      find_pixels(s, images, zeros, place / s.kernel_width, place % s.kernel_width, first, count, pixels);
      for (int64_t channel = 0; channel < s.channels; channel += kDepth) {
        const int64_t depth = std::min(kDepth, s.channels - channel), row = place * s.channels + channel;
        pack(kernel + row * s.outputs + block, s.outputs, depth, weights);
        for (int64_t tile = 0; tile < tiles; ++tile) {
          const int64_t from = count * tile / tiles, rows = count * (tile + 1) / tiles - from;
          const int64_t next = std::min(row + depth + (depth * (tile + 1)) / tiles, kernel_rows);
          for (int64_t k = row + depth + depth * tile / tiles; k < next; ++k) {
            for (int64_t o = 0; o < kColumns; o += kLine) __builtin_prefetch(kernel + k * s.outputs + block + o);
          }
          for (int64_t panel = 0; panel < kColumns; panel += kPanel) {
            kMultiply[rows - 1](pixels + from, channel, depth, weights + panel * depth, sums + from * kColumns + panel);
          }
        }
      }
    }
    finish(sums, first, count, s.outputs, f.from(block), outputs + block);
  }
}

const Algorithm kAlgorithm = {scratch_floats, forward, nullptr};

}  // namespace CNNJAX_LEVEL
}  // namespace small_map_conv
