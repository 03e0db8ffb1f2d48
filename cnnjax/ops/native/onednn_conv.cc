// Images [N, H, W, C] and kernels [H, W, C / groups, C'] keep XLA's layout; oneDNN reads them through strides. A
// convolution is prepared once per shape (`Plan`).
#include "onednn_conv.h"

#include <cstring>
#include <list>
#include <map>
#include <unordered_map>

#include "scratch.h"

namespace onednn {

using dnnl::memory;

namespace {

// Everything below is used only by the worker thread.

dnnl::engine& cpu() {
  static auto* engine = [] {
    dnnl::set_primitive_cache_capacity(0);  // the plans below replace it
    return new dnnl::engine(dnnl::engine::kind::cpu, 0);
  }();
  return *engine;
}

dnnl::stream& stream() {
  static auto* the_stream = new dnnl::stream(cpu());
  return *the_stream;
}

// A convolution prepared for one shape; holds no arrays.
struct Plan {
  dnnl::primitive convolution, reorder;
  memory::desc images, kernel, packed, outputs, scratchpad;
  bool packs;  // oneDNN needs the kernel in its own layout
  dnnl::primitive addition;  // of the residual, and the rest of the epilogue, if separate
};

memory::desc nhwc(const Dims& d, memory::data_type type) {
  return {{d[0], d[3], d[1], d[2]}, type, memory::format_tag::nhwc};
}

// HWIO with groups: output g * (O / groups) + o belongs to group g.
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
  const algorithm kind = which == kRelu ? algorithm::eltwise_relu : which == kSigmoid ? algorithm::eltwise_logistic
                                                                                      : algorithm::eltwise_tanh;
#if DNNL_VERSION_MAJOR >= 3
  ops.append_eltwise(kind, 0.0f, 0.0f);
#else
  ops.append_eltwise(1.0f, kind, 0.0f, 0.0f);
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

// oneDNN 2 needs an operation descriptor first; oneDNN 3 takes one call.
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
    Geometry before = g;  // oneDNN 2.6 adds the wrong elements in its matrix products
    before.epilogue.added = false, before.epilogue.nonlinearity = kIdentity;
    Plan separate = make_plan(before);
    separate.addition = make_addition(g, p.outputs);
    return separate;
  }
  if (g.kind == kForward) {
    p.packed = forward.weights_desc();
    p.scratchpad = forward.scratchpad_desc();
    p.convolution = dnnl::convolution_forward(forward);
  } else if (g.kind == kInputGradient) {
    const auto desc = describe<dnnl::convolution_backward_data>(g, p, any, dnnl::prop_kind::backward_data, forward);
    p.packed = desc.weights_desc();
    p.scratchpad = desc.scratchpad_desc();
    p.convolution = dnnl::convolution_backward_data(desc);
  } else {
    const auto desc = describe<dnnl::convolution_backward_weights>(g, p, any, dnnl::prop_kind::backward_weights, forward);
    p.packed = desc.diff_weights_desc();
    p.scratchpad = desc.scratchpad_desc();
    p.convolution = dnnl::convolution_backward_weights(desc);
  }
  p.packs = p.packed != p.kernel;
  if (p.packs) {
    const bool unpacks = g.kind == kKernelGradient;
    p.reorder = dnnl::reorder(dnnl::reorder::primitive_desc(cpu(), unpacks ? p.packed : p.kernel, cpu(), unpacks ? p.kernel : p.packed));
  }
  return p;
}

// Least-recently-used cache of plans, so that memory stays bounded with many shapes.
const Plan& plan_for(const Geometry& g) {
  constexpr size_t kMostPlans = 256;
  using Entry = std::pair<std::vector<int64_t>, Plan>;
  static auto* order = new std::list<Entry>;
  static auto* by_key = new std::map<std::vector<int64_t>, std::list<Entry>::iterator>;
  const auto key = g.key();
  const auto entry = by_key->find(key);
  if (entry != by_key->end()) {
    order->splice(order->begin(), *order, entry->second);
  } else {
    order->emplace_front(key, make_plan(g));
    (*by_key)[key] = order->begin();
    if (order->size() > kMostPlans) {
      by_key->erase(order->back().first);
      order->pop_back();
    }
  }
  return order->front().second;
}

}  // namespace

void compute(const Geometry& g, void* images, void* kernel, void* outputs, const std::vector<void*>& others) {
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
    const bool is_residual = g.epilogue.added && i + 1 == others.size();
    const memory other(is_residual ? p.outputs : by_channel(g.outputs), cpu(), others[i]);
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

}  // namespace onednn
