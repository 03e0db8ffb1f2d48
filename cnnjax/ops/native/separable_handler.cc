// A depthwise and a 1x1 convolution at once, as a handler of XLA's FFI for the CPU; separable.py is the other side.
#include <omp.h>

#include <vector>

#include "scratch.h"
#include "conv1x1.h"
#include "worker.h"

namespace ffi = xla::ffi;
using Floats = ffi::Buffer<ffi::F32, 4>;
using Numbers = ffi::Span<const int64_t>;

namespace {

// The depthwise kernel's dilation is 1; scale, offset and the added array follow where there are such.
ffi::Error separable(Floats images, Floats depthwise, Floats pointwise, ffi::RemainingArgs others,
                     ffi::Result<Floats> outputs, Numbers strides, Numbers before, bool rectified, bool scaled,
                     bool shifted, bool added, std::string_view nonlinearity) {
  return on_worker([&] {
    const auto x = images.dimensions(), k = depthwise.dimensions(), y = outputs->dimensions();
    const Shape shape = {x[0], x[1],      x[2],      x[3], y[1],       y[2],      y[3],
                         k[0], k[1], before[0], before[1], x[3], strides[0], strides[1]};
    std::vector<void*> pointers;
    for (size_t i = 0; i < others.size(); ++i) pointers.push_back(others.get<ffi::AnyBuffer>(i)->untyped_data());
    const auto which = nonlinearity_of(nonlinearity);
    const Finish finish = make_finish(scaled, shifted, added, which, pointers.data());
    const int threads = omp_get_max_threads();
    const auto& separable = *conv1x1::separable();
    const auto room = static_cast<float*>(scratch(kOwn, sizeof(float) * separable.scratch(shape, threads)));
    separable.forward(shape, images.typed_data(), rectified, depthwise.typed_data(), pointwise.typed_data(),
                 outputs->typed_data(), finish, room, threads);
  });
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(CnnjaxSeparable, separable,
                              ffi::Ffi::Bind()
                                  .Arg<Floats>()
                                  .Arg<Floats>()
                                  .Arg<Floats>()
                                  .RemainingArgs()
                                  .Ret<Floats>()
                                  .Attr<Numbers>("strides")
                                  .Attr<Numbers>("before")
                                  .Attr<bool>("rectified")
                                  .Attr<bool>("scaled")
                                  .Attr<bool>("shifted")
                                  .Attr<bool>("added")
                                  .Attr<std::string_view>("nonlinearity"));
