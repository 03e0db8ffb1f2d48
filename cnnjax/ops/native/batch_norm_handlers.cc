// XLA FFI handlers for training-mode batch normalization and its gradient on a CPU, called from batch_norm.py.
#include <omp.h>

#include <cmath>
#include <vector>

#include "batch_norm.h"
#include "worker.h"

namespace ffi = xla::ffi;
using Array = ffi::Buffer<ffi::F32>;
using Result = ffi::Result<Array>;

namespace {

batch_norm::Shape shape_of(const Array& x) {
  const int64_t channels = x.dimensions().back();
  return {static_cast<int64_t>(x.element_count()) / channels, channels};
}

// y = scale * x + offset
struct Affine {
  std::vector<float> deviation, scale, offset;  // deviation: 1 / sqrt(variance + epsilon)

  Affine(int64_t channels, const float* mean, const float* variance, const float* gamma, const float* beta, float epsilon)
      : deviation(channels), scale(channels), offset(channels) {
    for (int64_t c = 0; c < channels; ++c) {
      deviation[c] = 1.0f / std::sqrt(variance[c] + epsilon);
      scale[c] = gamma[c] * deviation[c];
      offset[c] = beta[c] - mean[c] * scale[c];
    }
  }
};

ffi::Error normalize(Array x, Array gamma, Array beta, ffi::RemainingArgs added, Result y, Result mean, Result variance,
                     float epsilon, bool relu) {
  return on_worker([&] {
    const auto& kernels = *batch_norm::kernels();
    const batch_norm::Shape shape = shape_of(x);
    const int threads = omp_get_max_threads();
    float *of_mean = mean->typed_data(), *of_variance = variance->typed_data();
    kernels.moments(shape, x.typed_data(), of_mean, of_variance, threads);
    const Affine affine(shape.channels, of_mean, of_variance, gamma.typed_data(), beta.typed_data(), epsilon);
    const float* residual = added.size() ? added.get<Array>(0)->typed_data() : nullptr;
    kernels.forward(shape, {x.typed_data(), of_mean, affine.scale.data(), affine.offset.data(), residual, nullptr, relu},
                 y->typed_data(), threads);
  });
}

// With a residual before ReLU, the output is the last argument, and the cotangent masked by ReLU is the last result.
ffi::Error gradient(Array cotangent, Array x, Array mean, Array variance, Array gamma, Array beta,
                    ffi::RemainingArgs output, Result dx, Result dgamma, Result dbeta, ffi::RemainingRets added,
                    float epsilon, bool relu) {
  return on_worker([&] {
    const auto& kernels = *batch_norm::kernels();
    const batch_norm::Shape shape = shape_of(x);
    const int64_t channels = shape.channels;
    const int threads = omp_get_max_threads();
    const Affine affine(channels, mean.typed_data(), variance.typed_data(), gamma.typed_data(), beta.typed_data(), epsilon);
    const float* y = output.size() ? output.get<Array>(0)->typed_data() : nullptr;
    float* z = added.size() ? added.get<Array>(0).value()->typed_data() : nullptr;
    const batch_norm::Inputs in = {x.typed_data(), mean.typed_data(), affine.scale.data(), affine.offset.data(), nullptr,
                                   y, relu};
    float *sum = dbeta->typed_data(), *product = dgamma->typed_data();
    kernels.sums(shape, in, cotangent.typed_data(), sum, product, z, threads);
    std::vector<float> of_x(channels), rest(channels);
    for (int64_t c = 0; c < channels; ++c) {
      const float scale = affine.scale[c] / static_cast<float>(shape.rows), deviation = affine.deviation[c];
      product[c] *= deviation;
      of_x[c] = -scale * deviation * product[c], rest[c] = -scale * sum[c];
    }
    kernels.gradient(shape, in, z ? z : cotangent.typed_data(), z != nullptr, affine.scale.data(), of_x.data(), rest.data(),
                  dx->typed_data(), threads);
  });
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(CnnjaxBatchNorm, normalize,
                              ffi::Ffi::Bind()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .RemainingArgs()
                                  .Ret<Array>()
                                  .Ret<Array>()
                                  .Ret<Array>()
                                  .Attr<float>("epsilon")
                                  .Attr<bool>("relu"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(CnnjaxBatchNormGradient, gradient,
                              ffi::Ffi::Bind()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .RemainingArgs()
                                  .Ret<Array>()
                                  .Ret<Array>()
                                  .Ret<Array>()
                                  .RemainingRets()
                                  .Attr<float>("epsilon")
                                  .Attr<bool>("relu"));
