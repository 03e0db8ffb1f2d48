// A vector holds the output channels of one position, and a row of positions stays in registers for the whole kernel.
// With few channels this needs a new layout of the images, which pays off for wide kernels.
//
// A call is divided into strips: some output rows of one image with the input rows that they need. A strip fits into a
// core's cache.
#include "few_channel_conv.h"

#include <omp.h>

#include <algorithm>
#include <utility>

#include "nonlinearities.h"

namespace few_channel_conv {
namespace CNNJAX_LEVEL {

using namespace ::CNNJAX_LEVEL;

constexpr int kWidth = kLanes < 8 ? kLanes : 8;    // few outputs do not fill wider vectors
constexpr int kMost = kRegisters == 32 ? 28 : 12;  // maximum sums in registers
constexpr int64_t kStrip = 8192;                   // output floats of a strip that has more than one row

using Lanes = Of<kWidth>;

// The strips of a call.
struct Strips {
  int64_t rows, image, all;

  explicit Strips(const Shape& s)
      : rows(std::clamp<int64_t>(kStrip / (s.out_width * s.outputs), 1, s.out_height)),
        image(divided_up(s.out_height, rows)),
        all(image * s.batch) {}
};

struct Strip {
  int64_t image, first, rows;  // its output rows
  int64_t top, lines;          // its input rows, some of which may be padding

  Strip(const Shape& s, const Strips& strips, int64_t index)
      : image(index / strips.image),
        first(index % strips.image * strips.rows),
        rows(std::min(strips.rows, s.out_height - first)),
        top(first - s.top),
        lines(rows + s.kernel_height - 1) {}

  // Offset and number of its outputs.
  int64_t place(const Shape& s) const { return (image * s.out_height + first) * s.out_width * s.outputs; }
  int64_t count(const Shape& s) const { return rows * s.out_width * s.outputs; }
};

// Of `count` rows or columns from `start`, the range that lies inside the images and not in the padding.
struct Range {
  int64_t from, to;
  Range(int64_t start, int64_t height, int64_t count)
      : from(std::clamp<int64_t>(-start, 0, count)), to(std::clamp<int64_t>(height - start, from, count)) {}
};

int64_t line_of(const Shape& s) { return s.out_width + s.kernel_width - 1; }  // input columns, with padding

// Calls store(line, column, pixel) for each input pixel of a strip; a null pixel is padding.
template <typename Store>
inline void each_pixel(const Shape& s, const Strip& strip, const float* images, Store store) {
  const Range inside(strip.top, s.height, strip.lines), across(-s.left, s.width, line_of(s));
  for (int64_t i = inside.from; i < inside.to; ++i) {
    const float* row = images + ((strip.image * s.height + strip.top + i) * s.width - s.left) * s.channels;
    for (int64_t j = 0; j < across.from; ++j) store(i, j, nullptr);
    for (int64_t j = across.from; j < across.to; ++j) store(i, j, row + j * s.channels);
    for (int64_t j = across.to; j < line_of(s); ++j) store(i, j, nullptr);
  }
}

// The outputs of adjacent positions are `step` apart. Lanes beyond a position's outputs are overwritten by the next one.
struct Row {
  int64_t rows, channels, columns, line, step;  // kernel rows that overlap the images, and kernel columns
};

// sums[P][outputs] of P adjacent positions.
template <int P>
void convolve_row(const Row& row, const float* x, const float* kernel, const float* scale, const float* offset,
                  float* to) {
  Lanes::Vector sums[P] = {};
  for (int64_t i = 0; i < row.rows * row.channels; ++i, x += row.line) {
    for (int64_t j = 0; j < row.columns; ++j, kernel += kWidth) {
      const auto weights = Lanes::load(kernel);
#pragma GCC unroll 32
      for (int p = 0; p < P; ++p) sums[p] += x[j + p] * weights;
    }
  }
  const auto factor = Lanes::load(scale), more = Lanes::load(offset);
#pragma GCC unroll 32
  for (int p = 0; p < P; ++p) Lanes::store(to + p * row.step, sums[p] * factor + more);
}

// sums[R][outputs] += x[position][R]' d[position][outputs], over rows of positions.
template <int R>
void add_products(const Row& row, int64_t positions, const float* x, const float* d, float* sums) {
  constexpr int U = R > 6 ? 1 : R > 3 ? 2 : 4;  // enough independent sums to hide the latency
  Lanes::Vector partial[U][R] = {};
  for (int64_t i = 0; i < row.rows; ++i) {
    const float *pixel = x + i * row.line, *cotangent = d + i * positions * row.step;
    int64_t j = 0;
    const auto add = [&](int u) {
      const auto lanes = Lanes::load(cotangent);
#pragma GCC unroll 32
      for (int r = 0; r < R; ++r) partial[u][r] += pixel[r] * lanes;
      pixel += row.channels, cotangent += row.step, ++j;
    };
    while (j + U <= positions) {
#pragma GCC unroll 4
      for (int u = 0; u < U; ++u) add(u);
    }
    while (j < positions) add(0);
  }
#pragma GCC unroll 32
  for (int r = 0; r < R; ++r) {
    auto sum = Lanes::load(sums + r * kWidth);
#pragma GCC unroll 4
    for (int u = 0; u < U; ++u) sum += partial[u][r];
    Lanes::store(sums + r * kWidth, sum);
  }
}

// The two functions above by number of sums, starting at 1.
using ConvolveRow = decltype(&convolve_row<1>);
using AddProducts = decltype(&add_products<1>);

template <int... kCounts>
ConvolveRow convolve_row_of(int64_t count, std::integer_sequence<int, kCounts...>) {
  static constexpr ConvolveRow all[] = {convolve_row<kCounts + 1>...};
  return all[count - 1];
}

template <int... kCounts>
AddProducts add_products_of(int64_t count, std::integer_sequence<int, kCounts...>) {
  static constexpr AddProducts all[] = {add_products<kCounts + 1>...};
  return all[count - 1];
}

// Divides a length into parts that fit into the registers.
struct Parts {
  int64_t count, size;
  explicit Parts(int64_t length) : count(divided_up(length, kMost)), size(divided_up(length, count)) {}
};

// Layout of the scratch memory, in floats.
struct Room {
  int64_t lanes, kernel, inputs, outputs;  // rows of the kernel gradient are counted in parts

  explicit Room(const Shape& s) {
    const Parts parts(s.kernel_width * s.channels);
    const Strips strips(s);
    lanes = divided_up(s.outputs, kWidth) * kWidth;
    kernel = s.kernel_height * parts.count * parts.size * lanes;
    inputs = (strips.rows + s.kernel_height - 1) * line_of(s) * s.channels + kMost;
    outputs = strips.rows * s.out_width * s.outputs + 2 * kLanes;
  }
};

int64_t scratch_floats(const Shape& s, bool kernel_gradient, int threads) {
  const Room room(s);
  return 2 * room.lanes + room.kernel * (kernel_gradient ? threads : 1) + threads * (room.inputs + room.outputs);
}

// The kernel as [O / lanes][h][C][w][lanes].
void pack_kernel(const Shape& s, const float* kernel, bool flipped, float* packed) {
  const int64_t places = s.kernel_height * s.kernel_width;
  for (int64_t first = 0; first < s.outputs; first += kWidth) {
    for (int64_t i = 0; i < s.kernel_height; ++i) {
      for (int64_t c = 0; c < s.channels; ++c) {
        for (int64_t j = 0; j < s.kernel_width; ++j, packed += kWidth) {
          const int64_t place = i * s.kernel_width + j;
          for (int64_t lane = 0; lane < kWidth; ++lane) {
            const int64_t o = first + lane;
            packed[lane] = o >= s.outputs ? 0.0f
                           : flipped      ? kernel[((places - 1 - place) * s.outputs + o) * s.channels + c]
                                          : kernel[(place * s.channels + c) * s.outputs + o];
          }
        }
      }
    }
  }
}

void by_lane(const float* values, float fallback, int64_t count, int64_t lanes, float* to) {
  std::fill(to, to + lanes, fallback);
  if (values) std::copy(values, values + count, to);
}

void convolve_strip(const Shape& s, const Strip& strip, const float* inputs, const float* kernel, const float* scale,
                    const float* offset, float* outputs) {
  const Parts parts(s.out_width);
  const auto convolve = convolve_row_of(parts.size, std::make_integer_sequence<int, kMost>());
  const int64_t taps = s.channels * s.kernel_width * kWidth, last = (s.outputs - 1) / kWidth * kWidth;
  for (int64_t y = 0; y < strip.rows; ++y) {
    const Range rows(strip.top + y, s.height, s.kernel_height);
    const Row row = {rows.to - rows.from, s.channels, s.kernel_width, line_of(s), s.outputs};
    const float* from = inputs + (y + rows.from) * s.channels * line_of(s);
    for (int64_t part = 0; part < parts.count; ++part) {
      const int64_t x = std::min(part * parts.size, s.out_width - parts.size);  // the last part may overlap
      float* to = outputs + (y * s.out_width + x) * s.outputs;
      for (int64_t o = last; o >= 0; o -= kWidth) {  // the excess lanes are in the last vector, which goes first
        const float* weights = kernel + o / kWidth * s.kernel_height * taps + rows.from * taps;
        convolve(row, from + x, weights, scale + o, offset + o, to + o);
      }
    }
  }
}

void forward(const Shape& s, const float* images, const float* kernel, bool flipped, float* outputs, const Finish& f,
             float* scratch, int threads) {
  const Strips strips(s);
  const Room room(s);
  float *scale = scratch, *offset = scale + room.lanes, *packed = offset + room.lanes, *strip_room = packed + room.kernel;
  by_lane(f.scale, 1.0f, s.outputs, room.lanes, scale);
  by_lane(f.offset, 0.0f, s.outputs, room.lanes, offset);
  pack_kernel(s, kernel, flipped, packed);
  const auto apply = apply_of(f.nonlinearity);
#pragma omp parallel num_threads(threads)
  {
    float* inputs = strip_room + omp_get_thread_num() * (room.inputs + room.outputs);
    float* sums = inputs + room.inputs;
#pragma omp for schedule(static)
    for (int64_t index = 0; index < strips.all; ++index) {
      const Strip strip(s, strips, index);
      each_pixel(s, strip, images, [&](int64_t line, int64_t column, const float* pixel) {  // as [line][C][column]
        float* to = inputs + line * s.channels * line_of(s) + column;
        for (int64_t c = 0; c < s.channels; ++c) to[c * line_of(s)] = pixel ? pixel[c] : 0.0f;
      });
      convolve_strip(s, strip, inputs, packed, scale, offset, sums);
      apply(sums, outputs + strip.place(s), strip.count(s));
    }
  }
}

// Adds a strip's part of the kernel gradient to sums [O / lanes][h][w C in parts][lanes].
void add_strip(const Shape& s, const Strip& strip, const float* inputs, const float* outputs, float* sums) {
  const Parts parts(s.kernel_width * s.channels);
  const auto add = add_products_of(parts.size, std::make_integer_sequence<int, kMost>());
  const int64_t line = line_of(s) * s.channels;
  for (int64_t o = 0; o < s.outputs; o += kWidth) {
    for (int64_t i = 0; i < s.kernel_height; ++i) {
      const Range rows(strip.top + i, s.height, strip.rows);
      const Row row = {rows.to - rows.from, s.channels, s.kernel_width, line, s.outputs};
      for (int64_t part = 0; part < parts.count; ++part, sums += parts.size * kWidth) {
        add(row, s.out_width, inputs + (rows.from + i) * line + part * parts.size,
            outputs + rows.from * s.out_width * s.outputs + o, sums);
      }
    }
  }
}

// Sums the gradients of all threads.
void add_threads(const Shape& s, const float* sums, float* kernel, int threads) {
  const int64_t across = s.kernel_width * s.channels;
  const Parts parts(across);
  const int64_t all = Room(s).kernel;
  for (int64_t o = 0; o < s.outputs; ++o) {
    for (int64_t i = 0; i < s.kernel_height; ++i) {
      for (int64_t k = 0; k < across; ++k) {
        const int64_t row = (o / kWidth * s.kernel_height + i) * parts.count * parts.size + k;
        float sum = 0.0f;
        for (int thread = 0; thread < threads; ++thread) sum += sums[thread * all + row * kWidth + o % kWidth];
        kernel[(i * across + k) * s.outputs + o] = sum;
      }
    }
  }
}

void kernel_gradient(const Shape& s, const float* images, const float* outputs, float* kernel, float* scratch,
                     int threads) {
  const Strips strips(s);
  const Room room(s);
  float* sums = scratch;
  float* strip_room = sums + room.kernel * threads;
  int team = 1;  // may be smaller than requested
#pragma omp parallel num_threads(threads)
  {
#pragma omp single nowait
    team = omp_get_num_threads();
    float* inputs = strip_room + omp_get_thread_num() * (room.inputs + room.outputs);
    float* cotangents = inputs + room.inputs;
    float* mine = sums + omp_get_thread_num() * room.kernel;
    std::fill(mine, mine + room.kernel, 0.0f);
#pragma omp for schedule(static)
    for (int64_t index = 0; index < strips.all; ++index) {
      const Strip strip(s, strips, index);
      each_pixel(s, strip, images, [&](int64_t line, int64_t column, const float* pixel) {  // as [line][column][C]
        float* to = inputs + (line * line_of(s) + column) * s.channels;
        for (int64_t c = 0; c < s.channels; ++c) to[c] = pixel ? pixel[c] : 0.0f;
      });
      std::copy_n(outputs + strip.place(s), strip.count(s), cotangents);  // copied because it is read past its end
      add_strip(s, strip, inputs, cotangents, mine);
    }
  }
  add_threads(s, sums, kernel, team);
}

const Algorithm kAlgorithm = {scratch_floats, forward, kernel_gradient};

}  // namespace CNNJAX_LEVEL
}  // namespace few_channel_conv
