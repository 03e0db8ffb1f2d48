// XLA FFI handlers for convolution and its gradients on a CPU, and the queries of library.py. Called from convolution.py,
// epilogue.py and library.py.
#include <omp.h>

#include <algorithm>
#include <stdexcept>
#include <string>
#include <string_view>

#include "convolution.h"
#include "cpu_dispatch.h"
#include "worker.h"

namespace ffi = xla::ffi;
using Numbers = ffi::Span<const int64_t>;

namespace {

Kind kind_of(std::string_view name) {
  if (name == "forward") return kForward;
  if (name == "input_gradient") return kInputGradient;
  if (name == "kernel_gradient") return kKernelGradient;
  throw std::invalid_argument("unknown kind of convolution " + std::string(name));
}

Dims dims_of(Numbers shape) { return Dims(shape.begin(), shape.end()); }

dnnl::memory::data_type type_of(ffi::DataType type) {
  if (type == ffi::DataType::F32) return dnnl::memory::data_type::f32;
  if (type == ffi::DataType::BF16) return dnnl::memory::data_type::bf16;
  throw std::invalid_argument("only float32 and bfloat16 are supported");
}

Dims holes_of(Numbers dilation) {  // oneDNN counts the gaps, not the step
  Dims holes = dims_of(dilation);
  for (auto& hole : holes) hole -= 1;
  return holes;
}

// Runs a task on the worker; turns oneDNN's out-of-memory error into std::bad_alloc.
ffi::Error computed(const std::function<void()>& task) {
  return on_worker([&] {
    try {
      task();
    } catch (const dnnl::error& error) {
      if (error.status == dnnl_out_of_memory) throw std::bad_alloc();
      throw;
    }
  });
}

// Operands are two of (images, kernel, outputs), in that order; the result is the third.
ffi::Error convolve(ffi::AnyBuffer a, ffi::AnyBuffer b, ffi::Result<ffi::AnyBuffer> result,
                    std::string_view name, Numbers strides, Numbers dilation, Numbers before, Numbers after, int64_t groups) {
  return computed([&] {
    const Kind kind = kind_of(name);
    const ffi::AnyBuffer& found = *result;
    const ffi::AnyBuffer& images = kind == kInputGradient ? found : a;
    const ffi::AnyBuffer& kernel = kind == kForward ? b : kind == kInputGradient ? a : found;
    const ffi::AnyBuffer& outputs = kind == kForward ? found : b;
    const Geometry g = {kind, type_of(images.element_type()), dims_of(images.dimensions()),
                        dims_of(kernel.dimensions()), dims_of(outputs.dimensions()), dims_of(strides),
                        holes_of(dilation), dims_of(before), dims_of(after), groups, {}};
    compute(g, images.untyped_data(), kernel.untyped_data(), outputs.untyped_data());
  });
}

// Forward convolution with an epilogue; the scale, the offset and the residual follow if present.
ffi::Error convolve_with_epilogue(ffi::AnyBuffer images, ffi::AnyBuffer kernel, ffi::RemainingArgs others,
                                  ffi::Result<ffi::AnyBuffer> outputs, Numbers strides, Numbers dilation, Numbers before,
                                  Numbers after, int64_t groups, bool scaled, bool shifted, bool added,
                                  std::string_view nonlinearity) {
  return computed([&] {
    const Epilogue epilogue = {scaled, shifted, added, nonlinearity_of(nonlinearity)};
    const Geometry g = {kForward, type_of(images.element_type()), dims_of(images.dimensions()),
                        dims_of(kernel.dimensions()), dims_of(outputs->dimensions()), dims_of(strides),
                        holes_of(dilation), dims_of(before), dims_of(after), groups, epilogue};
    std::vector<void*> pointers;
    for (size_t i = 0; i < others.size(); ++i) pointers.push_back(others.get<ffi::AnyBuffer>(i)->untyped_data());
    compute(g, images.untyped_data(), kernel.untyped_data(), outputs->untyped_data(), pointers);
  });
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(CnnjaxConvolution, convolve,
                              ffi::Ffi::Bind()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Attr<std::string_view>("kind")
                                  .Attr<Numbers>("strides")
                                  .Attr<Numbers>("dilation")
                                  .Attr<Numbers>("before")
                                  .Attr<Numbers>("after")
                                  .Attr<int64_t>("groups"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(CnnjaxConvolutionWithEpilogue, convolve_with_epilogue,
                              ffi::Ffi::Bind()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .RemainingArgs()
                                  .Ret<ffi::AnyBuffer>()
                                  .Attr<Numbers>("strides")
                                  .Attr<Numbers>("dilation")
                                  .Attr<Numbers>("before")
                                  .Attr<Numbers>("after")
                                  .Attr<int64_t>("groups")
                                  .Attr<bool>("scaled")
                                  .Attr<bool>("shifted")
                                  .Attr<bool>("added")
                                  .Attr<std::string_view>("nonlinearity"));

// Sets the number of threads and returns the number that could be set.
extern "C" int cnnjax_set_threads(int count) {
  worker().run([&count] {
    omp_set_dynamic(0);  // a smaller team would sum in another order
    count = std::min(count, omp_get_thread_limit());
    omp_set_num_threads(count);
  });
  return count;
}

// Version of the loaded oneDNN, which may differ from the version of the headers.
extern "C" int cnnjax_onednn_version() { return dnnl_version()->major * 100 + dnnl_version()->minor; }

// Whether this processor can run our own kernels.
extern "C" bool cnnjax_has_kernels() { return cpu_dispatch::has_kernels(); }

extern "C" bool cnnjax_has_avx512() { return cpu_dispatch::has_avx512(); }  // vectors of 16 floats

// See `calls_of` in convolution.h.
extern "C" int64_t cnnjax_calls(const char* algorithm) {
  int64_t calls = 0;
  worker().run([&] { calls = calls_of(algorithm); });
  return calls;
}

// See `bound_of` in convolution.h.
extern "C" int64_t cnnjax_bound(const char* name) { return bound_of(name); }

// Whether this processor multiplies bfloat16 fast: AVX-512 with bfloat16 instructions.
extern "C" int cnnjax_has_bfloat16() {
  return dnnl::get_effective_cpu_isa() >= dnnl::cpu_isa::avx512_core_bf16;
}
