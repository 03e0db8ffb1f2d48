// Lavin and Gray 2016, "Fast Algorithms for Convolutional Neural Networks", section 4: Y = A'[(G g G') * (B' d B)] A.
//
// A tile of 6x6 inputs gives 4x4 outputs. A block of tiles is small enough for a core's cache, with up to some
// hundred channels, from its transform over 36 products of matrices (tiles x channels, channels x outputs) to its outputs.
//
// The polynomials are evaluated at 0, -a, a, -b, b and infinity with a = 1 / b = sqrt(1/2). With the integers of the
// paper, 1 and 2, rounding errors are four times larger.
#include "winograd.h"

#include <omp.h>

#include <algorithm>
#include <cstring>

#include "nonlinearities.h"

namespace winograd {
namespace CNNJAX_LEVEL {

using namespace ::CNNJAX_LEVEL;

constexpr int kIn = 6, kOut = 4;     // a tile's inputs and outputs on each side
constexpr int kPlaces = kIn * kIn;   // that many products
constexpr int kStep = 42;            // tiles in a block at most: a multiple of the rows of every product below
constexpr float kA = 0.70710678118654752f, kB = 1.41421356237309505f;
constexpr int kWide = 32, kNarrow = 16;  // columns of a product

// Floats from one row to the next: such that many rows do not fall on the same places of the cache.
constexpr int64_t row_of(int64_t channels) { return channels % 64 ? channels : channels + 16; }
constexpr int64_t plane_of(int64_t channels) { return kStep * row_of(channels); }

// result[R][columns] (+)= sum over k of a[R][k] b[k][columns]. `a` advances by (row, step), `b` by its columns or ldb.
template <int R, int V, bool kAdds>
inline void product(const float* a, int64_t a_row, int64_t a_step, const float* b, int64_t b_step, int64_t depth,
                    float* result, int64_t result_row) {
  Vector sums[R][V];
#pragma GCC unroll 32
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) sums[r][v] = kAdds ? load(result + r * result_row + v * kLanes) : Vector{};
  }
  for (int64_t k = 0; k < depth; ++k) {
    Vector column[V];
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) column[v] = load(b + v * kLanes);
#pragma GCC unroll 32
    for (int r = 0; r < R; ++r) {
      const float factor = a[r * a_row];
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) sums[r][v] += factor * column[v];
    }
    a += a_step;
    b += b_step;
  }
#pragma GCC unroll 32
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) store(result + r * result_row + v * kLanes, sums[r][v]);
  }
}

// Rows of a product that fit the registers beside its columns.
template <int kColumns>
constexpr int rows() {
  constexpr int vectors = kColumns / kLanes;
  return vectors == 1 ? 21 : vectors == 2 ? (kRegisters == 32 ? 14 : 6) : vectors == 4 && kRegisters == 32 ? 6 : 3;
}

// M[T][O] = V[T][C] U[C][O], U in panels of columns, T rounded up to whole products.
template <int kColumns>
void multiply(const float* v, const float* u, float* m, int64_t tiles, int64_t channels, int64_t outputs) {
  constexpr int R = rows<kColumns>();
  static_assert(kStep % R == 0);
  for (int64_t o = 0; o < outputs; o += kColumns) {
    for (int64_t t = 0; t < tiles; t += R) {
      product<R, kColumns / kLanes, false>(v + t * row_of(channels), row_of(channels), 1, u + o * channels, kColumns,
                                           channels, m + t * row_of(outputs) + o, row_of(outputs));
    }
  }
}

// S[C][O] += V[T][C]' D[T][O]
template <int kColumns>
void accumulate(const float* v, const float* d, float* s, int64_t tiles, int64_t channels, int64_t outputs) {
  constexpr int R = kColumns / kLanes == 1 ? 16 : 8;
  for (int64_t c = 0; c < channels; c += R) {
    for (int64_t o = 0; o < outputs; o += kColumns) {
      product<R, kColumns / kLanes, true>(v + c, 1, row_of(channels), d + o, row_of(outputs), tiles,
                                          s + c * outputs + o, outputs);
    }
  }
}

bool is_wide(int64_t columns) { return kLanes == 16 && columns % kWide == 0; }

// How a call is divided: into tiles, and these into blocks such that each thread has as many.
struct Tiles {
  int64_t across, image, all, blocks, step;
  Tiles(const Shape& s, int threads)
      : across((s.out_width + kOut - 1) / kOut), image(across * ((s.out_height + kOut - 1) / kOut)), all(image * s.batch) {
    const int64_t most = int64_t{kStep} * threads, rounds = (all + most - 1) / most;
    step = (all + rounds * threads - 1) / (rounds * threads);
    blocks = (all + step - 1) / step;
  }
  int64_t count(int64_t block) const { return std::min(step, all - block * step); }
};

// Where a tile's outputs begin: the image, the row and the column of its first.
struct Place {
  int64_t image, row, column;
  Place(const Tiles& tiles, int64_t tile)
      : image(tile / tiles.image), row(tile % tiles.image / tiles.across * kOut), column(tile % tiles.across * kOut) {}
  void go_on(const Shape& s) {
    column += kOut;
    if (column < s.out_width) return;
    column = 0, row += kOut;
    if (row < s.out_height) return;
    row = 0, image += 1;
  }
};

// Each transform along one side of a tile.
inline void inputs_along(const Vector d[kIn], Vector t[kIn]) {  // B' d
  const Vector even_a = d[4] - 2.0f * d[2], odd_a = kA * (d[3] - 2.0f * d[1]);
  const Vector even_b = d[4] - 0.5f * d[2], odd_b = kB * (d[3] - 0.5f * d[1]);
  t[0] = d[0] + (d[4] - 2.5f * d[2]);
  t[1] = even_a + odd_a, t[2] = even_a - odd_a;
  t[3] = even_b + odd_b, t[4] = even_b - odd_b;
  t[5] = d[1] + (d[5] - 2.5f * d[3]);
}

inline void products_along(const Vector m[kIn], Vector y[kOut]) {  // A' m
  const Vector sum_a = m[1] + m[2], odd_a = kA * (m[1] - m[2]);
  const Vector sum_b = m[3] + m[4], odd_b = kB * (m[3] - m[4]);
  y[0] = m[0] + sum_a + sum_b;
  y[1] = odd_a + odd_b;
  y[2] = 0.5f * sum_a + 2.0f * sum_b;
  y[3] = 0.5f * odd_a + 2.0f * odd_b + m[5];
}

inline void cotangents_along(const Vector y[kOut], Vector d[kIn]) {  // A y
  const Vector even_a = y[0] + 0.5f * y[2], odd_a = kA * (y[1] + 0.5f * y[3]);
  const Vector even_b = y[0] + 2.0f * y[2], odd_b = kB * (y[1] + 2.0f * y[3]);
  d[0] = y[0];
  d[1] = even_a + odd_a, d[2] = even_a - odd_a;
  d[3] = even_b + odd_b, d[4] = even_b - odd_b;
  d[5] = y[3];
}

inline void weights_along(const Vector g[3], Vector u[kIn]) {  // G g
  const Vector even_a = (-2.0f / 3) * (g[0] + 0.5f * g[2]), odd_a = (-2.0f / 3 * kA) * g[1];
  const Vector even_b = (1.0f / 6) * (g[0] + 2.0f * g[2]), odd_b = (1.0f / 6 * kB) * g[1];
  u[0] = g[0];
  u[1] = even_a + odd_a, u[2] = even_a - odd_a;
  u[3] = even_b + odd_b, u[4] = even_b - odd_b;
  u[5] = g[2];
}

inline void sums_along(const Vector s[kIn], Vector g[3]) {  // G' s
  const Vector sum_a = (-2.0f / 3) * (s[1] + s[2]), sum_b = (1.0f / 6) * (s[3] + s[4]);
  g[0] = s[0] + sum_a + sum_b;
  g[1] = (-2.0f / 3 * kA) * (s[1] - s[2]) + (1.0f / 6 * kB) * (s[3] - s[4]);
  g[2] = 0.5f * sum_a + 2.0f * sum_b + s[5];
}

// The transform `along` of a square of vectors, along both of its sides.
template <int kFrom, int kTo, void (*along)(const Vector*, Vector*), typename Load, typename Store>
inline void transform_square(Load load_at, Store store_at) {
  Vector half[kTo][kFrom];
#pragma GCC unroll 6
  for (int i = 0; i < kFrom; ++i) {
    Vector line[kFrom], found[kTo];
#pragma GCC unroll 6
    for (int j = 0; j < kFrom; ++j) line[j] = load_at(i, j);
    along(line, found);
#pragma GCC unroll 6
    for (int j = 0; j < kTo; ++j) half[j][i] = found[j];
  }
#pragma GCC unroll 6
  for (int j = 0; j < kTo; ++j) {
    Vector found[kTo];
    along(half[j], found);
#pragma GCC unroll 6
    for (int i = 0; i < kTo; ++i) store_at(i, j, found[i]);
  }
}

// V = B' d B of each tile of a block, [36][T][C].
void transform_images(const Shape& s, const Tiles& tiles, int64_t block, const float* images, const float* zeros,
                      float* v) {
  const int64_t plane = plane_of(s.channels);
  Place place(tiles, block * tiles.step);
  for (int64_t t = 0; t < tiles.count(block); ++t, v += row_of(s.channels), place.go_on(s)) {
    const float* from[kIn][kIn];
    const int64_t top = place.row - s.top, left = place.column - s.left;
    const float* corner = images + ((place.image * s.height + top) * s.width + left) * s.channels;
    for (int i = 0; i < kIn; ++i) {
      const bool row_inside = top + i >= 0 && top + i < s.height;
      for (int j = 0; j < kIn; ++j) {
        const bool inside = row_inside && left + j >= 0 && left + j < s.width;
        from[i][j] = inside ? corner + (i * s.width + j) * s.channels : zeros;
      }
    }
    for (int64_t c = 0; c < s.channels; c += kLanes) {
      transform_square<kIn, kIn, inputs_along>(
          [&](int i, int j) { return load(from[i][j] + c); },
          [&](int i, int j, Vector found) { store(v + c + (kIn * i + j) * plane, found); });
    }
  }
}

// D = A y A' of each tile of a block, [36][T][O].
void transform_outputs(const Shape& s, const Tiles& tiles, int64_t block, const float* outputs, const float* zeros,
                       float* d) {
  const int64_t plane = plane_of(s.outputs);
  Place place(tiles, block * tiles.step);
  for (int64_t t = 0; t < tiles.count(block); ++t, d += row_of(s.outputs), place.go_on(s)) {
    const float* from[kOut][kOut];
    for (int i = 0; i < kOut; ++i) {
      for (int j = 0; j < kOut; ++j) {
        const int64_t y = place.row + i, x = place.column + j;
        const bool inside = y < s.out_height && x < s.out_width;
        from[i][j] = inside ? outputs + ((place.image * s.out_height + y) * s.out_width + x) * s.outputs : zeros;
      }
    }
    for (int64_t o = 0; o < s.outputs; o += kLanes) {
      transform_square<kOut, kIn, cotangents_along>(
          [&](int i, int j) { return load(from[i][j] + o); },
          [&](int i, int j, Vector found) { store(d + o + (kIn * i + j) * plane, found); });
    }
  }
}

// Y = A' M A of each tile of a block, and what else is done to it.
void finish(const Shape& s, const Tiles& tiles, int64_t block, const float* m, const Finish& f, float* outputs) {
  const int64_t plane = plane_of(s.outputs);
  Place place(tiles, block * tiles.step);
  for (int64_t t = 0; t < tiles.count(block); ++t, m += row_of(s.outputs), place.go_on(s)) {
    const int64_t start = ((place.image * s.out_height + place.row) * s.out_width + place.column) * s.outputs;
    const int64_t below = s.out_height - place.row, right = s.out_width - place.column;
    for (int64_t o = 0; o < s.outputs; o += kLanes) {
      transform_square<kIn, kOut, products_along>(
          [&](int i, int j) { return load(m + o + (kIn * i + j) * plane); },
          [&](int i, int j, Vector y) {
            if (i >= below || j >= right) return;
            const int64_t to = start + (i * s.out_width + j) * s.outputs + o;
            if (f.scale) y *= load(f.scale + o);
            if (f.offset) y += load(f.offset + o);
            if (f.added) y += load(f.added + to);
            if (f.nonlinearity == kRelu) y = relu(y);
            store(outputs + to, y);
          });
    }
  }
}

// The 3x3 kernels from some channels to some outputs, [9][kLanes channels][kLanes outputs].
struct Kernels {
  float at[9][kLanes][kLanes];

  Kernels(const Shape& s, const float* kernel, bool flipped, int64_t c, int64_t o) {
    const int64_t plane = s.channels * s.outputs;
    for (int i = 0; i < 9; ++i) {
      const float* from = kernel + (flipped ? (8 - i) * plane + o * s.channels + c : i * plane + c * s.outputs + o);
      for (int row = 0; row < kLanes; ++row, from += flipped ? s.channels : s.outputs) {
        for (int lane = 0; lane < kLanes; ++lane) (flipped ? at[i][lane][row] : at[i][row][lane]) = from[lane];
      }
    }
  }
};

// U = G g G', [36][O / columns][C][columns].
void transform_kernel(const Shape& s, const float* kernel, bool flipped, float* u, int threads) {
  const int64_t plane = s.channels * s.outputs, columns = is_wide(s.outputs) ? kWide : kNarrow;
#pragma omp parallel for collapse(2) num_threads(threads) schedule(static)
  for (int64_t first = 0; first < s.channels; first += kLanes) {
    for (int64_t o = 0; o < s.outputs; o += kLanes) {
      const Kernels kernels(s, kernel, flipped, first, o);
      float* to = u + o / columns * columns * s.channels + first * columns + o % columns;
      for (int c = 0; c < kLanes; ++c, to += columns) {
        transform_square<3, kIn, weights_along>(
            [&](int i, int j) { return load(kernels.at[3 * i + j][c]); },
            [&](int i, int j, Vector found) { store(to + (kIn * i + j) * plane, found); });
      }
    }
  }
}

// g = G' S G of the sum over all threads' S, [36][C][O].
void transform_sums(const Shape& s, const float* sums, float* kernel, int threads) {
  const int64_t plane = s.channels * s.outputs;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t at = 0; at < plane; at += kLanes) {
    transform_square<kIn, 3, sums_along>(
        [&](int i, int j) {
          Vector sum = load(sums + (kIn * i + j) * plane + at);
          for (int thread = 1; thread < threads; ++thread) {
            sum += load(sums + (thread * kPlaces + kIn * i + j) * plane + at);
          }
          return sum;
        },
        [&](int i, int j, Vector found) { store(kernel + (3 * i + j) * plane + at, found); });
  }
}

int64_t widest(const Shape& s) { return std::max(s.channels, s.outputs); }
int64_t planes(const Shape& s) { return kPlaces * (plane_of(s.channels) + plane_of(s.outputs)); }

int64_t scratch_floats(const Shape& s, bool kernel_gradient, int threads) {
  const int64_t kernels = kPlaces * s.channels * s.outputs * (kernel_gradient ? threads : 1);
  return widest(s) + kernels + threads * planes(s);
}

void forward(const Shape& s, const float* images, const float* kernel, bool flipped, float* outputs, const Finish& f,
             float* scratch, int threads) {
  const Tiles tiles(s, threads);
  float* zeros = scratch;
  float* u = zeros + widest(s);
  float* blocks = u + kPlaces * s.channels * s.outputs;
  std::memset(zeros, 0, sizeof(float) * widest(s));
  transform_kernel(s, kernel, flipped, u, threads);
#pragma omp parallel num_threads(threads)
  {
    float* v = blocks + omp_get_thread_num() * planes(s);
    float* m = v + kPlaces * plane_of(s.channels);
#pragma omp for schedule(static)
    for (int64_t block = 0; block < tiles.blocks; ++block) {
      transform_images(s, tiles, block, images, zeros, v);
      for (int i = 0; i < kPlaces; ++i) {
        (is_wide(s.outputs) ? multiply<kWide> : multiply<kNarrow>)(v + i * plane_of(s.channels),
                                                                   u + i * s.channels * s.outputs,
                                                                   m + i * plane_of(s.outputs), tiles.count(block),
                                                                   s.channels, s.outputs);
      }
      finish(s, tiles, block, m, f, outputs);
    }
  }
}

void kernel_gradient(const Shape& s, const float* images, const float* outputs, float* kernel, float* scratch,
                     int threads) {
  const Tiles tiles(s, threads);
  const int64_t plane = s.channels * s.outputs;
  float* zeros = scratch;
  float* sums = zeros + widest(s);
  float* blocks = sums + kPlaces * plane * threads;
  int team = 1;  // may be smaller than what is asked for
  std::memset(zeros, 0, sizeof(float) * widest(s));
#pragma omp parallel num_threads(threads)
  {
#pragma omp single nowait
    team = omp_get_num_threads();
    float* v = blocks + omp_get_thread_num() * planes(s);
    float* d = v + kPlaces * plane_of(s.channels);
    float* mine = sums + omp_get_thread_num() * kPlaces * plane;
    std::memset(mine, 0, sizeof(float) * kPlaces * plane);
#pragma omp for schedule(static)
    for (int64_t block = 0; block < tiles.blocks; ++block) {
      transform_images(s, tiles, block, images, zeros, v);
      transform_outputs(s, tiles, block, outputs, zeros, d);
      for (int i = 0; i < kPlaces; ++i) {
        (is_wide(s.outputs) ? accumulate<kWide> : accumulate<kNarrow>)(v + i * plane_of(s.channels),
                                                                       d + i * plane_of(s.outputs), mine + i * plane,
                                                                       tiles.count(block), s.channels, s.outputs);
      }
    }
  }
  transform_sums(s, sums, kernel, team);
}

const Ways kWays = {scratch_floats, forward, kernel_gradient};

}  // namespace CNNJAX_LEVEL
}  // namespace winograd
