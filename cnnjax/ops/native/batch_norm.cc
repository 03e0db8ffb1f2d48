// Each pass reads every array once. Rows are summed in float within a block and in double across blocks. Compiled once
// for each level of vector registers; the compiler vectorizes the loops over channels.
#include "batch_norm.h"

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <vector>

namespace batch_norm {
namespace CNNJAX_LEVEL {

constexpr int64_t kWide = 128;          // minimum elements of a row, where rows can be merged
constexpr int64_t kBlock = 8192;        // approximate elements of a block of rows
constexpr int64_t kSmall = 1 << 15;     // maximum elements for one thread

// Few channels would make short loops, so several rows are merged into one and per-channel values are repeated.
struct Rows {
  int64_t merged = 1, width, count, in_block, blocks;
  explicit Rows(const Shape& s) {
    while (merged * s.channels < kWide && s.rows % (2 * merged) == 0) merged *= 2;
    width = merged * s.channels, count = s.rows / merged;
    in_block = std::max<int64_t>(1, kBlock / width), blocks = (count + in_block - 1) / in_block;
  }
  int64_t first(int64_t block) const { return block * in_block; }
  int64_t end(int64_t block) const { return std::min(count, (block + 1) * in_block); }
};

int team(const Shape& s, int threads) { return s.rows * s.channels < kSmall ? 1 : threads; }

std::vector<float> repeated(const float* by_channel, const Shape& s, const Rows& rows) {
  std::vector<float> all(rows.width, 0.0f);
  if (by_channel) {
    for (int64_t i = 0; i < rows.width; ++i) all[i] = by_channel[i % s.channels];
  }
  return all;
}

void moments(const Shape& s, const float* x, float* mean, float* variance, int threads) {
  const Rows rows(s);
  const int64_t width = rows.width;
  threads = team(s, threads);
  // Per thread: number of rows, their mean, and the sum of squared distances from it (Chan, Golub and LeVeque 1983).
  std::vector<double> counts(threads), means(threads * width), squares(threads * width);
  std::vector<float> of_block(3 * threads * width);
#pragma omp parallel num_threads(threads)
  {
    const int thread = omp_get_thread_num();
    double *m = &means[thread * width], *q = &squares[thread * width], seen = 0;
    float *block_mean = &of_block[3 * thread * width], *rest = block_mean + width, *block_square = rest + width;
#pragma omp for schedule(static)
    for (int64_t block = 0; block < rows.blocks; ++block) {
      const int64_t first = rows.first(block), end = rows.end(block);
      std::fill(block_mean, block_mean + 3 * width, 0.0f);
      for (int64_t r = first; r < end; ++r) {
        const float* row = x + r * width;
#pragma omp simd
        for (int64_t c = 0; c < width; ++c) block_mean[c] += row[c];
      }
      const float share = 1.0f / static_cast<float>(end - first);
#pragma omp simd
      for (int64_t c = 0; c < width; ++c) block_mean[c] *= share;
      for (int64_t r = first; r < end; ++r) {
        const float* row = x + r * width;
#pragma omp simd
        for (int64_t c = 0; c < width; ++c) {
          const float distance = row[c] - block_mean[c];
          rest[c] += distance;  // error of the mean, times the number of rows
          block_square[c] += distance * distance;
        }
      }
      const double rows_here = static_cast<double>(end - first), all = seen + rows_here, part = rows_here / all;
#pragma omp simd
      for (int64_t c = 0; c < width; ++c) {
        const double mean_error = rest[c] * static_cast<double>(share), delta = block_mean[c] + mean_error - m[c];
        m[c] += delta * part;
        q[c] += block_square[c] - rest[c] * mean_error + delta * delta * (seen * part);
      }
      seen = all;
    }
    counts[thread] = seen;
  }
  for (int64_t c = 0; c < s.channels; ++c) {
    double seen = 0, m = 0, q = 0;
    for (int thread = 0; thread < threads; ++thread) {
      for (int64_t at = c; at < width && counts[thread] > 0; at += s.channels) {
        const double all = seen + counts[thread], part = counts[thread] / all;
        const double delta = means[thread * width + at] - m;
        m += delta * part;
        q += squares[thread * width + at] + delta * delta * (seen * part);
        seen = all;
      }
    }
    mean[c] = static_cast<float>(m), variance[c] = static_cast<float>(q / seen);
  }
}

void forward(const Shape& s, const Inputs& in, float* y, int threads) {
  const Rows rows(s);
  const int64_t width = rows.width;
  const std::vector<float> scales = repeated(in.scale, s, rows), offsets = repeated(in.offset, s, rows);
  const float *scale = scales.data(), *offset = offsets.data();
  const float lowest = in.relu ? 0.0f : -INFINITY;
#pragma omp parallel for num_threads(team(s, threads)) schedule(static)
  for (int64_t r = 0; r < rows.count; ++r) {
    const float *row = in.x + r * width, *residual = in.added ? in.added + r * width : nullptr;
    float* to = y + r * width;
    if (residual) {
#pragma omp simd
      for (int64_t c = 0; c < width; ++c) {
        const float value = std::fma(scale[c], row[c], offset[c]) + residual[c];
        to[c] = value < lowest ? lowest : value;  // NaN propagates
      }
    } else {
#pragma omp simd
      for (int64_t c = 0; c < width; ++c) {
        const float value = std::fma(scale[c], row[c], offset[c]);
        to[c] = value < lowest ? lowest : value;
      }
    }
  }
}

// Mask of a cotangent: none, from the recomputed output, or from the given output.
enum Mask { kNone, kRecomputed, kGiven };

template <Mask kMask>
inline float masked(float cotangent, float x, float scale, float offset, float output) {
  if (kMask == kNone) return cotangent;
  return (kMask == kRecomputed ? std::fma(scale, x, offset) : output) > 0.0f ? cotangent : 0.0f;
}

template <Mask kMask>
void sums_of(const Shape& s, const Inputs& in, const float* cotangent, float* sum, float* product, float* z, int threads) {
  const Rows rows(s);
  const int64_t width = rows.width;
  threads = team(s, threads);
  const std::vector<float> means = repeated(in.mean, s, rows), scales = repeated(in.scale, s, rows),
                           offsets = repeated(in.offset, s, rows);
  const float *mean = means.data(), *scale = scales.data(), *offset = offsets.data();
  std::vector<double> all_sums(threads * width), all_products(threads * width);
  std::vector<float> of_block(2 * threads * width);
#pragma omp parallel num_threads(threads)
  {
    double *total = &all_sums[omp_get_thread_num() * width], *total_product = &all_products[omp_get_thread_num() * width];
    float *block_sum = &of_block[2 * omp_get_thread_num() * width], *block_product = block_sum + width;
#pragma omp for schedule(static)
    for (int64_t block = 0; block < rows.blocks; ++block) {
      std::fill(block_sum, block_sum + 2 * width, 0.0f);
      for (int64_t r = rows.first(block); r < rows.end(block); ++r) {
        const float *row = in.x + r * width, *from = cotangent + r * width;
        const float* output = kMask == kGiven ? in.output + r * width : row;
        float* to = z ? z + r * width : nullptr;
        if (to) {
#pragma omp simd
          for (int64_t c = 0; c < width; ++c) {
            const float passed = masked<kMask>(from[c], row[c], scale[c], offset[c], output[c]);
            to[c] = passed;
            block_sum[c] += passed;
            block_product[c] += passed * (row[c] - mean[c]);
          }
        } else {
#pragma omp simd
          for (int64_t c = 0; c < width; ++c) {
            const float passed = masked<kMask>(from[c], row[c], scale[c], offset[c], output[c]);
            block_sum[c] += passed;
            block_product[c] += passed * (row[c] - mean[c]);
          }
        }
      }
#pragma omp simd
      for (int64_t c = 0; c < width; ++c) total[c] += block_sum[c], total_product[c] += block_product[c];
    }
  }
  for (int64_t c = 0; c < s.channels; ++c) {
    double whole = 0, whole_product = 0;
    for (int64_t at = c; at < threads * width; at += s.channels) whole += all_sums[at], whole_product += all_products[at];
    sum[c] = static_cast<float>(whole), product[c] = static_cast<float>(whole_product);
  }
}

template <Mask kMask>
void gradient_of(const Shape& s, const Inputs& in, const float* cotangent, const float* a, const float* b, const float* c,
                 float* dx, int threads) {
  const Rows rows(s);
  const int64_t width = rows.width;
  const std::vector<float> means = repeated(in.mean, s, rows), scales = repeated(in.scale, s, rows),
                           offsets = repeated(in.offset, s, rows), as = repeated(a, s, rows), bs = repeated(b, s, rows),
                           cs = repeated(c, s, rows);
  const float *mean = means.data(), *scale = scales.data(), *offset = offsets.data();
  const float *of_z = as.data(), *of_x = bs.data(), *rest = cs.data();
#pragma omp parallel for num_threads(team(s, threads)) schedule(static)
  for (int64_t r = 0; r < rows.count; ++r) {
    const float *row = in.x + r * width, *from = cotangent + r * width;
    const float* output = kMask == kGiven ? in.output + r * width : row;
    float* to = dx + r * width;
#pragma omp simd
    for (int64_t i = 0; i < width; ++i) {
      const float passed = masked<kMask>(from[i], row[i], scale[i], offset[i], output[i]);
      to[i] = of_z[i] * passed + of_x[i] * (row[i] - mean[i]) + rest[i];
    }
  }
}

Mask mask_of(const Inputs& in) { return !in.relu ? kNone : in.output ? kGiven : kRecomputed; }

void sums(const Shape& s, const Inputs& in, const float* cotangent, float* sum, float* product, float* z, int threads) {
  constexpr decltype(&sums) kBy[] = {sums_of<kNone>, sums_of<kRecomputed>, sums_of<kGiven>};
  kBy[mask_of(in)](s, in, cotangent, sum, product, z, threads);
}

void gradient(const Shape& s, const Inputs& in, const float* cotangent, bool is_masked, const float* a, const float* b,
              const float* c, float* dx, int threads) {
  constexpr decltype(&gradient_of<kNone>) kBy[] = {gradient_of<kNone>, gradient_of<kRecomputed>, gradient_of<kGiven>};
  kBy[is_masked ? kNone : mask_of(in)](s, in, cotangent, a, b, c, dx, threads);
}

const Kernels kKernels = {moments, forward, sums, gradient};

}  // namespace CNNJAX_LEVEL
}  // namespace batch_norm
