// A depthwise convolution of some positions, as rows of a matrix: one output for each channel, dilation 1.
#pragma once

#include <algorithm>

#include "nonlinearities.h"
#include "simd.h"
#include "algorithms.h"

namespace CNNJAX_LEVEL {

// A position of the outputs, from left to right, from row to row, from image to image.
struct Place {
  int64_t x, y, image;

  Place(const Shape& s, int64_t position)
      : x(position % s.out_width),
        y(position / s.out_width % s.out_height),
        image(position / s.out_width / s.out_height) {}
  // `count` further; no more than are left of the row.
  void advance(const Shape& s, int64_t count) {
    x += count;
    if (x < s.out_width) return;
    x = 0;
    if (++y == s.out_height) y = 0, ++image;
  }
};

class Depthwise {
 public:
  // How many pixels a run of positions may meet.
  static int64_t pixels(const Shape& s) { return s.kernel_height * (s.kernel_width + kRun); }

  // `rectified`: of the images, ReLU is taken first. `zeros`: [C], for what lies outside of them; `met` has room for
  // `pixels`.
  Depthwise(const Shape& s, const float* images, bool rectified, const float* kernel, const float* zeros,
            const float** met)
      : s_(s), images_(images), rectified_(rectified), kernel_(kernel), zeros_(zeros), met_(met) {}

  // Writes [count][C], the results at positions from `first` on.
  void rows(int64_t first, int64_t count, float* results) const {
    using OfRun = void (*)(const Depthwise&, float*);
    static constexpr OfRun kOfThree[2][kRun] = {
        {of_three<1, false>, of_three<2, false>, of_three<3, false>, of_three<4, false>},
        {of_three<1, true>, of_three<2, true>, of_three<3, true>, of_three<4, true>},
    };
    static constexpr OfRun kAny[2] = {any<false>, any<true>};
    const bool fits = s_.kernel_height == 3 && s_.kernel_width == 3 && s_.right == 1 && s_.channels >= kLanes;
    Place at(s_, first);
    for (int64_t done = 0; done < count;) {
      const int64_t run = fits ? std::min({kRun, count - done, s_.out_width - at.x}) : 1;
      find(at, run);
      (fits ? kOfThree[rectified_][run - 1] : kAny[rectified_])(*this, results + done * s_.channels);
      at.advance(s_, run);
      done += run;
    }
  }

 private:
  static constexpr int64_t kRun = 4;  // positions side by side, for which pixels and weights are loaded once

  // For each row of the kernel, the pixels that `run` positions from `at` on meet, from left to right.
  void find(const Place& at, int64_t run) const {
    const float** to = met_;
    for (int64_t i = 0; i < s_.kernel_height; ++i) {
      const int64_t row = at.y * s_.down - s_.top + i;
      for (int64_t j = 0; j < s_.kernel_width + run - 1; ++j) {
        const int64_t column = at.x * s_.right - s_.left + j;
        const bool inside = row >= 0 && row < s_.height && column >= 0 && column < s_.width;
        *to++ = inside ? images_ + ((at.image * s_.height + row) * s_.width + column) * s_.channels : zeros_;
      }
    }
  }

  // A kernel of 3x3 at R positions.
  template <int R, bool kRectified>
  static void of_three(const Depthwise& d, float* results) {
    const int64_t channels = d.s_.channels;
    for (int64_t c = 0; c < channels; c += kLanes) {
      c = std::min(c, channels - kLanes);  // the last vector may overlap the one before it
      Vector sums[R] = {};
#pragma GCC unroll 3
      for (int i = 0; i < 3; ++i) {
        Vector pixels[R + 2];
#pragma GCC unroll 6
        for (int j = 0; j < R + 2; ++j) {
          pixels[j] = load(d.met_[i * (R + 2) + j] + c);
          if (kRectified) pixels[j] = relu(pixels[j]);
        }
#pragma GCC unroll 3
        for (int j = 0; j < 3; ++j) {
          const Vector weights = load(d.kernel_ + (i * 3 + j) * channels + c);
#pragma GCC unroll 4
          for (int r = 0; r < R; ++r) sums[r] += pixels[r + j] * weights;
        }
      }
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) store(results + r * channels + c, sums[r]);
    }
  }

  // Any kernel, at one position.
  template <bool kRectified>
  static void any(const Depthwise& d, float* results) {
    const int64_t channels = d.s_.channels, taps = d.s_.kernel_height * d.s_.kernel_width;
    for (int64_t c = 0; c < channels; c += kLanes) {
      const int64_t count = std::min<int64_t>(kLanes, channels - c);
      Vector sum{};
      for (int64_t tap = 0; tap < taps; ++tap) {
        const Vector pixel = some(d.met_[tap] + c, count);
        sum += (kRectified ? relu(pixel) : pixel) * some(d.kernel_ + tap * channels + c, count);
      }
      float found[kLanes];
      store(found, sum);
      std::copy_n(found, count, results + c);
    }
  }

  // The first `count` of a vector, and zeros.
  static Vector some(const float* from, int64_t count) {
    if (count == kLanes) return load(from);
    float found[kLanes] = {};
    std::copy_n(from, count, found);
    return load(found);
  }

  const Shape& s_;
  const float* images_;
  bool rectified_;
  const float *kernel_, *zeros_;
  const float** met_;
};

}  // namespace CNNJAX_LEVEL
