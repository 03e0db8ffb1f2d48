// Max pooling as handlers of XLA's FFI for the CPU; pooling.py is the other side.
#include "pooling.h"
#include "worker.h"

namespace ffi = xla::ffi;
using Floats = ffi::Buffer<ffi::F32, 4>;
using Places = ffi::Buffer<ffi::U8, 4>;

namespace {

pooling::Shape shape_of(const Floats& images, const Floats& outputs, int64_t size, int64_t stride, int64_t padding) {
  const auto x = images.dimensions(), y = outputs.dimensions();
  return {x[0], x[1], x[2], x[3], y[1], y[2], size, stride, padding};
}

// The places are written where XLA has room for them.
ffi::Error largest(Floats images, ffi::Result<Floats> outputs, ffi::RemainingRets rest, int64_t size, int64_t stride,
                   int64_t padding) {
  return on_worker([&] {
    uint8_t* places = rest.size() ? rest.get<Places>(0).value()->typed_data() : nullptr;
    const auto shape = shape_of(images, *outputs, size, stride, padding);
    pooling::kernels()->largest(shape, images.typed_data(), outputs->typed_data(), places);
  });
}

ffi::Error take(Floats images, Places places, ffi::Result<Floats> outputs, int64_t size, int64_t stride,
                int64_t padding) {
  return on_worker([&] {
    const auto shape = shape_of(images, *outputs, size, stride, padding);
    pooling::kernels()->take(shape, images.typed_data(), places.typed_data(), outputs->typed_data());
  });
}

ffi::Error put(Floats outputs, Places places, ffi::Result<Floats> images, int64_t size, int64_t stride,
               int64_t padding) {
  return on_worker([&] {
    const auto shape = shape_of(*images, outputs, size, stride, padding);
    pooling::kernels()->put(shape, outputs.typed_data(), places.typed_data(), images->typed_data());
  });
}

// What all three are told.
template <typename Binding>
auto with_window(Binding binding) {
  return std::move(binding)
      .template Attr<int64_t>("size")
      .template Attr<int64_t>("stride")
      .template Attr<int64_t>("padding");
}

auto with_places() { return with_window(ffi::Ffi::Bind().Arg<Floats>().Arg<Places>().Ret<Floats>()); }

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(CnnjaxMaxPool, largest,
                              with_window(ffi::Ffi::Bind().Arg<Floats>().Ret<Floats>().RemainingRets()));

XLA_FFI_DEFINE_HANDLER_SYMBOL(CnnjaxMaxPoolTake, take, with_places());

XLA_FFI_DEFINE_HANDLER_SYMBOL(CnnjaxMaxPoolPut, put, with_places());
