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
  int64_t columns() const { return kernels::padded(k_rows, kernels::kTile); }  // scores of one row, padded
  int64_t width() const { return kernels::padded(size, kernels::kLanes); }  // one head, padded
};

Shape shape_of(const at::Tensor& q, const at::Tensor& k) { return {q.size(0), q.size(1), k.size(1), q.size(2), k.size(2), q.size(3)}; }

/// One head of a [n, L, heads, size] tensor: rows `stride` floats apart.
struct Rows {
  float* data;
  int64_t stride;
};
Rows head(const at::Tensor& t, int64_t n, int64_t h) { return {t.data_ptr<float>() + n * t.stride(0) + h * t.stride(2), t.stride(1)}; }

void pack_rows(Rows from, int64_t first, int64_t count, int64_t size, int64_t width, float scale, float* to) {
  for (int64_t r = 0; r < count; ++r) kernels::copy_row(from.data + (first + r) * from.stride, size, scale, to + r * width, width);
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
  float* keys = scratch.data();                     // tiles of [size, columns]
  float* values = keys + shape.size * columns;      // [k_rows, width]
  float* scores = values + shape.k_rows * width;    // [kRows, columns]
  float* queries = scores + kRows * columns;        // [kRows, width]
  float* result = queries + kRows * width;          // [kRows, width]
  kernels::pack_tiles(k.data, k.stride, shape.k_rows, shape.size, keys);
  pack_rows(v, 0, shape.k_rows, shape.size, width, 1.0F, values);
  std::fill(queries, queries + kRows * width, 0.0F);
  for (int64_t first = 0; first < shape.q_rows; first += kRows) {
    const Block block = block_at(shape, first, causal);
    pack_rows(q, first, block.rows, shape.size, width, scale, queries);
    const int64_t wide = kernels::padded(block.keys, kernels::kTile);
    kernels::rows_times_tiles(queries, width, keys, shape.size, wide, scores, columns);
    float inverse[kRows];
    for (int64_t r = 0; r < kRows; ++r) {
      const auto [log_sum, sum] = kernels::softmax_row(scores + r * columns, seen(block, std::min(r, block.rows - 1), causal), wide);
      inverse[r] = 1.0F / sum;
      if (r < block.rows) lse[first + r] = log_sum;
    }
    std::fill(result, result + kRows * width, 0.0F);
    kernels::add_product(scores, columns, values, width, block.keys, result, width);
    for (int64_t r = 0; r < block.rows; ++r) {
      kernels::copy_row(result + r * width, width, inverse[r], result + r * width, width);
      std::copy_n(result + r * width, shape.size, out.data + (first + r) * out.stride);
    }
  }
}

// One head's rows packed for the backward walk, [rows padded to kRows, width] each.
struct PackedRows {
  std::vector<float> queries, gradients, to_q, deltas;  // deltas [rows]: dO . O

  void pack(const Shape& shape, Rows q, Rows out, Rows to_out, float scale) {
    const int64_t rows = kernels::padded(shape.q_rows, kRows), width = shape.width();
    queries.assign(rows * width, 0.0F);  // rows beyond the end add nothing
    gradients.assign(rows * width, 0.0F);
    to_q.assign(rows * width, 0.0F);
    deltas.assign(rows, 0.0F);
    pack_rows(q, 0, shape.q_rows, shape.size, width, scale, queries.data());
    pack_rows(to_out, 0, shape.q_rows, shape.size, width, 1.0F, gradients.data());
    for (int64_t r = 0; r < shape.q_rows; ++r)
      for (int64_t c = 0; c < shape.size; ++c) deltas[r] += gradients[r * width + c] * out.data[r * out.stride + c];
  }
};

// One key head packed, and the sums of its gradients over all query heads that share it.
struct PackedKeys {
  std::vector<float> key_tiles, value_tiles, keys, to_k, to_v;

  void pack(const Shape& shape, Rows k, Rows v) {
    const int64_t columns = shape.columns(), width = shape.width();
    key_tiles.resize(shape.size * columns);
    value_tiles.resize(shape.size * columns);
    keys.assign(columns * width, 0.0F);
    to_k.assign(columns * width, 0.0F);
    to_v.assign(columns * width, 0.0F);
    kernels::pack_tiles(k.data, k.stride, shape.k_rows, shape.size, key_tiles.data());
    kernels::pack_tiles(v.data, v.stride, shape.k_rows, shape.size, value_tiles.data());
    pack_rows(k, 0, shape.k_rows, shape.size, width, 1.0F, keys.data());
  }
};

// Key tiles outside, row blocks inside: a tile's keys, values and gradients stay in the first cache level while all rows pass.
void backward_head(const Shape& shape, PackedRows& rows, PackedKeys& packed, const float* log_sums, bool causal) {
  constexpr int64_t kTile = kernels::kTile;
  const int64_t width = shape.width();
  float weights[kRows * kTile], slopes[kRows * kTile];
  for (int64_t key = 0; key < shape.k_rows; key += kTile) {
    const int64_t first_row = causal ? key / kRows * kRows : 0;  // earlier rows see none of these keys
    for (int64_t first = first_row; first < shape.q_rows; first += kRows) {
      const float *queries = rows.queries.data() + first * width, *gradients = rows.gradients.data() + first * width;
      kernels::rows_times_tiles(queries, width, packed.key_tiles.data() + key * shape.size, shape.size, kTile, weights, kTile);
      kernels::rows_times_tiles(gradients, width, packed.value_tiles.data() + key * shape.size, shape.size, kTile, slopes, kTile);
      for (int64_t r = 0; r < kRows; ++r) {
        const int64_t row = first + r, end = row >= shape.q_rows ? 0 : (causal ? std::min(shape.k_rows, row + 1) : shape.k_rows);
        kernels::softmax_backward_row(weights + r * kTile, slopes + r * kTile, std::clamp<int64_t>(end - key, 0, kTile), kTile,
                                      row < shape.q_rows ? log_sums[row] : 0.0F, rows.deltas[row]);
      }
      kernels::add_product(slopes, kTile, packed.keys.data() + key * width, width, kTile, rows.to_q.data() + first * width, width);
      kernels::add_outer(weights, kTile, gradients, width, kTile, packed.to_v.data() + key * width, width);
      kernels::add_outer(slopes, kTile, queries, width, kTile, packed.to_k.data() + key * width, width);  // queries hold the scale already
    }
  }
}

void unpack_rows(const std::vector<float>& from, int64_t count, int64_t size, int64_t width, Rows to) {
  for (int64_t r = 0; r < count; ++r) std::copy_n(from.data() + r * width, size, to.data + r * to.stride);
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
    PackedRows rows;
    PackedKeys keys;
    for (int64_t task = begin; task < end; ++task) {
      const int64_t n = task / shape.kv_heads, kv_head = task % shape.kv_heads;
      keys.pack(shape, head(k, n, kv_head), head(v, n, kv_head));
      for (int64_t h = kv_head * shape.group(); h < (kv_head + 1) * shape.group(); ++h) {  // in order: the sums are deterministic
        rows.pack(shape, head(q, n, h), head(made.out, n, h), head(to_out, n, h), static_cast<float>(scale));
        backward_head(shape, rows, keys, made.lse.data_ptr<float>() + (n * shape.heads + h) * shape.q_rows, causal);
        for (float& x : rows.to_q) x *= static_cast<float>(scale);
        unpack_rows(rows.to_q, shape.q_rows, shape.size, shape.width(), head(to_q, n, h));
      }
      unpack_rows(keys.to_k, shape.k_rows, shape.size, shape.width(), head(to_k, n, kv_head));
      unpack_rows(keys.to_v, shape.k_rows, shape.size, shape.width(), head(to_v, n, kv_head));
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
