// Lavin and Gray 2016, "Fast Algorithms for Convolutional Neural Networks", section 4: Y = A'[(G g G') * (B' d B)] A.
//
// A tile of 6x6 inputs gives 4x4 outputs. With up to a few hundred channels, a block of tiles stays in a core's cache
// from its transform through 36 matrix products (tiles x channels, channels x outputs) to its outputs. Each block
// computes its groups one after another, and merges small groups (`groups_in_one`).
#include "winograd.h"

#include <omp.h>

#include <algorithm>
#include <cstring>
#include <limits>

#include "winograd_transforms.h"

namespace winograd {
namespace CNNJAX_LEVEL {

using namespace ::CNNJAX_LEVEL;

constexpr int kPlaces = kIn * kIn;       // number of products
constexpr int kStep = 42;                // maximum tiles in a block: a multiple of the rows of each product below
constexpr int kChunk = 64;               // outputs at a time, and channels if groups are that small
constexpr int kWide = 32, kNarrow = 16;  // columns of a product

// The transforms of a block are stored in chunks of channels, each [36][tiles][channels]: one plane per product. The row
// length avoids cache conflicts.
constexpr int64_t kPlane = kStep * (kChunk + 16), kPlanes = kPlaces * kPlane;
constexpr int64_t row_of(int64_t channels) { return channels < kChunk ? channels : kChunk + 16; }
constexpr int64_t chunks_of(int64_t channels) { return (channels + kChunk - 1) / kChunk; }
constexpr int64_t chunk_at(int64_t channel) { return channel / kChunk * kPlanes + channel % kChunk; }

// A part is computed as a whole: one group, or several merged groups.
struct Parts {
  int64_t count, channels, outputs;  // number of parts, and the sizes of each
  int64_t at_once;                   // parts that are adjacent in the planes
  explicit Parts(const Shape& s)
      : count(s.groups / groups_in_one(s.channels / s.groups, s.outputs / s.groups, s.groups)),
        channels(s.channels / count),
        outputs(s.outputs / count),
        at_once(std::clamp<int64_t>(kChunk / std::max(channels, outputs), 1, count)) {}
  int64_t weights() const { return channels * outputs; }
};

// result[R][columns] (+)= sum over k of a[R][k] b[k][columns]. `a` advances by (row, step), and then to the next chunk.
template <int R, int V, bool kAdds>
inline void product(const float* a, int64_t a_row, int64_t a_step, const float* b, int64_t b_step, int64_t depth,
                    float* result, int64_t result_row) {
  Vector sums[R][V];
#pragma GCC unroll 32
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) sums[r][v] = kAdds ? load(result + r * result_row + v * kLanes) : Vector{};
  }
  for (int64_t done = 0; done < depth; done += kChunk, a += kPlanes) {
    const float* from = a;
    for (int64_t k = std::min<int64_t>(kChunk, depth - done); k > 0; --k) {
      Vector column[V];
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) column[v] = load(b + v * kLanes);
#pragma GCC unroll 32
      for (int r = 0; r < R; ++r) {
        const float factor = from[r * a_row];
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) sums[r][v] += factor * column[v];
      }
      from += a_step;
      b += b_step;
    }
  }
#pragma GCC unroll 32
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) store(result + r * result_row + v * kLanes, sums[r][v]);
  }
}

// Rows of a product that fit into the registers together with its columns.
template <int kColumns>
constexpr int rows() {
  constexpr int vectors = kColumns / kLanes;
  return vectors == 1 ? 21 : vectors == 2 ? (kRegisters == 32 ? 14 : 6) : vectors == 4 && kRegisters == 32 ? 6 : 3;
}

// Tiles in a block when outputs are computed: just enough to fill a product, so that they stay in cache.
template <int kColumns>
constexpr int64_t few_tiles() {
  constexpr int64_t R = rows<kColumns>();
  return (14 + R - 1) / R * R;
}

// M[T][O] = V[T][C] U[C][O], with U in panels of columns and T rounded up to whole products.
template <int kColumns>
void multiply(const float* v, int64_t v_row, const float* u, float* m, int64_t m_row, int64_t tiles, int64_t channels,
              int64_t outputs) {
  constexpr int R = rows<kColumns>();
  static_assert(kStep % R == 0);
  for (int64_t o = 0; o < outputs; o += kColumns) {
    for (int64_t t = 0; t < tiles; t += R) {
      product<R, kColumns / kLanes, false>(v + t * v_row, v_row, 1, u + o * channels, kColumns, channels,
                                           m + t * m_row + o, m_row);
    }
  }
}

// S[C][O] += V[T][C]' D[T][O]
template <int kColumns>
void accumulate(const float* v, int64_t v_row, const float* d, int64_t d_row, float* s, int64_t tiles, int64_t channels,
                int64_t outputs) {
  constexpr int R = kColumns / kLanes == 1 ? 16 : 8;
  for (int64_t c = 0; c < channels; c += R) {
    for (int64_t o = 0; o < outputs; o += kColumns) {
      product<R, kColumns / kLanes, true>(v + chunk_at(c), 1, v_row, d + chunk_at(o), d_row, tiles, s + c * outputs + o,
                                          outputs);
    }
  }
}

bool is_wide(int64_t columns) { return kLanes == 16 && columns % kWide == 0; }

// Division of a call into tiles, and of the tiles into blocks so that each thread gets the same number.
struct Tiles {
  int64_t across, image, all, blocks, step;
  Tiles(const Shape& s, int threads, int64_t most_in_block)
      : across((s.out_width + kOut - 1) / kOut), image(across * ((s.out_height + kOut - 1) / kOut)), all(image * s.batch) {
    const int64_t most = most_in_block * threads, rounds = (all + most - 1) / most;
    step = (all + rounds * threads - 1) / (rounds * threads);
    blocks = (all + step - 1) / step;
  }
  int64_t count(int64_t block) const { return std::min(step, all - block * step); }
};

// Position of a tile's first output: image, row and column.
struct Place {
  int64_t image, row, column;
  Place(const Tiles& tiles, int64_t tile)
      : image(tile / tiles.image), row(tile % tiles.image / tiles.across * kOut), column(tile % tiles.across * kOut) {}
  void advance(const Shape& s) {
    column += kOut;
    if (column < s.out_width) return;
    column = 0, row += kOut;
    if (row < s.out_height) return;
    row = 0, image += 1;
  }
};

// A run is up to kRun adjacent tiles. Their inputs overlap, so the first transform covers all of their columns.
constexpr int kRun = 8, kRunColumns = kRun * kOut + kIn - kOut;

// V = B' d B for a run of tiles and some channels; v points to the first tile.
void transform_run(const Shape& s, const Place& place, int64_t count, const float* images, int64_t channels,
                   const float* zeros, float* v) {
  const int64_t top = place.row - s.top, left = place.column - s.left, columns = count * kOut + kIn - kOut;
  const float* row[kIn];
  int64_t step[kIn];
  for (int i = 0; i < kIn; ++i) {
    const bool inside = top + i >= 0 && top + i < s.height;
    row[i] = inside ? images + ((place.image * s.height + top + i) * s.width + left) * s.channels : zeros;
    step[i] = inside ? s.channels : 0;
  }
  const int64_t from = std::clamp<int64_t>(-left, 0, columns), to = std::clamp<int64_t>(s.width - left, 0, columns);
  for (int64_t c = 0; c < channels; c += kLanes) {
    Vector half[kRunColumns][kIn];
    for (int64_t x = 0; x < from; ++x) std::fill_n(half[x], kIn, Vector{});
    for (int64_t x = from; x < to; ++x) {
      Vector line[kIn];
#pragma GCC unroll 6
      for (int i = 0; i < kIn; ++i) line[i] = load(row[i] + x * step[i] + c);
      inputs_along(line, half[x]);
    }
    for (int64_t x = to; x < columns; ++x) std::fill_n(half[x], kIn, Vector{});
    float* tile = v + chunk_at(c);
    for (int64_t t = 0; t < count; ++t, tile += row_of(channels)) {
#pragma GCC unroll 6
      for (int i = 0; i < kIn; ++i) {
        Vector line[kIn], transformed[kIn];
#pragma GCC unroll 6
        for (int j = 0; j < kIn; ++j) line[j] = half[t * kOut + j][i];
        inputs_along(line, transformed);
#pragma GCC unroll 6
        for (int j = 0; j < kIn; ++j) store(tile + (kIn * i + j) * kPlane, transformed[j]);
      }
    }
  }
}

// V = B' d B for each tile of a block and the first channels of `images`.
void transform_images(const Shape& s, const Tiles& tiles, int64_t block, const float* images, int64_t channels,
                      const float* zeros, float* v) {
  const int64_t first = block * tiles.step, count = tiles.count(block);
  for (int64_t t = 0; t < count;) {
    const int64_t run = std::min({count - t, tiles.across - (first + t) % tiles.across, int64_t{kRun}});
    transform_run(s, Place(tiles, first + t), run, images, channels, zeros, v + t * row_of(channels));
    t += run;
  }
}

// Outputs of a tile: offset, existing rows and columns, and strides. Functions that take it are always inlined;
// otherwise the compiler assumes that stores may alias it, and reloads it each time.
struct Window {
  int64_t corner, below, right, row, column;
  Window(const Shape& s, const Place& place)
      : corner(((place.image * s.out_height + place.row) * s.out_width + place.column) * s.outputs),
        below(s.out_height - place.row),
        right(s.out_width - place.column),
        row(s.out_width * s.outputs),
        column(s.outputs) {}
  bool is_whole() const { return below >= kOut && right >= kOut; }
  bool holds(int i, int j) const { return i < below && j < right; }
  int64_t at(int i, int j) const { return i * row + j * column; }
};

// D = A y A' for one tile and the first `count` of `outputs`.
template <bool kWhole>
[[gnu::always_inline]] inline void transform_tile(const Window& window, const float* outputs, int64_t count, float* d) {
  for (int64_t o = 0; o < count; o += kLanes) {
    const float* y = outputs + window.corner + o;
    float* to = d + chunk_at(o);
    transform_square<kOut, kIn, cotangents_along>(
        [&](int i, int j) { return kWhole || window.holds(i, j) ? load(y + window.at(i, j)) : Vector{}; },
        [&](int i, int j, Vector transformed) { store(to + (kIn * i + j) * kPlane, transformed); });
  }
}

// The same for each tile of a block.
void transform_outputs(const Shape& s, const Tiles& tiles, int64_t block, const float* outputs, int64_t count,
                       float* d) {
  Place place(tiles, block * tiles.step);
  for (int64_t t = 0; t < tiles.count(block); ++t, d += row_of(count), place.advance(s)) {
    const Window window(s, place);
    if (window.is_whole()) transform_tile<true>(window, outputs, count, d);
    else transform_tile<false>(window, outputs, count, d);
  }
}

// Y = A' M A and its epilogue for one tile and the first `count` outputs; m is one chunk.
template <bool kWhole>
[[gnu::always_inline]] inline void finish_tile(const Window& window, const float* m, int64_t count, const Finish& f,
                                               float* outputs) {
  const Vector least = Vector{} + (f.nonlinearity == kRelu ? 0.0f : -std::numeric_limits<float>::infinity());
  for (int64_t o = 0; o < count; o += kLanes) {
    transform_square<kIn, kOut, products_along>(
        [&](int i, int j) { return load(m + o + (kIn * i + j) * kPlane); },
        [&](int i, int j, Vector y) {
          if (!kWhole && !window.holds(i, j)) return;
          const int64_t at = window.corner + window.at(i, j) + o;
          if (f.scale) y *= load(f.scale + o);
          if (f.offset) y += load(f.offset + o);
          if (f.added) y += load(f.added + at);
          store(outputs + at, y < least ? least : y);
        });
  }
}

// The same for each tile of a block, starting at output `first`.
void finish(const Shape& s, const Tiles& tiles, int64_t block, const float* m, int64_t first, int64_t count,
            const Finish& f, float* outputs) {
  Place place(tiles, block * tiles.step);
  for (int64_t t = 0; t < tiles.count(block); ++t, m += row_of(count), place.advance(s)) {
    const Window window(s, place);
    const Finish mine = f.from(first);
    if (window.is_whole()) finish_tile<true>(window, m, count, mine, outputs + first);
    else finish_tile<false>(window, m, count, mine, outputs + first);
  }
}

// Within a row of kernels [C / groups][O], the lanes from output `first` that are in the same group as `channel`.
struct Lanes {
  int64_t from, to;
  Lanes(int64_t channel, int64_t channels_a_group, int64_t first, int64_t outputs_a_group) {
    const int64_t start = channel / channels_a_group * outputs_a_group - first;
    from = std::clamp<int64_t>(start, 0, kLanes);
    to = std::clamp<int64_t>(start + outputs_a_group, 0, kLanes);
  }
};

// 3x3 kernels from some channels to some outputs of a part, [9][kLanes channels][kLanes outputs]; zero between groups.
struct Kernels {
  float at[9][kLanes][kLanes] = {};

  Kernels(const Shape& s, const float* kernel, bool flipped, int64_t part, int64_t c, int64_t o) {
    const Parts parts(s);
    const int64_t channels = s.channels / s.groups, outputs = s.outputs / s.groups;  // per group
    for (int line = 0; line < kLanes; ++line) {
      const int64_t row = line + (flipped ? o : c);  // a channel of the given kernel; an output if flipped
      const Lanes lanes = flipped ? Lanes(row, outputs, c, channels) : Lanes(row, channels, o, outputs);
      const int64_t width = flipped ? s.channels : s.outputs, rows = flipped ? outputs : channels;
      const float* from = kernel + row % rows * width + (flipped ? part * parts.channels + c : part * parts.outputs + o);
      for (int i = 0; i < 9; ++i) {
        const float* weights = from + (flipped ? 8 - i : i) * rows * width;
        for (int64_t lane = lanes.from; lane < lanes.to; ++lane) {
          (flipped ? at[i][lane][line] : at[i][line][lane]) = weights[lane];
        }
      }
    }
  }
};

// U = G g G' for each part, [parts][36][O / columns][C][columns].
void transform_kernel(const Shape& s, const float* kernel, bool flipped, float* u, int threads) {
  const Parts parts(s);
  const int64_t plane = parts.weights(), columns = is_wide(parts.outputs) ? kWide : kNarrow;
#pragma omp parallel for collapse(3) num_threads(threads) schedule(static)
  for (int64_t part = 0; part < parts.count; ++part) {
    for (int64_t first = 0; first < parts.channels; first += kLanes) {
      for (int64_t o = 0; o < parts.outputs; o += kLanes) {
        const Kernels kernels(s, kernel, flipped, part, first, o);
        float* to = u + part * kPlaces * plane + o / columns * columns * parts.channels + first * columns + o % columns;
        for (int c = 0; c < kLanes; ++c, to += columns) {
          transform_square<3, kIn, weights_along>(
              [&](int i, int j) { return load(kernels.at[3 * i + j][c]); },
              [&](int i, int j, Vector transformed) { store(to + (kIn * i + j) * plane, transformed); });
        }
      }
    }
  }
}

// g = G' S G of the sum of all threads' S, [threads][parts][36][C][O].
void transform_sums(const Shape& s, const float* sums, float* kernel, int threads) {
  const Parts parts(s);
  const int64_t plane = parts.weights(), channels = s.channels / s.groups, outputs = s.outputs / s.groups;
#pragma omp parallel for collapse(2) num_threads(threads) schedule(static)
  for (int64_t part = 0; part < parts.count; ++part) {
    for (int64_t c = 0; c < parts.channels; ++c) {
      for (int64_t o = 0; o < parts.outputs; o += kLanes) {
        const Lanes lanes(c, channels, o, outputs);
        if (lanes.from == lanes.to) continue;
        const float* from = sums + part * kPlaces * plane + c * parts.outputs + o;
        float* to = kernel + c % channels * s.outputs + part * parts.outputs + o;
        transform_square<kIn, 3, sums_along>(
            [&](int i, int j) {
              Vector sum = load(from + (kIn * i + j) * plane);
              for (int thread = 1; thread < threads; ++thread) {
                sum += load(from + (thread * parts.count * kPlaces + kIn * i + j) * plane);
              }
              return sum;
            },
            [&](int i, int j, Vector transformed) {
              float* place = to + (3 * i + j) * channels * s.outputs;
              float each[kLanes];
              store(each, transformed);
              std::copy(each + lanes.from, each + lanes.to, place + lanes.from);
            });
      }
    }
  }
}

// Layout of the scratch memory, in floats.
struct Room {
  int64_t zeros, weights, inputs, outputs;

  Room(const Parts& parts, bool kernel_gradient)
      : zeros(parts.at_once * std::max(parts.channels, parts.outputs)),
        weights(parts.count * kPlaces * parts.weights()),
        inputs(kPlanes * chunks_of(parts.at_once * parts.channels)),
        outputs(kPlanes * (kernel_gradient ? chunks_of(parts.at_once * parts.outputs) : 1)) {}
};

int64_t scratch_floats(const Shape& s, bool kernel_gradient, int threads) {
  const Room room(Parts(s), kernel_gradient);
  return room.zeros + room.weights * (kernel_gradient ? threads : 1) + threads * (room.inputs + room.outputs);
}

void forward(const Shape& s, const float* images, const float* kernel, bool flipped, float* outputs, const Finish& f,
             float* scratch, int threads) {
  const Parts parts(s);
  const Room room(parts, false);
  const bool wide = is_wide(parts.outputs);
  const Tiles tiles(s, threads, wide ? few_tiles<kWide>() : few_tiles<kNarrow>());
  const auto product = wide ? multiply<kWide> : multiply<kNarrow>;
  float *zeros = scratch, *u = zeros + room.zeros, *blocks = u + room.weights;
  std::memset(zeros, 0, sizeof(float) * room.zeros);
  transform_kernel(s, kernel, flipped, u, threads);
#pragma omp parallel num_threads(threads)
  {
    float* v = blocks + omp_get_thread_num() * (room.inputs + room.outputs);
    float* m = v + room.inputs;
#pragma omp for schedule(static)
    for (int64_t block = 0; block < tiles.blocks; ++block) {
      for (int64_t part = 0; part < parts.count; part += parts.at_once) {
        const int64_t adjacent = std::min(parts.at_once, parts.count - part), channels = adjacent * parts.channels;
        transform_images(s, tiles, block, images + part * parts.channels, channels, zeros, v);
        for (int64_t o = 0; o < adjacent * parts.outputs; o += kChunk) {
          const int64_t chunk = std::min<int64_t>(kChunk, adjacent * parts.outputs - o), each = chunk / adjacent;
          for (int i = 0; i < kPlaces; ++i) {
            for (int64_t k = 0; k < adjacent; ++k) {
              product(v + i * kPlane + k * parts.channels, row_of(channels),
                      u + ((part + k) * kPlaces + i) * parts.weights() + o * parts.channels,
                      m + i * kPlane + k * each, row_of(chunk), tiles.count(block), parts.channels, each);
            }
          }
          finish(s, tiles, block, m, part * parts.outputs + o, chunk, f, outputs);
        }
      }
    }
  }
}

void kernel_gradient(const Shape& s, const float* images, const float* outputs, float* kernel, float* scratch,
                     int threads) {
  const Parts parts(s);
  const Room room(parts, true);
  const Tiles tiles(s, threads, parts.channels == kLanes ? kStep / 2 : kStep);
  const auto add_product = is_wide(parts.outputs) ? accumulate<kWide> : accumulate<kNarrow>;
  float *zeros = scratch, *sums = zeros + room.zeros, *blocks = sums + room.weights * threads;
  int team = 1;  // may be smaller than requested
  std::memset(zeros, 0, sizeof(float) * room.zeros);
#pragma omp parallel num_threads(threads)
  {
#pragma omp single nowait
    team = omp_get_num_threads();
    float* v = blocks + omp_get_thread_num() * (room.inputs + room.outputs);
    float* d = v + room.inputs;
    float* mine = sums + omp_get_thread_num() * room.weights;
    std::memset(mine, 0, sizeof(float) * room.weights);
#pragma omp for schedule(static)
    for (int64_t block = 0; block < tiles.blocks; ++block) {
      for (int64_t part = 0; part < parts.count; part += parts.at_once) {
        const int64_t adjacent = std::min(parts.at_once, parts.count - part);
        const int64_t channels = adjacent * parts.channels, lanes = adjacent * parts.outputs;
        transform_images(s, tiles, block, images + part * parts.channels, channels, zeros, v);
        transform_outputs(s, tiles, block, outputs + part * parts.outputs, lanes, d);
        for (int i = 0; i < kPlaces; ++i) {
          for (int64_t k = 0; k < adjacent; ++k) {
            add_product(v + i * kPlane + k * parts.channels, row_of(channels),
                        d + i * kPlane + k * parts.outputs, row_of(lanes),
                        mine + ((part + k) * kPlaces + i) * parts.weights(), tiles.count(block), parts.channels,
                        parts.outputs);
          }
        }
      }
    }
  }
  transform_sums(s, sums, kernel, team);
}

const Algorithm kAlgorithm = {scratch_floats, forward, kernel_gradient};

}  // namespace CNNJAX_LEVEL
}  // namespace winograd
