#include "fusion/nn/functions.h"

#include "cpu_rows.h"
#include "fusion/nn/cheap.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/_log_softmax.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/rsqrt.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/silu_backward.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cmath>

namespace fusion {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// A tensor without data takes the way of a CPU's, so that `fusion plan` meets the same memory.
bool on_cpu_fp32(const at::Tensor& x) { return (x.is_cpu() || x.is_meta()) && x.scalar_type() == at::kFloat; }

template <class Kernel>
void compute(const at::Tensor& x, const Kernel& kernel) {
  if (!x.is_meta()) kernel();
}

struct RmsNormFunction : torch::autograd::Function<RmsNormFunction> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& weight, double eps) {
    if (on_cpu_fp32(x)) {
      const auto dense = x.contiguous(), y = at::empty_like(dense), rows_rstd = at::empty({dense.size(0), 1}, dense.options());
      compute(x, [&] {
        kernels::rms_norm_rows(dense.const_data_ptr<float>(), weight.const_data_ptr<float>(), eps, dense.size(0), dense.size(1), y.data_ptr<float>(),
                               rows_rstd.data_ptr<float>());
      });
      context->save_for_backward({dense, weight, rows_rstd});
      return y;
    }
    const auto wide = x.to(at::kFloat);
    const auto rstd = wide.square().mean(-1, true).add_(eps).rsqrt_();  // [R, 1]
    context->save_for_backward({x, weight, rstd});
    return (wide * rstd).to(x.scalar_type()).mul_(weight);
  }
  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const auto saved = context->get_saved_variables();
    const auto &x = saved[0], &weight = saved[1], &rstd = saved[2];
    if (on_cpu_fp32(x)) {
      const auto to_y = gradients[0].contiguous(), to_x = at::empty_like(x), to_weight = at::empty_like(weight);
      compute(x, [&] {
        kernels::rms_norm_rows_backward(x.const_data_ptr<float>(), weight.const_data_ptr<float>(), rstd.const_data_ptr<float>(),
                                        to_y.const_data_ptr<float>(), x.size(0), x.size(1), to_x.data_ptr<float>(), to_weight.data_ptr<float>());
      });
      return {to_x, to_weight, at::Tensor()};
    }
    const auto gradient = gradients[0].to(at::kFloat);
    const auto normal = x.to(at::kFloat) * rstd;                                 // [R, D]
    const auto to_weight = (gradient * normal).sum(0).to(weight.scalar_type());  // [D]
    auto to_x = gradient * weight.to(at::kFloat);                                // [R, D]
    to_x.sub_(normal * (to_x * normal).mean(-1, true)).mul_(rstd);
    return {to_x.to(x.scalar_type()), to_weight, at::Tensor()};
  }
};

// gate and up beside each other, [R, 2 width]: one gradient in one piece.
struct SwigluPackedFunction : torch::autograd::Function<SwigluPackedFunction> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& gate_up) {
    const auto x = gate_up.contiguous();
    context->save_for_backward({x});
    const int64_t R = x.size(0), width = x.size(1) / 2;
    if (!on_cpu_fp32(x)) return at::silu(x.narrow(1, 0, width)).mul_(x.narrow(1, width, width));
    const auto y = at::empty({R, width}, x.options());
    compute(x, [&] {
      const float* gate = x.const_data_ptr<float>();
      kernels::swiglu_rows(gate, gate + width, 2 * width, R, width, y.data_ptr<float>());
    });
    return y;
  }
  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const auto x = context->get_saved_variables()[0], to_y = gradients[0].contiguous(), to_x = at::empty_like(x);
    const int64_t R = x.size(0), width = x.size(1) / 2;
    if (on_cpu_fp32(x)) {
      compute(x, [&] {
        const float* gate = x.const_data_ptr<float>();
        float* to_gate = to_x.data_ptr<float>();
        kernels::swiglu_rows_backward(gate, gate + width, 2 * width, to_y.const_data_ptr<float>(), R, width, to_gate, to_gate + width, 2 * width);
      });
      return {to_x};
    }
    const auto gate = x.narrow(1, 0, width), up = x.narrow(1, width, width);
    to_x.narrow(1, 0, width).copy_(at::silu_backward(to_y * up, gate));
    to_x.narrow(1, width, width).copy_(at::silu(gate).mul_(to_y));
    return {to_x};
  }
};

struct SwigluFunction : torch::autograd::Function<SwigluFunction> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& gate, const at::Tensor& up) {
    context->save_for_backward({gate, up});
    if (!serves(gate, up)) return at::silu(gate).mul_(up);
    const auto y = at::empty(gate.sizes(), gate.options());
    compute(gate, [&] {
      kernels::swiglu_rows(gate.const_data_ptr<float>(), up.const_data_ptr<float>(), gate.size(1), gate.size(0), gate.size(1), y.data_ptr<float>());
    });
    return y;
  }
  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const auto saved = context->get_saved_variables();
    const auto &gate = saved[0], &up = saved[1];
    if (!serves(gate, up)) {
      const auto to_up = at::silu(gate).mul_(gradients[0]);
      return {at::silu_backward(gradients[0] * up, gate), to_up};
    }
    const auto to_y = gradients[0].contiguous(), to_gate = at::empty_like(gate), to_up = at::empty_like(up);
    compute(gate, [&] {
      kernels::swiglu_rows_backward(gate.const_data_ptr<float>(), up.const_data_ptr<float>(), gate.size(1), to_y.const_data_ptr<float>(),
                                    gate.size(0), gate.size(1), to_gate.data_ptr<float>(), to_up.data_ptr<float>(), gate.size(1));
    });
    return {to_gate, to_up};
  }
  static bool serves(const at::Tensor& gate, const at::Tensor& up) { return on_cpu_fp32(gate) && gate.is_contiguous() && up.is_contiguous(); }
};

// x * sigmoid(a x + b x^3) on a CPU.
struct GateFunction : torch::autograd::Function<GateFunction> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& input, double a, double b) {
    const auto x = input.contiguous(), y = at::empty_like(x);
    context->save_for_backward({x});
    context->saved_data["a"] = a;
    context->saved_data["b"] = b;
    compute(x, [&] {
      kernels::gate_forward({static_cast<float>(a), static_cast<float>(b)}, x.const_data_ptr<float>(), x.numel(), y.data_ptr<float>());
    });
    return y;
  }
  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const auto x = context->get_saved_variables()[0], to_y = gradients[0].contiguous(), to_x = at::empty_like(x);
    const auto factor = [&](const char* name) { return static_cast<float>(context->saved_data[name].toDouble()); };
    compute(x, [&] {
      kernels::gate_backward({factor("a"), factor("b")}, x.const_data_ptr<float>(), to_y.const_data_ptr<float>(), x.numel(), to_x.data_ptr<float>());
    });
    return {to_x, at::Tensor(), at::Tensor()};
  }
};

struct QuickGeluFunction : torch::autograd::Function<QuickGeluFunction> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x) {
    context->save_for_backward({x});
    return at::sigmoid(x * 1.702).mul_(x);
  }
  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const auto x = context->get_saved_variables()[0];
    const auto gate = at::sigmoid(x * 1.702);
    return {gradients[0] * (gate + x * gate * (1 - gate) * 1.702)};
  }
};

// q' = q cos + rotate_half(q) sin, rotate_half(x) = cat(-x2, x1), of the first `rotated` heads.
at::Tensor rotate_halves(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin, int64_t rotated, double sign) {
  const auto out = at::empty(x.sizes(), x.options());
  const int64_t heads = x.size(1), half = x.size(2) / 2;
  if (on_cpu_fp32(x) && x.is_contiguous()) {
    compute(x, [&] {
      kernels::rotate_rows(x.const_data_ptr<float>(), cos.const_data_ptr<float>(), sin.const_data_ptr<float>(), static_cast<float>(sign), x.size(0),
                           heads, rotated, x.size(2), out.data_ptr<float>());
    });
    return out;
  }
  const auto turned = x.narrow(1, 0, rotated), to = out.narrow(1, 0, rotated);
  const auto first = turned.narrow(2, 0, half), second = turned.narrow(2, half, half);
  to.copy_(turned * cos);
  to.narrow(2, 0, half).addcmul_(second, sin.narrow(2, 0, half), -sign);
  to.narrow(2, half, half).addcmul_(first, sin.narrow(2, half, half), sign);
  out.narrow(1, rotated, heads - rotated).copy_(x.narrow(1, rotated, heads - rotated));
  return out;
}

struct RotateFunction : torch::autograd::Function<RotateFunction> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin, int64_t rotated) {
    context->save_for_backward({cos, sin});
    context->saved_data["rotated"] = rotated;
    return rotate_halves(x, cos, sin, rotated, 1.0);
  }
  static variable_list backward(AutogradContext* context, variable_list gradients) {
    // Both halves of cos and sin are equal, so the transposed map is the rotation by the opposite angle.
    const auto saved = context->get_saved_variables();
    return {rotate_halves(gradients[0], saved[0], saved[1], context->saved_data["rotated"].toInt(), -1.0), at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

struct WindowsFunction : torch::autograd::Function<WindowsFunction> {
  static kernels::Windows sizes(const at::Tensor& q, const at::Tensor& k) {
    return {q.size(0), q.size(1), k.size(1), q.size(2), q.size(3), static_cast<float>(std::pow(static_cast<double>(q.size(3)), -0.5))};
  }
  static at::Tensor forward(AutogradContext* context, const at::Tensor& query, const at::Tensor& key, const at::Tensor& value) {
    const auto q = query.contiguous(), k = key.contiguous(), v = value.contiguous(), out = at::empty_like(q);
    context->save_for_backward({q, k, v});
    compute(q, [&] {
      kernels::window_attention(sizes(q, k), q.const_data_ptr<float>(), k.const_data_ptr<float>(), v.const_data_ptr<float>(), out.data_ptr<float>());
    });
    return out;
  }
  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const auto saved = context->get_saved_variables();
    const auto to_out = gradients[0].contiguous(), to_q = at::empty_like(saved[0]), to_k = at::empty_like(saved[1]), to_v = at::empty_like(saved[2]);
    compute(saved[0], [&] {
      kernels::window_attention_backward(sizes(saved[0], saved[1]), saved[0].const_data_ptr<float>(), saved[1].const_data_ptr<float>(),
                                         saved[2].const_data_ptr<float>(), to_out.const_data_ptr<float>(), to_q.data_ptr<float>(),
                                         to_k.data_ptr<float>(), to_v.data_ptr<float>());
    });
    return {to_q, to_k, to_v};
  }
};

// The gradient of a sum is known up to a factor, so it is computed chunk by chunk in the forward pass while the logits are there.
struct LinearCrossEntropyFunction : torch::autograd::Function<LinearCrossEntropyFunction> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& weight, const at::Tensor& labels,
                            const at::Tensor& row_losses, int64_t chunk, bool gradients) {
    const auto rows = x.size(0);
    auto loss = at::zeros({}, x.options().dtype(at::kFloat));
    auto to_x = gradients ? at::empty_like(x) : at::Tensor();
    auto to_weight = gradients ? at::zeros_like(weight, weight.options().dtype(at::kFloat)) : at::Tensor();
    for (int64_t start = 0; start < rows; start += chunk) {
      const auto length = std::min(chunk, rows - start);
      const auto part = x.narrow(0, start, length);
      const auto target = labels.narrow(0, start, length).unsqueeze(1);  // [c, 1]
      const auto logits = at::matmul(part, weight.t()).to(at::kFloat);   // [c, V]
      auto log_probability = at::_log_softmax(logits, 1, false);         // [c, V]
      const auto chosen = log_probability.gather(1, target);             // [c, 1]
      loss.sub_(chosen.sum());
      if (row_losses.defined()) row_losses.narrow(0, start, length).copy_(chosen.squeeze(1)).neg_();
      if (!gradients) continue;
      auto to_logits = log_probability.exp_();
      to_logits.scatter_add_(1, target, -at::zeros_like(target, to_logits.options()).add_(1.0));
      const auto narrow_gradient = to_logits.to(x.scalar_type());
      to_x.narrow(0, start, length).copy_(at::matmul(narrow_gradient, weight));
      to_weight.add_(at::matmul(narrow_gradient.t(), part));
    }
    if (gradients) context->save_for_backward({to_x, to_weight.to(weight.scalar_type())});
    return loss;
  }
  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const auto saved = context->get_saved_variables();
    const auto scale = gradients[0];
    return {saved[0] * scale.to(saved[0].scalar_type()),
            saved[1] * scale.to(saved[1].scalar_type()),
            at::Tensor(),
            at::Tensor(),
            at::Tensor(),
            at::Tensor()};
  }
};

}  // namespace

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps) { return RmsNormFunction::apply(x, weight, eps); }

at::Tensor swiglu(const at::Tensor& gate, const at::Tensor& up) {
  return cheap([gate, up] { return SwigluFunction::apply(gate, up); });
}

at::Tensor swiglu(const at::Tensor& gate_up) {
  return cheap([gate_up] { return SwigluPackedFunction::apply(gate_up); });
}

at::Tensor quick_gelu(const at::Tensor& x) {
  if (on_cpu_fp32(x)) return GateFunction::apply(x, kernels::kQuickGelu.a, kernels::kQuickGelu.b);
  return QuickGeluFunction::apply(x);
}

at::Tensor tanh_gelu(const at::Tensor& x) {
  if (on_cpu_fp32(x)) return GateFunction::apply(x, kernels::kTanhGelu.a, kernels::kTanhGelu.b);
  return at::gelu(x, "tanh");
}

at::Tensor attend_windows(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  if (on_cpu_fp32(q) && on_cpu_fp32(k) && on_cpu_fp32(v)) return WindowsFunction::apply(q, k, v);
  // So few keys that plain products over broadcast rows beat one small matrix product per head.
  const double scale = std::pow(static_cast<double>(q.size(3)), -0.5);
  std::vector<at::Tensor> mixed;
  for (const auto& query : q.split(1, 1)) {                             // [n, 1, heads, size]
    const auto scores = (query * k).sum(-1, true, at::kFloat) * scale;  // [n, P, heads, 1]
    const auto weights = at::softmax(scores, 1).to(q.scalar_type());
    mixed.push_back((weights * v).sum(1, true));  // [n, 1, heads, size]
  }
  return mixed.size() == 1 ? mixed[0] : at::cat(mixed, 1);
}

at::Tensor rotate(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin, int64_t heads) {
  return RotateFunction::apply(x, cos, sin, heads);
}

at::Tensor linear_cross_entropy_sum(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& labels, const at::Tensor& row_losses,
                                    int64_t chunk) {
  const bool gradients = at::GradMode::is_enabled() && (x.requires_grad() || weight.requires_grad());
  return LinearCrossEntropyFunction::apply(x, weight, labels, row_losses, chunk, gradients);
}

at::Tensor cosine_distance_sum(const at::Tensor& a, const at::Tensor& b, const at::Tensor& weight) {
  const auto unit = [](const at::Tensor& x) {
    const auto wide = x.to(at::kFloat);
    return wide / at::linalg_vector_norm(wide, 2, at::IntArrayRef{-1}, true).clamp_min(1e-12);  // [R, D]
  };
  return ((1 - (unit(a) * unit(b)).sum(-1)) * weight).sum();
}

}  // namespace fusion
