#include "fusion/nn/cpu_attention.h"

#include "cpu_attention_kernels.h"

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cmath>
#include <vector>

namespace fusion {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using kernels::kRows;

struct Shape {
  int64_t n, q_rows, k_rows, heads, kv_heads, size;
  int64_t group() const { return heads / kv_heads; }
  int64_t columns() const { return kernels::padded(k_rows); }  // scores of one row, padded
  int64_t width() const { return kernels::padded(size); }      // one head, padded
};

Shape shape_of(const at::Tensor& q, const at::Tensor& k) { return {q.size(0), q.size(1), k.size(1), q.size(2), k.size(2), q.size(3)}; }

/// One head of a [n, L, heads, size] tensor: rows `stride` floats apart.
struct Rows {
  float* data;
  int64_t stride;
};
Rows head(const at::Tensor& t, int64_t n, int64_t h) { return {t.data_ptr<float>() + n * t.stride(0) + h * t.stride(2), t.stride(1)}; }

void pack_rows(Rows from, int64_t first, int64_t count, int64_t size, int64_t width, float scale, float* to) {
  for (int64_t r = 0; r < count; ++r) {
    const float* row = from.data + (first + r) * from.stride;
    for (int64_t c = 0; c < size; ++c) to[r * width + c] = row[c] * scale;
    std::fill(to + r * width + size, to + (r + 1) * width, 0.0F);
  }
}

void pack_transposed(Rows from, int64_t count, int64_t size, int64_t columns, float* to) {
  for (int64_t c = 0; c < size; ++c) {
    float* row = to + c * columns;
    for (int64_t r = 0; r < count; ++r) row[r] = from.data[r * from.stride + c];
    std::fill(row + count, row + columns, 0.0F);
  }
}

// Rows of a block that exist, and the keys its last row sees.
struct Block {
  int64_t first, rows, keys;
};
Block block_at(const Shape& shape, int64_t first, bool causal) {
  const int64_t rows = std::min(kRows, shape.q_rows - first);
  return {first, rows, causal ? std::min(shape.k_rows, first + rows) : shape.k_rows};
}
// Keys that row r of a block sees.
int64_t seen(const Block& block, int64_t r, bool causal) { return causal ? std::min(block.keys, block.first + r + 1) : block.keys; }

void forward_head(const Shape& shape, Rows q, Rows k, Rows v, Rows out, float* lse, float scale, bool causal, std::vector<float>& scratch) {
  const int64_t columns = shape.columns(), width = shape.width();
  scratch.resize(shape.size * columns + shape.k_rows * width + kRows * (columns + 2 * width));
  float* keys = scratch.data();                     // [size, columns]
  float* values = keys + shape.size * columns;      // [k_rows, width]
  float* scores = values + shape.k_rows * width;    // [kRows, columns]
  float* queries = scores + kRows * columns;        // [kRows, width]
  float* result = queries + kRows * width;          // [kRows, width]
  pack_transposed(k, shape.k_rows, shape.size, columns, keys);
  pack_rows(v, 0, shape.k_rows, shape.size, width, 1.0F, values);
  std::fill(queries, queries + kRows * width, 0.0F);
  for (int64_t first = 0; first < shape.q_rows; first += kRows) {
    const Block block = block_at(shape, first, causal);
    pack_rows(q, first, block.rows, shape.size, width, scale, queries);
    kernels::rows_times_transposed(queries, width, keys, columns, shape.size, kernels::padded(block.keys), scores, columns);
    float inverse[kRows];
    for (int64_t r = 0; r < kRows; ++r) {
      const auto [log_sum, sum] = kernels::softmax_row(scores + r * columns, seen(block, std::min(r, block.rows - 1), causal), kernels::padded(block.keys));
      inverse[r] = 1.0F / sum;
      if (r < block.rows) lse[first + r] = log_sum;
    }
    kernels::rows_times_rows(scores, columns, values, width, block.keys, result, width);
    for (int64_t r = 0; r < block.rows; ++r)
      for (int64_t c = 0; c < shape.size; ++c) out.data[(first + r) * out.stride + c] = result[r * width + c] * inverse[r];
  }
}

// All query heads that share one key head, in order, so that the sums over them are deterministic.
void backward_group(const Shape& shape, const at::Tensor& q, const at::Tensor& out, const at::Tensor& to_out, const at::Tensor& lse, const at::Tensor& to_q, Rows k, Rows v,
                    Rows to_k, Rows to_v, int64_t n, int64_t kv_head, float scale, bool causal, std::vector<float>& scratch) {
  const int64_t columns = shape.columns(), width = shape.width(), k_rows = shape.k_rows, size = shape.size;
  scratch.assign(2 * size * columns + 3 * k_rows * width + kRows * (2 * columns + 3 * width), 0.0F);
  float* keys_t = scratch.data();                  // [size, columns]
  float* values_t = keys_t + size * columns;       // [size, columns]
  float* keys = values_t + size * columns;         // [k_rows, width]
  float* sum_k = keys + k_rows * width;            // [k_rows, width]
  float* sum_v = sum_k + k_rows * width;           // [k_rows, width]
  float* weights = sum_v + k_rows * width;         // [kRows, columns]
  float* slopes = weights + kRows * columns;       // [kRows, columns]
  float* queries = slopes + kRows * columns;       // [kRows, width]
  float* gradients = queries + kRows * width;      // [kRows, width]
  float* result = gradients + kRows * width;       // [kRows, width]
  pack_transposed(k, k_rows, size, columns, keys_t);
  pack_transposed(v, k_rows, size, columns, values_t);
  pack_rows(k, 0, k_rows, size, width, 1.0F, keys);
  for (int64_t h = kv_head * shape.group(); h < (kv_head + 1) * shape.group(); ++h) {
    const Rows q_rows = head(q, n, h), o_rows = head(out, n, h), g_rows = head(to_out, n, h), to_q_rows = head(to_q, n, h);
    const float* log_sums = lse.data_ptr<float>() + (n * shape.heads + h) * shape.q_rows;
    for (int64_t first = 0; first < shape.q_rows; first += kRows) {
      const Block block = block_at(shape, first, causal);
      const int64_t wide = kernels::padded(block.keys);
      std::fill(queries, queries + 2 * kRows * width, 0.0F);  // rows beyond the end add nothing
      pack_rows(q_rows, first, block.rows, size, width, scale, queries);
      pack_rows(g_rows, first, block.rows, size, width, 1.0F, gradients);
      kernels::rows_times_transposed(queries, width, keys_t, columns, size, wide, weights, columns);
      kernels::rows_times_transposed(gradients, width, values_t, columns, size, wide, slopes, columns);
      for (int64_t r = 0; r < kRows; ++r) {
        float* weight_row = weights + r * columns;
        float* slope_row = slopes + r * columns;
        if (r >= block.rows) {
          std::fill(weight_row, weight_row + wide, 0.0F);
          std::fill(slope_row, slope_row + wide, 0.0F);
          continue;
        }
        float delta = 0;  // dO . O
        for (int64_t c = 0; c < size; ++c) delta += g_rows.data[(first + r) * g_rows.stride + c] * o_rows.data[(first + r) * o_rows.stride + c];
        kernels::softmax_backward_row(weight_row, slope_row, seen(block, r, causal), wide, log_sums[first + r], delta);
      }
      kernels::rows_times_rows(slopes, columns, keys, width, block.keys, result, width);
      for (int64_t r = 0; r < block.rows; ++r)
        for (int64_t c = 0; c < size; ++c) to_q_rows.data[(first + r) * to_q_rows.stride + c] = result[r * width + c] * scale;
      kernels::add_outer(weights, columns, gradients, width, block.keys, sum_v, width);
      kernels::add_outer(slopes, columns, queries, width, block.keys, sum_k, width);  // queries hold the scale already
    }
  }
  for (int64_t j = 0; j < k_rows; ++j) {
    std::copy_n(sum_k + j * width, size, to_k.data + j * to_k.stride);
    std::copy_n(sum_v + j * width, size, to_v.data + j * to_v.stride);
  }
}

struct Forward {
  at::Tensor out, lse;
};

Forward attention_forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, double scale, bool causal) {
  const Shape shape = shape_of(q, k);
  Forward made{at::empty({shape.n, shape.q_rows, shape.heads, shape.size}, q.options()), at::empty({shape.n, shape.heads, shape.q_rows}, q.options())};
  at::parallel_for(0, shape.n * shape.heads, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> scratch;
    for (int64_t task = begin; task < end; ++task) {
      const int64_t n = task / shape.heads, h = task % shape.heads;
      forward_head(shape, head(q, n, h), head(k, n, h / shape.group()), head(v, n, h / shape.group()), head(made.out, n, h),
                   made.lse.data_ptr<float>() + task * shape.q_rows, static_cast<float>(scale), causal, scratch);
    }
  });
  return made;
}

void attention_backward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Forward& made, const at::Tensor& gradient, const at::Tensor& to_q,
                        const at::Tensor& to_k, const at::Tensor& to_v, double scale, bool causal) {
  const Shape shape = shape_of(q, k);
  const auto to_out = gradient.stride(3) == 1 ? gradient : gradient.contiguous();
  at::parallel_for(0, shape.n * shape.kv_heads, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> scratch;
    for (int64_t task = begin; task < end; ++task) {
      const int64_t n = task / shape.kv_heads, h = task % shape.kv_heads;
      backward_group(shape, q, made.out, to_out, made.lse, to_q, head(k, n, h), head(v, n, h), head(to_k, n, h), head(to_v, n, h), n, h, static_cast<float>(scale), causal,
                     scratch);
    }
  });
}

struct AttentionFunction : torch::autograd::Function<AttentionFunction> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, double scale, bool causal) {
    const Forward made = attention_forward(q, k, v, scale, causal);
    context->save_for_backward({q, k, v, made.out, made.lse});
    context->saved_data["scale"] = scale;
    context->saved_data["causal"] = causal;
    return made.out;
  }
  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const auto saved = context->get_saved_variables();
    const auto to_q = at::empty(saved[0].sizes(), saved[0].options()), to_k = at::empty(saved[1].sizes(), saved[1].options()),
               to_v = at::empty(saved[2].sizes(), saved[2].options());
    attention_backward(saved[0], saved[1], saved[2], {saved[3], saved[4]}, gradients[0], to_q, to_k, to_v, context->saved_data["scale"].toDouble(),
                       context->saved_data["causal"].toBool());
    return {to_q, to_k, to_v, at::Tensor(), at::Tensor()};
  }
};

struct PackedAttentionFunction : torch::autograd::Function<PackedAttentionFunction> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& qkv, double scale, bool causal) {
    const Forward made = attention_forward(qkv.select(2, 0), qkv.select(2, 1), qkv.select(2, 2), scale, causal);
    context->save_for_backward({qkv, made.out, made.lse});
    context->saved_data["scale"] = scale;
    context->saved_data["causal"] = causal;
    return made.out;
  }
  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const auto saved = context->get_saved_variables();
    const auto& qkv = saved[0];
    const auto to_qkv = at::empty(qkv.sizes(), qkv.options());
    attention_backward(qkv.select(2, 0), qkv.select(2, 1), qkv.select(2, 2), {saved[1], saved[2]}, gradients[0], to_qkv.select(2, 0), to_qkv.select(2, 1),
                       to_qkv.select(2, 2), context->saved_data["scale"].toDouble(), context->saved_data["causal"].toBool());
    return {to_qkv, at::Tensor(), at::Tensor()};
  }
};

}  // namespace

bool cpu_attention_serves(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  const auto fits = [](const at::Tensor& t) { return t.is_cpu() && t.scalar_type() == at::kFloat && t.stride(3) == 1; };
  return kernels::supported() && q.size(3) % 8 == 0 && fits(q) && fits(k) && fits(v);
}

at::Tensor cpu_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, double scale, bool causal) {
  return AttentionFunction::apply(q, k, v, scale, causal);
}

at::Tensor cpu_attention_packed(const at::Tensor& qkv, double scale, bool causal) { return PackedAttentionFunction::apply(qkv, scale, causal); }

}  // namespace fusion
