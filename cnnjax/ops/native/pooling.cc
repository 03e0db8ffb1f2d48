// A window is read for a few vectors of channels at a time, all its places, so that they stay in registers. Whatever is
// written is written once and by one thread.
#include "pooling.h"

#include <algorithm>
#include <limits>

#include "simd.h"

namespace pooling {
namespace CNNJAX_LEVEL {

using namespace ::CNNJAX_LEVEL;

using Numbers = int32_t __attribute__((vector_size(kLanes * sizeof(int32_t))));
using Shorts = uint16_t __attribute__((vector_size(kLanes * sizeof(uint16_t))));
using Bytes = uint8_t __attribute__((vector_size(kLanes), aligned(1), may_alias));

// Channels that are computed at once: some vectors of them, or a single one. Places are widened and narrowed in two
// steps, each of which is an instruction.
template <int kVectors>
struct Many {
  using Values = Vector;
  using Places = Numbers;
  static constexpr int kCount = kVectors, kWidth = kLanes;
  static Values values(const float* from) { return load(from); }
  static Places places(const uint8_t* from) {
    const Bytes narrow = *reinterpret_cast<const Bytes*>(from);
    return __builtin_convertvector(__builtin_convertvector(narrow, Shorts), Numbers);
  }
  static void put_down(float* to, Values values) { store(to, values); }
  static void put_down(uint8_t* to, Places places) {
    *reinterpret_cast<Bytes*>(to) = __builtin_convertvector(__builtin_convertvector(places, Shorts), Bytes);
  }
};
struct One {
  using Values = float;
  using Places = int32_t;
  static constexpr int kCount = 1, kWidth = 1;
  static Values values(const float* from) { return *from; }
  static Places places(const uint8_t* from) { return *from; }
  static void put_down(float* to, Values value) { *to = value; }
  static void put_down(uint8_t* to, Places place) { *to = static_cast<uint8_t>(place); }
};

// Calls `compute` with channels to compute at once and the first of them. The last may be computed twice.
template <typename Compute>
inline void over_channels(int64_t channels, Compute compute) {
  int64_t c = 0;
  for (; c + 4 * kLanes <= channels; c += 4 * kLanes) compute(Many<4>(), c);
  for (; c + kLanes <= channels; c += kLanes) compute(Many<1>(), c);
  if (c < channels && channels >= kLanes) {
    compute(Many<1>(), channels - kLanes);
  } else {
    for (; c < channels; ++c) compute(One(), c);
  }
}

struct Range {
  int64_t begin, end;
};

// Of a window that begins at `start`, the part inside of an axis.
inline Range inside(int64_t start, int64_t size, int64_t extent) {
  return {std::max<int64_t>(0, -start), std::min(size, extent - start)};
}

// The windows along an axis that hold a position.
inline Range holding(const Shape& s, int64_t position, int64_t windows) {
  const int64_t last = position + s.padding, first = std::max<int64_t>(0, last - s.size + s.stride);
  return {first / s.stride, std::min(windows, last / s.stride + 1)};
}

// Asks for some channels of the pixels that the window below is the first to meet.
inline void bring_nearer(const Shape& s, const float* image, int64_t top, int64_t left, int64_t channel, int64_t count) {
  constexpr int64_t kLine = 16;  // floats of a line of the cache
  for (int64_t y = top + s.size; y < std::min(top + s.size + s.stride, s.height); ++y) {
    for (int64_t x = std::max<int64_t>(0, left); x < std::min(left + s.stride, s.width); ++x) {
      const float* const pixel = image + (y * s.width + x) * s.channels + channel;
      for (int64_t c = 0; c < count; c += kLine) __builtin_prefetch(pixel + c, 0, 2);
    }
  }
}

// Calls `compute` for each window and some channels with where their outputs lie, and with a function that calls
// another for each place inside with where the images have it.
template <typename Compute>
void over_windows(const Shape& s, const float* images, Compute compute) {
#pragma omp parallel for collapse(2) schedule(static)
  for (int64_t n = 0; n < s.batch; ++n) {
    for (int64_t y = 0; y < s.out_height; ++y) {
      const int64_t top = y * s.stride - s.padding;
      const Range rows = inside(top, s.size, s.height);
      for (int64_t x = 0; x < s.out_width; ++x) {
        const int64_t left = x * s.stride - s.padding;
        const Range columns = inside(left, s.size, s.width);
        const int64_t output = ((n * s.out_height + y) * s.out_width + x) * s.channels;
        const float* const image = images + n * s.height * s.width * s.channels;
        over_channels(s.channels, [&](auto at_once, int64_t c) {
          bring_nearer(s, image, top, left, c, at_once.kCount * at_once.kWidth);
          compute(at_once, output + c, [&](auto visit) {
            for (int64_t i = rows.begin; i < rows.end; ++i) {
              const float* row = images + (n * s.height + top + i) * s.width * s.channels + c;
              for (int64_t j = columns.begin; j < columns.end; ++j) {
                visit(static_cast<int32_t>(i * s.size + j), row + (left + j) * s.channels);
              }
            }
          });
        });
      }
    }
  }
}

template <bool kWithPlaces>
void largest_of(const Shape& s, const float* images, float* outputs, uint8_t* places) {
  over_windows(s, images, [&](auto at_once, int64_t output, auto over_places) {
    using At = decltype(at_once);
    typename At::Values best[At::kCount];
    typename At::Places found[At::kCount];
    for (int v = 0; v < At::kCount; ++v) {
      best[v] = typename At::Values{} - std::numeric_limits<float>::infinity();
      found[v] = typename At::Places{};  // right where all inside are -inf too: that is the first, inside or not
    }
    over_places([&](int32_t place, const float* from) {
#pragma GCC unroll 4
      for (int v = 0; v < At::kCount; ++v) {
        const typename At::Values other = At::values(from + v * At::kWidth);
        const auto larger = (other > best[v]) | (other != other);
        best[v] = larger ? other : best[v];
        if (kWithPlaces) found[v] = larger ? typename At::Places{} + place : found[v];
      }
    });
    for (int v = 0; v < At::kCount; ++v) {
      At::put_down(outputs + output + v * At::kWidth, best[v]);
      if (kWithPlaces) At::put_down(places + output + v * At::kWidth, found[v]);
    }
  });
}

void largest(const Shape& s, const float* images, float* outputs, uint8_t* places) {
  (places ? largest_of<true> : largest_of<false>)(s, images, outputs, places);
}

void take(const Shape& s, const float* images, const uint8_t* places, float* outputs) {
  over_windows(s, images, [&](auto at_once, int64_t output, auto over_places) {
    using At = decltype(at_once);
    for (int v = 0; v < At::kCount; ++v) {
      const int64_t to = output + v * At::kWidth;
      const typename At::Places wanted = At::places(places + to);
      typename At::Values found{};
      over_places([&](int32_t place, const float* from) {
        found = wanted == place ? At::values(from + v * At::kWidth) : found;
      });
      At::put_down(outputs + to, found);
    }
  });
}

void put(const Shape& s, const float* outputs, const uint8_t* places, float* images) {
#pragma omp parallel for collapse(2) schedule(static)
  for (int64_t n = 0; n < s.batch; ++n) {
    for (int64_t y = 0; y < s.height; ++y) {
      const Range rows = holding(s, y, s.out_height);
      for (int64_t x = 0; x < s.width; ++x) {
        const Range columns = holding(s, x, s.out_width);
        float* position = images + ((n * s.height + y) * s.width + x) * s.channels;
        over_channels(s.channels, [&](auto at_once, int64_t c) {
          using At = decltype(at_once);
          typename At::Values sums[At::kCount] = {};
          for (int64_t i = rows.begin; i < rows.end; ++i) {
            for (int64_t j = columns.begin; j < columns.end; ++j) {
              const int64_t down = y + s.padding - i * s.stride, right = x + s.padding - j * s.stride;
              const int32_t place = static_cast<int32_t>(down * s.size + right);
              const int64_t output = ((n * s.out_height + i) * s.out_width + j) * s.channels + c;
#pragma GCC unroll 4
              for (int v = 0; v < At::kCount; ++v) {
                const auto taken = At::places(places + output + v * At::kWidth) == place;
                sums[v] += taken ? At::values(outputs + output + v * At::kWidth) : typename At::Values{};
              }
            }
          }
          for (int v = 0; v < At::kCount; ++v) At::put_down(position + c + v * At::kWidth, sums[v]);
        });
      }
    }
  }
}

const Kernels kKernels = {largest, take, put};

}  // namespace CNNJAX_LEVEL
}  // namespace pooling
