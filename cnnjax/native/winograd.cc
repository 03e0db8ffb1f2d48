// Lavin and Gray 2016, "Fast Algorithms for Convolutional Neural Networks", section 4: Y = A'[(G g G') * (B' d B)] A.
//
// A tile of 4x4 inputs gives 2x2 outputs. A block of tiles stays in a core's cache from its transform over 16 products
// of matrices (tiles x channels, channels x outputs) to its outputs. Compiled once for each level of vector registers;
// WINOGRAD_LEVEL is the name of its namespace.
#include "winograd.h"

#include <omp.h>

#include <algorithm>
#include <cstring>

namespace winograd {
namespace WINOGRAD_LEVEL {

#if defined(__AVX512F__)
constexpr int kLanes = 16, kRegisters = 32;
#elif defined(__AVX2__)
constexpr int kLanes = 8, kRegisters = 16;
#else
constexpr int kLanes = 4, kRegisters = 32;
#endif
constexpr int kPlaces = 16;  // of the 4x4 tile: that many products
constexpr int kStep = 84;    // tiles in a block: a multiple of the rows of every product below
constexpr int kWide = 32, kNarrow = 16;  // columns of a product

using Vector = float __attribute__((vector_size(kLanes * sizeof(float)), aligned(4), may_alias));

inline Vector load(const float* from) { return *reinterpret_cast<const Vector*>(from); }
inline void store(float* to, Vector v) { *reinterpret_cast<Vector*>(to) = v; }

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
  return vectors == 1 ? 28 : vectors == 2 ? (kRegisters == 32 ? 14 : 6) : vectors == 4 && kRegisters == 32 ? 6 : 3;
}

// M[T][O] = V[T][C] U[C][O], U in panels of columns.
template <int kColumns>
void multiply(const float* v, const float* u, float* m, int64_t channels, int64_t outputs) {
  constexpr int R = rows<kColumns>();
  static_assert(kStep % R == 0);
  for (int64_t o = 0; o < outputs; o += kColumns) {
    for (int64_t t = 0; t < kStep; t += R) {
      product<R, kColumns / kLanes, false>(v + t * row_of(channels), row_of(channels), 1, u + o * channels, kColumns,
                                           channels, m + t * row_of(outputs) + o, row_of(outputs));
    }
  }
}

// S[C][O] += V[T][C]' D[T][O]
template <int kColumns>
void accumulate(const float* v, const float* d, float* s, int64_t channels, int64_t outputs) {
  constexpr int R = kColumns / kLanes == 1 ? 16 : 8;
  for (int64_t c = 0; c < channels; c += R) {
    for (int64_t o = 0; o < outputs; o += kColumns) {
      product<R, kColumns / kLanes, true>(v + c, 1, row_of(channels), d + o, row_of(outputs), kStep,
                                          s + c * outputs + o, outputs);
    }
  }
}

bool is_wide(int64_t columns) { return kLanes == 16 && columns % kWide == 0; }

struct Tiles {
  int64_t across, image, all;
  explicit Tiles(const Shape& s)
      : across((s.out_width + 1) / 2), image(across * ((s.out_height + 1) / 2)), all(image * s.batch) {}
  int64_t blocks() const { return (all + kStep - 1) / kStep; }
};

// Where a tile's outputs begin: the image, the row and the column of its first.
struct Place {
  int64_t image, row, column;
  Place(const Tiles& tiles, int64_t tile)
      : image(tile / tiles.image), row(tile % tiles.image / tiles.across * 2), column(tile % tiles.across * 2) {}
  void go_on(const Shape& s) {
    column += 2;
    if (column < s.out_width) return;
    column = 0, row += 2;
    if (row < s.out_height) return;
    row = 0, image += 1;
  }
};

// V = B' d B of each tile of a block, [16][T][C].
void transform_images(const Shape& s, const Tiles& tiles, int64_t first, const float* images, const float* zeros,
                      float* v) {
  const int64_t plane = plane_of(s.channels), count = std::min<int64_t>(kStep, tiles.all - first);
  Place place(tiles, first);
  for (int64_t t = 0; t < count; ++t, v += row_of(s.channels), place.go_on(s)) {
    const float* from[kPlaces];
    const int64_t top = place.row - s.top, left = place.column - s.left;
    const float* corner = images + ((place.image * s.height + top) * s.width + left) * s.channels;
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const bool row_inside = top + i >= 0 && top + i < s.height;
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        const bool inside = row_inside && left + j >= 0 && left + j < s.width;
        from[4 * i + j] = inside ? corner + (i * s.width + j) * s.channels : zeros;
      }
    }
    for (int64_t c = 0; c < s.channels; c += kLanes) {
      Vector half[4][4];
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        const Vector d0 = load(from[4 * i] + c), d1 = load(from[4 * i + 1] + c), d2 = load(from[4 * i + 2] + c),
                     d3 = load(from[4 * i + 3] + c);
        half[i][0] = d0 - d2, half[i][1] = d1 + d2, half[i][2] = d2 - d1, half[i][3] = d1 - d3;
      }
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        store(v + c + (0 + j) * plane, half[0][j] - half[2][j]);
        store(v + c + (4 + j) * plane, half[1][j] + half[2][j]);
        store(v + c + (8 + j) * plane, half[2][j] - half[1][j]);
        store(v + c + (12 + j) * plane, half[1][j] - half[3][j]);
      }
    }
  }
}

// D = A y A' of each tile of a block, [16][T][O]; zeros where the block has no tile.
void transform_outputs(const Shape& s, const Tiles& tiles, int64_t first, const float* outputs, const float* zeros,
                       float* d) {
  const int64_t plane = plane_of(s.outputs);
  Place place(tiles, first);
  for (int64_t t = 0; t < kStep; ++t, d += row_of(s.outputs), place.go_on(s)) {
    const float* from[4] = {zeros, zeros, zeros, zeros};
    if (first + t < tiles.all) {
      for (int i = 0; i < 4; ++i) {
        const int64_t y = place.row + i / 2, x = place.column + i % 2;
        if (y < s.out_height && x < s.out_width) {
          from[i] = outputs + ((place.image * s.out_height + y) * s.out_width + x) * s.outputs;
        }
      }
    }
    for (int64_t o = 0; o < s.outputs; o += kLanes) {
      const Vector a = load(from[0] + o), b = load(from[1] + o), c = load(from[2] + o), e = load(from[3] + o);
      const Vector rows[4][2] = {{a, b}, {a + c, b + e}, {a - c, b - e}, {-c, -e}};
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        store(d + o + (4 * i + 0) * plane, rows[i][0]);
        store(d + o + (4 * i + 1) * plane, rows[i][0] + rows[i][1]);
        store(d + o + (4 * i + 2) * plane, rows[i][0] - rows[i][1]);
        store(d + o + (4 * i + 3) * plane, -rows[i][1]);
      }
    }
  }
}

// Y = A' M A of each tile of a block, and what else is done to it.
void finish(const Shape& s, const Tiles& tiles, int64_t first, const float* m, const Finish& f, float* outputs) {
  const int64_t plane = plane_of(s.outputs), count = std::min<int64_t>(kStep, tiles.all - first);
  Place place(tiles, first);
  for (int64_t t = 0; t < count; ++t, m += row_of(s.outputs), place.go_on(s)) {
    const int64_t start = ((place.image * s.out_height + place.row) * s.out_width + place.column) * s.outputs;
    const bool has_below = place.row + 1 < s.out_height, has_right = place.column + 1 < s.out_width;
    for (int64_t o = 0; o < s.outputs; o += kLanes) {
      Vector rows[2][4];
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        const float* from = m + o + j * plane;
        const Vector m1 = load(from + 4 * plane), m2 = load(from + 8 * plane);
        rows[0][j] = load(from) + m1 + m2;
        rows[1][j] = m1 - m2 - load(from + 12 * plane);
      }
#pragma GCC unroll 2
      for (int i = 0; i < 2; ++i) {
#pragma GCC unroll 2
        for (int j = 0; j < 2; ++j) {
          if ((i && !has_below) || (j && !has_right)) continue;
          const int64_t to = start + (i * s.out_width + j) * s.outputs + o;
          Vector y = j ? rows[i][1] - rows[i][2] - rows[i][3] : rows[i][0] + rows[i][1] + rows[i][2];
          if (f.scale) y *= load(f.scale + o);
          if (f.offset) y += load(f.offset + o);
          if (f.added) y += load(f.added + to);
          if (f.relu) y = y < 0.0f ? Vector{} : y;  // a NaN stays
          store(outputs + to, y);
        }
      }
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

// U = G g G', [16][O / columns][C][columns].
void transform_kernel(const Shape& s, const float* kernel, bool flipped, float* u, int threads) {
  const int64_t plane = s.channels * s.outputs, columns = is_wide(s.outputs) ? kWide : kNarrow;
#pragma omp parallel for collapse(2) num_threads(threads) schedule(static)
  for (int64_t first = 0; first < s.channels; first += kLanes) {
    for (int64_t o = 0; o < s.outputs; o += kLanes) {
      const Kernels kernels(s, kernel, flipped, first, o);
      float* to = u + o / columns * columns * s.channels + first * columns + o % columns;
      for (int c = 0; c < kLanes; ++c, to += columns) {
        Vector half[4][3];
#pragma GCC unroll 3
        for (int j = 0; j < 3; ++j) {
          const Vector g0 = load(kernels.at[j][c]), g1 = load(kernels.at[3 + j][c]), g2 = load(kernels.at[6 + j][c]);
          const Vector sum = 0.5f * (g0 + g2), middle = 0.5f * g1;
          half[0][j] = g0, half[1][j] = sum + middle, half[2][j] = sum - middle, half[3][j] = g2;
        }
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
          const Vector sum = 0.5f * (half[i][0] + half[i][2]), middle = 0.5f * half[i][1];
          store(to + (4 * i + 0) * plane, half[i][0]);
          store(to + (4 * i + 1) * plane, sum + middle);
          store(to + (4 * i + 2) * plane, sum - middle);
          store(to + (4 * i + 3) * plane, half[i][2]);
        }
      }
    }
  }
}

// g = G' S G of the sum over all threads' S, [16][C][O].
void transform_sums(const Shape& s, const float* sums, float* kernel, int threads) {
  const int64_t plane = s.channels * s.outputs;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t at = 0; at < plane; at += kLanes) {
    Vector sum[kPlaces] = {}, half[3][4];
    for (int thread = 0; thread < threads; ++thread) {
      for (int i = 0; i < kPlaces; ++i) sum[i] += load(sums + (thread * kPlaces + i) * plane + at);
    }
    for (int j = 0; j < 4; ++j) {
      const Vector both = 0.5f * (sum[4 + j] + sum[8 + j]);
      half[0][j] = sum[j] + both, half[1][j] = 0.5f * (sum[4 + j] - sum[8 + j]), half[2][j] = both + sum[12 + j];
    }
    for (int i = 0; i < 3; ++i) {
      const Vector both = 0.5f * (half[i][1] + half[i][2]);
      store(kernel + (3 * i + 0) * plane + at, half[i][0] + both);
      store(kernel + (3 * i + 1) * plane + at, 0.5f * (half[i][1] - half[i][2]));
      store(kernel + (3 * i + 2) * plane + at, both + half[i][3]);
    }
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
  const Tiles tiles(s);
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
    for (int64_t block = 0; block < tiles.blocks(); ++block) {
      transform_images(s, tiles, block * kStep, images, zeros, v);
      for (int i = 0; i < kPlaces; ++i) {
        (is_wide(s.outputs) ? multiply<kWide> : multiply<kNarrow>)(v + i * plane_of(s.channels),
                                                                   u + i * s.channels * s.outputs,
                                                                   m + i * plane_of(s.outputs), s.channels, s.outputs);
      }
      finish(s, tiles, block * kStep, m, f, outputs);
    }
  }
}

void kernel_gradient(const Shape& s, const float* images, const float* outputs, float* kernel, float* scratch,
                     int threads) {
  const Tiles tiles(s);
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
    std::memset(v, 0, sizeof(float) * kPlaces * plane_of(s.channels));  // rows without a tile are multiplied by zeros
#pragma omp for schedule(static)
    for (int64_t block = 0; block < tiles.blocks(); ++block) {
      transform_images(s, tiles, block * kStep, images, zeros, v);
      transform_outputs(s, tiles, block * kStep, outputs, zeros, d);
      for (int i = 0; i < kPlaces; ++i) {
        (is_wide(s.outputs) ? accumulate<kWide> : accumulate<kNarrow>)(v + i * plane_of(s.channels),
                                                                       d + i * plane_of(s.outputs), mine + i * plane,
                                                                       s.channels, s.outputs);
      }
    }
  }
  transform_sums(s, sums, kernel, team);
}

extern const Ways kWays;
const Ways kWays = {scratch_floats, forward, kernel_gradient};

}  // namespace WINOGRAD_LEVEL
}  // namespace winograd
