// 2-D convolution and its two gradients, as handlers of XLA's FFI for the CPU; convolution.py is the other side. Kernels of
// 3x3 with stride 1 go by winograd.cc where they have enough to do, to few channels by narrow.cc, large kernels at few
// positions by few.cc, 1x1 ones by strips.cc, all others by oneDNN.
//
// Images [N, H, W, C] and kernels [H, W, C / groups, C'] stay as XLA has them; oneDNN is told their strides.
#include <omp.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <list>
#include <map>
#include <unordered_map>
#include <vector>

#include "few.h"
#include "narrow.h"
#include "oneapi/dnnl/dnnl.hpp"
#include "pointwise.h"
#include "scratch.h"
#include "strips.h"
#include "winograd.h"
#include "worker.h"

namespace ffi = xla::ffi;
using dnnl::memory;
using Dims = memory::dims;
using Numbers = ffi::Span<const int64_t>;

namespace {

// What follows is touched by the worker's thread alone.

dnnl::engine& cpu() {
  static auto* engine = [] {
    dnnl::set_primitive_cache_capacity(0);  // the plans below are kept instead
    return new dnnl::engine(dnnl::engine::kind::cpu, 0);
  }();
  return *engine;
}

dnnl::stream& stream() {
  static auto* the_stream = new dnnl::stream(cpu());
  return *the_stream;
}

enum Kind : int64_t { kForward, kInputGradient, kKernelGradient };

// What is done to each output before it is stored, in this order: times a scale and plus an offset (by channel), plus
// an array of its shape, then a nonlinearity.
struct Epilogue {
  bool scaled = false, shifted = false, added = false;
  Nonlinearity nonlinearity = kIdentity;
};

// A convolution made ready for one shape; holds no arrays.
struct Plan {
  dnnl::primitive convolution, reorder;
  memory::desc images, kernel, packed, outputs, scratchpad;
  bool packs;  // oneDNN wants the kernel in a layout of its own
  dnnl::primitive addition;  // of the array, and what follows, where that is a step of its own
};

struct Geometry {
  Kind kind;
  memory::data_type type;
  Dims images, kernel, outputs, strides, dilation, before, after;
  int64_t groups;
  Epilogue epilogue;

  // Whether ways of our own could compute it.
  bool is_plain() const { return is_dense() && strides == Dims{1, 1}; }
  bool is_dense() const { return type == memory::data_type::f32 && dilation == Dims{0, 0}; }

  // Whether its nonlinearity is a step of our own: oneDNN's sigmoid and tanh are slow.
  bool is_finished_apart() const {
    return type == memory::data_type::f32 && epilogue.nonlinearity > kRelu && pointwise::apply();
  }

  std::vector<int64_t> key() const {
    std::vector<int64_t> all = {kind, static_cast<int64_t>(type), groups, epilogue.scaled, epilogue.shifted,
                                epilogue.added, epilogue.nonlinearity};
    for (const Dims* dims : {&images, &kernel, &outputs, &strides, &dilation, &before, &after}) {
      all.insert(all.end(), dims->begin(), dims->end());
    }
    return all;
  }
};

memory::desc nhwc(const Dims& d, memory::data_type type) {
  return {{d[0], d[3], d[1], d[2]}, type, memory::format_tag::nhwc};
}

// HWIO, in groups: output g * (O / groups) + o belongs to group g.
memory::desc hwio(const Dims& d, int64_t groups, memory::data_type type) {
  const int64_t h = d[0], w = d[1], in = d[2], out = d[3];
  if (groups == 1) return {{out, in, h, w}, type, Dims{1, out, w * in * out, in * out}};
  return {{groups, out / groups, in, h, w}, type, Dims{out / groups, 1, out, w * in * out, in * out}};
}

memory::desc any_layout(const memory::desc& like) {
#if DNNL_VERSION_MAJOR >= 3
  return {like.get_dims(), like.get_data_type(), memory::format_tag::any};
#else
  return {like.dims(), like.data_type(), memory::format_tag::any};
#endif
}

memory::desc by_channel(const Dims& outputs) {
  return {{1, outputs[3], 1, 1}, memory::data_type::f32, memory::format_tag::nhwc};
}

void append_nonlinearity(dnnl::post_ops& ops, Nonlinearity which) {
  using dnnl::algorithm;
  const algorithm found = which == kRelu ? algorithm::eltwise_relu : which == kSigmoid ? algorithm::eltwise_logistic
                                                                                       : algorithm::eltwise_tanh;
#if DNNL_VERSION_MAJOR >= 3
  ops.append_eltwise(found, 0.0f, 0.0f);
#else
  ops.append_eltwise(1.0f, found, 0.0f, 0.0f);
#endif
}

dnnl::post_ops post_ops(const Geometry& g, const memory::desc& outputs) {
  dnnl::post_ops ops;
  if (g.epilogue.scaled) ops.append_binary(dnnl::algorithm::binary_mul, by_channel(g.outputs));
  if (g.epilogue.shifted) ops.append_binary(dnnl::algorithm::binary_add, by_channel(g.outputs));
  if (g.epilogue.added) ops.append_binary(dnnl::algorithm::binary_add, outputs);
  if (g.epilogue.nonlinearity != kIdentity) append_nonlinearity(ops, g.epilogue.nonlinearity);
  return ops;
}

// oneDNN 2 describes an operation first; oneDNN 3 does it in one call.
template <typename Primitive, typename... Hint>
typename Primitive::primitive_desc describe(const Geometry& g, const Plan& p, const memory::desc& kernel, dnnl::prop_kind prop,
                                            const Hint&... hint) {
  constexpr auto direct = dnnl::algorithm::convolution_direct;
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  attributes.set_post_ops(post_ops(g, p.outputs));
#if DNNL_VERSION_MAJOR >= 3
  if constexpr (sizeof...(Hint) == 0) {
    return {cpu(), prop, direct, p.images, kernel, p.outputs, g.strides, g.dilation, g.before, g.after, attributes};
  } else {
    return {cpu(), direct, p.images, kernel, p.outputs, g.strides, g.dilation, g.before, g.after, hint..., attributes};
  }
#else
  if constexpr (sizeof...(Hint) == 0) {
    return {{prop, direct, p.images, kernel, p.outputs, g.strides, g.dilation, g.before, g.after}, attributes, cpu()};
  } else {
    return {{direct, p.images, kernel, p.outputs, g.strides, g.dilation, g.before, g.after}, attributes, cpu(), hint...};
  }
#endif
}

// outputs = nonlinearity(outputs + array)
dnnl::primitive make_addition(const Geometry& g, const memory::desc& outputs) {
  dnnl::post_ops ops;
  if (g.epilogue.nonlinearity != kIdentity) append_nonlinearity(ops, g.epilogue.nonlinearity);
  dnnl::primitive_attr attributes;
  attributes.set_post_ops(ops);
#if DNNL_VERSION_MAJOR >= 3
  return dnnl::binary({cpu(), dnnl::algorithm::binary_add, outputs, outputs, outputs, attributes});
#else
  return dnnl::binary({{dnnl::algorithm::binary_add, outputs, outputs, outputs}, attributes, cpu()});
#endif
}

Plan make_plan(const Geometry& g) {
  Plan p;
  p.images = nhwc(g.images, g.type);
  p.outputs = nhwc(g.outputs, g.type);
  p.kernel = hwio(g.kernel, g.groups, g.type);
  const memory::desc any = any_layout(p.kernel);
  const auto forward = describe<dnnl::convolution_forward>(g, p, any, dnnl::prop_kind::forward_training);
  if (g.epilogue.added && std::strncmp(forward.impl_info_str(), "jit", 3) != 0) {
    Geometry before = g;  // oneDNN 2.6's ways by products of matrices add the wrong elements
    before.epilogue.added = false, before.epilogue.nonlinearity = kIdentity;
    Plan apart = make_plan(before);
    apart.addition = make_addition(g, p.outputs);
    return apart;
  }
  if (g.kind == kForward) {
    p.packed = forward.weights_desc();
    p.scratchpad = forward.scratchpad_desc();
    p.convolution = dnnl::convolution_forward(forward);
  } else if (g.kind == kInputGradient) {
    const auto found = describe<dnnl::convolution_backward_data>(g, p, any, dnnl::prop_kind::backward_data, forward);
    p.packed = found.weights_desc();
    p.scratchpad = found.scratchpad_desc();
    p.convolution = dnnl::convolution_backward_data(found);
  } else {
    const auto found = describe<dnnl::convolution_backward_weights>(g, p, any, dnnl::prop_kind::backward_weights, forward);
    p.packed = found.diff_weights_desc();
    p.scratchpad = found.scratchpad_desc();
    p.convolution = dnnl::convolution_backward_weights(found);
  }
  p.packs = p.packed != p.kernel;
  if (p.packs) {
    const bool unpacks = g.kind == kKernelGradient;
    p.reorder = dnnl::reorder(dnnl::reorder::primitive_desc(cpu(), unpacks ? p.packed : p.kernel, cpu(), unpacks ? p.kernel : p.packed));
  }
  return p;
}

// The plans last used; the oldest is forgotten, so that many shapes take no more memory than a few hundred.
const Plan& plan_for(const Geometry& g) {
  constexpr size_t kMostPlans = 256;
  using Entry = std::pair<std::vector<int64_t>, Plan>;
  static auto* order = new std::list<Entry>;
  static auto* places = new std::map<std::vector<int64_t>, std::list<Entry>::iterator>;
  const auto key = g.key();
  const auto found = places->find(key);
  if (found != places->end()) {
    order->splice(order->begin(), *order, found->second);
  } else {
    order->emplace_front(key, make_plan(g));
    (*places)[key] = order->begin();
    if (order->size() > kMostPlans) {
      places->erase(order->back().first);
      order->pop_back();
    }
  }
  return order->front().second;
}

// Whether winograd.cc computes it. It has to transform the kernel before the first product, and for the kernel's gradient
// each thread has a sum of its own, so that there must be many tiles of 4x4 outputs for each thread. Of more than four
// groups computed as one, too many of the products would be of zeros.
bool goes_by_winograd(const Geometry& g) {
  constexpr int64_t kFewTiles = 21, kFewTilesToSum = 50, kMostTogether = 4, kMostWeights = 1 << 20;  // 150 MB of sums
  const int64_t tiles = g.outputs[0] * ((g.outputs[1] + 3) / 4) * ((g.outputs[2] + 3) / 4);
  const int64_t together = winograd::groups_in_one(g.kernel[2], g.kernel[3] / g.groups, g.groups);
  const bool fits = g.is_plain() && g.kernel[0] == 3 && g.kernel[1] == 3 && together > 0 && together <= kMostTogether &&
                    together * g.kernel[2] * g.kernel[3] <= kMostWeights && g.epilogue.nonlinearity <= kRelu;
  const int64_t few = (g.kind == kKernelGradient ? kFewTilesToSum : kFewTiles) * omp_get_max_threads();
  return fits && tiles >= few;
}

// Whether narrow.cc computes it: up to 8 outputs (those of the call: for a gradient by the images, its channels). oneDNN
// pads them to 16 with AVX-512; with AVX2 it pads to 8, and its gradients are as fast. Rows must be long enough to fill
// registers, and a kernel worth the new layout of the images.
bool goes_by_narrow(const Geometry& g) {
  constexpr int64_t kMostOutputs = 8, kShortRow = 8, kFewProducts = 5;
  const bool back = g.kind == kInputGradient, fits = g.is_plain() && g.groups == 1 && !g.epilogue.added;
  const int64_t outputs = g.kernel[back ? 2 : 3], row = back ? g.images[2] : g.outputs[2];
  const bool worth = g.kind == kKernelGradient ? g.kernel[1] * g.kernel[2] >= kFewProducts : g.kernel[1] > 1;
  return fits && outputs <= kMostOutputs && row >= kShortRow && worth && (g.kind == kForward || levels::is_wide());
}

// Whether few.cc computes it: with a large kernel, which comes from memory, and for few positions, of which the products
// hardly take longer than that. oneDNN would write it in another layout first.
bool goes_by_few(const Geometry& g) {
  constexpr int64_t kMostPositions = 256, kFewWeights = 1 << 18;
  const int64_t positions = g.outputs[0] * g.outputs[1] * g.outputs[2];
  const int64_t weights = g.kernel[0] * g.kernel[1] * g.kernel[2] * g.kernel[3];
  return g.kind == kForward && g.is_dense() && g.groups == 1 && g.kernel[3] % few::kOutputs == 0 &&
         positions > 0 && positions <= kMostPositions && weights >= kFewWeights;
}

// Whether strips.cc computes it. The gradient by the kernel needs channels enough that it is worth to bring the outputs
// into panels.
bool goes_by_strips(const Geometry& g) {
  constexpr int64_t kManyChannels = 64;
  const bool of_one = g.kernel[0] * g.kernel[1] == 1 && g.images[1] == g.outputs[1] && g.images[2] == g.outputs[2];
  return g.is_plain() && g.groups == 1 && of_one && g.epilogue.nonlinearity <= kRelu &&
         (g.kind != kKernelGradient || g.images[3] >= kManyChannels);
}

enum Own { kWinograd, kNarrow, kFew, kStrips, kNone };

Own own_way(const Geometry& g) {
  if (!levels::any()) return kNone;
  return goes_by_winograd(g) ? kWinograd
         : goes_by_narrow(g) ? kNarrow
         : goes_by_few(g)    ? kFew
         : goes_by_strips(g) ? kStrips
                             : kNone;
}

std::array<int64_t, kNone> own_calls = {};  // so that a test can tell; only the worker writes it

void by_our_own(Own own, const Geometry& g, void* images, void* kernel, void* outputs, const std::vector<void*>& others) {
  ++own_calls[own];
  const auto floats = [](void* at) { return static_cast<float*>(at); };
  const Dims &x = g.images, &y = g.outputs, &k = g.kernel;
  Shape shape = {x[0], x[1], x[2], x[3], y[1], y[2], y[3], k[0], k[1], g.before[0], g.before[1], g.groups, g.strides[0],
                 g.strides[1]};
  if (g.kind == kInputGradient) {
    const int64_t top = k[0] - 1 - g.before[0], left = k[1] - 1 - g.before[1];
    shape = {y[0], y[1], y[2], y[3], x[1], x[2], x[3], k[0], k[1], top, left, g.groups};
  }
  const int threads = omp_get_max_threads();
  const Ways& ways = *(own == kWinograd ? winograd::ways()
                       : own == kNarrow ? narrow::ways()
                       : own == kFew    ? few::ways()
                                        : strips::ways());
  float* room = floats(scratch(kOwn, sizeof(float) * ways.scratch(shape, g.kind == kKernelGradient, threads)));
  if (g.kind == kKernelGradient) {
    ways.kernel_gradient(shape, floats(images), floats(outputs), floats(kernel), room, threads);
    return;
  }
  if (g.kind == kInputGradient) std::swap(images, outputs);
  const Epilogue& e = g.epilogue;
  const Finish finish = make_finish(e.scaled, e.shifted, e.added, e.nonlinearity, others.data());
  ways.forward(shape, floats(images), floats(kernel), g.kind == kInputGradient, floats(outputs), finish, room, threads);
}

// `others`: the epilogue's scale, offset and added array, those that there are.
void compute(const Geometry& g, void* images, void* kernel, void* outputs, const std::vector<void*>& others = {}) {
  if (const Own own = own_way(g); own != kNone) {
    by_our_own(own, g, images, kernel, outputs, others);
    return;
  }
  if (g.is_finished_apart()) {
    Geometry before = g;
    before.epilogue.nonlinearity = kIdentity;
    compute(before, images, kernel, outputs, others);
    const int64_t count = g.outputs[0] * g.outputs[1] * g.outputs[2] * g.outputs[3];
    pointwise::apply()(g.epilogue.nonlinearity, static_cast<float*>(outputs), count, omp_get_max_threads());
    return;
  }
  const Plan& p = plan_for(g);
  memory x(p.images, cpu(), images), y(p.outputs, cpu(), outputs), w(p.kernel, cpu(), kernel);
  memory packed = p.packs ? memory(p.packed, cpu(), scratch(kPacked, p.packed.get_size())) : w;
  memory pad(p.scratchpad, cpu(), scratch(kPad, p.scratchpad.get_size()));
  if (p.packs && g.kind != kKernelGradient) p.reorder.execute(stream(), {{DNNL_ARG_FROM, w}, {DNNL_ARG_TO, packed}});
  const bool d_images = g.kind == kInputGradient, d_kernel = g.kind == kKernelGradient, forward = g.kind == kForward;
  std::unordered_map<int, memory> arguments = {{d_images ? DNNL_ARG_DIFF_SRC : DNNL_ARG_SRC, x},
                                               {d_kernel ? DNNL_ARG_DIFF_WEIGHTS : DNNL_ARG_WEIGHTS, packed},
                                               {forward ? DNNL_ARG_DST : DNNL_ARG_DIFF_DST, y},
                                               {DNNL_ARG_SCRATCHPAD, pad}};
  const size_t fused = others.size() - (p.addition ? 1 : 0);
  for (size_t i = 0; i < fused; ++i) {
    const bool whole = g.epilogue.added && i + 1 == others.size();
    const memory other(whole ? p.outputs : by_channel(g.outputs), cpu(), others[i]);
    arguments.insert({DNNL_ARG_ATTR_MULTIPLE_POST_OP(static_cast<int>(i)) | DNNL_ARG_SRC_1, other});
  }
  p.convolution.execute(stream(), arguments);
  if (p.packs && g.kind == kKernelGradient) p.reorder.execute(stream(), {{DNNL_ARG_FROM, packed}, {DNNL_ARG_TO, w}});
  if (p.addition) {
    const memory added(p.outputs, cpu(), others.back());
    p.addition.execute(stream(), {{DNNL_ARG_SRC_0, y}, {DNNL_ARG_SRC_1, added}, {DNNL_ARG_DST, y}});
  }
  stream().wait();
}

Dims dims_of(Numbers shape) { return Dims(shape.begin(), shape.end()); }

memory::data_type type_of(ffi::DataType type) {
  if (type == ffi::DataType::F32) return memory::data_type::f32;
  if (type == ffi::DataType::BF16) return memory::data_type::bf16;
  throw std::invalid_argument("only float32 and bfloat16 are supported");
}

Dims holes_of(Numbers dilation) {  // oneDNN counts what lies between, not the step
  Dims holes = dims_of(dilation);
  for (auto& hole : holes) hole -= 1;
  return holes;
}

// Runs a task on the worker; what oneDNN says of memory is said in C++'s way.
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

// Operands and result stand in the order (images, kernel, outputs), less the one that is computed, which comes last.
ffi::Error convolve(ffi::AnyBuffer a, ffi::AnyBuffer b, ffi::Result<ffi::AnyBuffer> result, int64_t kind, Numbers strides,
                    Numbers dilation, Numbers before, Numbers after, int64_t groups) {
  return computed([&] {
    const ffi::AnyBuffer& found = *result;
    const ffi::AnyBuffer& images = kind == kInputGradient ? found : a;
    const ffi::AnyBuffer& kernel = kind == kForward ? b : kind == kInputGradient ? a : found;
    const ffi::AnyBuffer& outputs = kind == kForward ? found : b;
    const Geometry g = {static_cast<Kind>(kind), type_of(images.element_type()), dims_of(images.dimensions()),
                        dims_of(kernel.dimensions()), dims_of(outputs.dimensions()), dims_of(strides),
                        holes_of(dilation), dims_of(before), dims_of(after), groups, {}};
    compute(g, images.untyped_data(), kernel.untyped_data(), outputs.untyped_data());
  });
}

// The forward convolution with an epilogue; the scale, the offset and the added array follow where there are such.
ffi::Error convolve_with_epilogue(ffi::AnyBuffer images, ffi::AnyBuffer kernel, ffi::RemainingArgs others,
                                  ffi::Result<ffi::AnyBuffer> outputs, Numbers strides, Numbers dilation, Numbers before,
                                  Numbers after, int64_t groups, bool scaled, bool shifted, bool added,
                                  int64_t nonlinearity) {
  return computed([&] {
    const Epilogue epilogue = {scaled, shifted, added, static_cast<Nonlinearity>(nonlinearity)};
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
                                  .Attr<int64_t>("kind")
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
                                  .Attr<int64_t>("nonlinearity"));

// Sets how many threads there are, and says how many it could.
extern "C" int cnnjax_set_threads(int count) {
  worker().run([&count] {
    omp_set_dynamic(0);  // a smaller team would sum in another order
    count = std::min(count, omp_get_thread_limit());
    omp_set_num_threads(count);
  });
  return count;
}

// Of the library that is loaded, which may be another one than that of the headers.
extern "C" int cnnjax_onednn_version() { return dnnl_version()->major * 100 + dnnl_version()->minor; }

// Whether this processor can run the kernels of our own.
extern "C" bool cnnjax_has_kernels() { return levels::any(); }

extern "C" bool cnnjax_is_wide() { return levels::is_wide(); }

// How many convolutions have gone by one of our own ways.
extern "C" int64_t cnnjax_own_calls(int own) {
  int64_t calls = 0;
  worker().run([&calls, own] { calls = own_calls.at(own); });
  return calls;
}

// Whether this processor has a fast way for bfloat16: AVX-512 with its own instructions for it.
extern "C" int cnnjax_has_bfloat16() {
  return dnnl::get_effective_cpu_isa() >= dnnl::cpu_isa::avx512_core_bf16;
}
