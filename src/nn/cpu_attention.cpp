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

using kernels::kRows;

const kernels::Kernels& table() {
  static const kernels::Kernels& best = *kernels::best_kernels();
  return best;
}

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// Sizes of one head's attention.
struct Shape {
  int64_t q_rows, k_rows, size;
  int64_t columns() const { return kernels::padded(k_rows, kernels::kTile); }  // scores of one row, padded
  int64_t width() const { return kernels::padded(size, kernels::kLanes); }     // one head, padded
};

/// One head's rows, `stride` floats apart.
struct Rows {
  float* data;
  int64_t stride;
};

/// Rows that attend to each other: row `first` and on of part `part` of a tensor. Its numbers in log_sums begin at `log_sums`, head by head.
struct Segment {
  int64_t part, first, q_rows, k_rows, log_sums;
};

/// A tensor of heads: how far its parts, rows and heads lie apart.
struct Heads {
  float* data;
  int64_t part, row, head;
  Rows at(const Segment& s, int64_t h) const { return {data + s.part * part + s.first * row + h * head, row}; }
};

void pack_rows(Rows from, int64_t first, int64_t count, int64_t size, int64_t width, float scale, float* to) {
  for (int64_t r = 0; r < count; ++r) table().copy_row(from.data + (first + r) * from.stride, size, scale, to + r * width, width);
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
  float* keys = scratch.data();                   // tiles of [size, columns]
  float* values = keys + shape.size * columns;    // [k_rows, width]
  float* scores = values + shape.k_rows * width;  // [kRows, columns]
  float* queries = scores + kRows * columns;      // [kRows, width]
  float* result = queries + kRows * width;        // [kRows, width]
  table().pack_tiles(k.data, k.stride, shape.k_rows, shape.size, keys);
  pack_rows(v, 0, shape.k_rows, shape.size, width, 1.0F, values);
  std::fill(queries, queries + kRows * width, 0.0F);
  for (int64_t first = 0; first < shape.q_rows; first += kRows) {
    const Block block = block_at(shape, first, causal);
    pack_rows(q, first, block.rows, shape.size, width, scale, queries);
    const int64_t wide = kernels::padded(block.keys, kernels::kTile);
    table().rows_times_tiles(queries, width, keys, shape.size, wide, scores, columns);
    float inverse[kRows];
    for (int64_t r = 0; r < kRows; ++r) {
      const auto [log_sum, sum] = table().softmax_row(scores + r * columns, seen(block, std::min(r, block.rows - 1), causal), wide);
      inverse[r] = 1.0F / sum;
      if (r < block.rows) lse[first + r] = log_sum;
    }
    std::fill(result, result + kRows * width, 0.0F);
    table().add_product(scores, columns, values, width, block.keys, result, width);
    for (int64_t r = 0; r < block.rows; ++r) {
      table().copy_row(result + r * width, width, inverse[r], result + r * width, width);
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
    table().pack_tiles(k.data, k.stride, shape.k_rows, shape.size, key_tiles.data());
    table().pack_tiles(v.data, v.stride, shape.k_rows, shape.size, value_tiles.data());
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
      table().rows_times_tiles(queries, width, packed.key_tiles.data() + key * shape.size, shape.size, kTile, weights, kTile);
      table().rows_times_tiles(gradients, width, packed.value_tiles.data() + key * shape.size, shape.size, kTile, slopes, kTile);
      for (int64_t r = 0; r < kRows; ++r) {
        const int64_t row = first + r, end = row >= shape.q_rows ? 0 : (causal ? std::min(shape.k_rows, row + 1) : shape.k_rows);
        table().softmax_backward_row(weights + r * kTile, slopes + r * kTile, std::clamp<int64_t>(end - key, 0, kTile), kTile,
                                     row < shape.q_rows ? log_sums[row] : 0.0F, rows.deltas[row]);
      }
      table().add_product(slopes, kTile, packed.keys.data() + key * width, width, kTile, rows.to_q.data() + first * width, width);
      table().add_outer(weights, kTile, gradients, width, kTile, packed.to_v.data() + key * width, width);
      table().add_outer(slopes, kTile, queries, width, kTile, packed.to_k.data() + key * width, width);  // queries hold the scale already
    }
  }
}

void unpack_rows(const std::vector<float>& from, int64_t count, int64_t size, int64_t width, Rows to) {
  for (int64_t r = 0; r < count; ++r) std::copy_n(from.data() + r * width, size, to.data + r * to.stride);
}

/// One call: what attends, and with how many heads.
struct Call {
  std::vector<Segment> segments;
  int64_t heads, kv_heads, size;
  double scale;
  bool causal;

  int64_t group() const { return heads / kv_heads; }
  Shape shape(const Segment& s) const { return {s.q_rows, s.k_rows, size}; }
};

void run_forward(const Call& call, const Heads& q, const Heads& k, const Heads& v, const Heads& out, float* log_sums) {
  at::parallel_for(0, static_cast<int64_t>(call.segments.size()) * call.heads, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> scratch;
    for (int64_t task = begin; task < end; ++task) {
      const Segment& s = call.segments[task / call.heads];
      const int64_t h = task % call.heads, kv_head = h / call.group();
      forward_head(call.shape(s), q.at(s, h), k.at(s, kv_head), v.at(s, kv_head), out.at(s, h), log_sums + s.log_sums + h * s.q_rows,
                   static_cast<float>(call.scale), call.causal, scratch);
    }
  });
}

struct Gradients {
  Heads out, q, k, v;
};

void run_backward(const Call& call, const Heads& q, const Heads& k, const Heads& v, const Heads& out, const float* log_sums, const Gradients& to) {
  const auto scale = static_cast<float>(call.scale);
  at::parallel_for(0, static_cast<int64_t>(call.segments.size()) * call.kv_heads, 1, [&](int64_t begin, int64_t end) {
    PackedRows rows;
    PackedKeys keys;
    for (int64_t task = begin; task < end; ++task) {
      const Segment& s = call.segments[task / call.kv_heads];
      const Shape shape = call.shape(s);
      const int64_t kv_head = task % call.kv_heads;
      keys.pack(shape, k.at(s, kv_head), v.at(s, kv_head));
      for (int64_t h = kv_head * call.group(); h < (kv_head + 1) * call.group(); ++h) {  // in order: the sums are deterministic
        rows.pack(shape, q.at(s, h), out.at(s, h), to.out.at(s, h), scale);
        backward_head(shape, rows, keys, log_sums + s.log_sums + h * s.q_rows, call.causal);
        for (float& x : rows.to_q) x *= scale;
        unpack_rows(rows.to_q, s.q_rows, shape.size, shape.width(), to.q.at(s, h));
      }
      unpack_rows(keys.to_k, s.k_rows, shape.size, shape.width(), to.k.at(s, kv_head));
      unpack_rows(keys.to_v, s.k_rows, shape.size, shape.width(), to.v.at(s, kv_head));
    }
  });
}

// q [n, Lq, heads, size], k and v [n, Lk, kv heads, size].
Heads dense(const at::Tensor& t) { return {t.data_ptr<float>(), t.stride(0), t.stride(1), t.stride(2)}; }
Call dense_call(const at::Tensor& q, const at::Tensor& k, double scale, bool causal) {
  Call call{{}, q.size(2), k.size(2), q.size(3), scale, causal};
  for (int64_t n = 0; n < q.size(0); ++n) call.segments.push_back({n, 0, q.size(1), k.size(1), n * q.size(2) * q.size(1)});
  return call;
}

// qkv [R, heads + 2 kv heads, size].
Heads slice(const at::Tensor& t, int64_t first_head) { return {t.data_ptr<float>() + first_head * t.stride(1), 0, t.stride(0), t.stride(1)}; }
Call packed_call(const at::Tensor& qkv, at::IntArrayRef offsets, int64_t heads, double scale, bool causal) {
  Call call{{}, heads, (qkv.size(1) - heads) / 2, qkv.size(2), scale, causal};
  for (size_t s = 0; s + 1 < offsets.size(); ++s)
    call.segments.push_back({0, offsets[s], offsets[s + 1] - offsets[s], offsets[s + 1] - offsets[s], offsets[s] * heads});
  return call;
}

struct AttentionFunction : torch::autograd::Function<AttentionFunction> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, double scale, bool causal) {
    const auto out = at::empty(q.sizes(), q.options()), log_sums = at::empty({q.size(0), q.size(2), q.size(1)}, q.options());
    if (!q.is_meta()) run_forward(dense_call(q, k, scale, causal), dense(q), dense(k), dense(v), dense(out), log_sums.data_ptr<float>());
    context->save_for_backward({q, k, v, out, log_sums});
    context->saved_data["scale"] = scale;
    context->saved_data["causal"] = causal;
    return out;
  }
  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const auto saved = context->get_saved_variables();
    const auto &q = saved[0], &k = saved[1], &v = saved[2];
    const auto to_out = gradients[0].stride(3) == 1 ? gradients[0] : gradients[0].contiguous();
    const auto to_q = at::empty(q.sizes(), q.options()), to_k = at::empty(k.sizes(), k.options()), to_v = at::empty(v.sizes(), v.options());
    if (!q.is_meta())
      run_backward(dense_call(q, k, context->saved_data["scale"].toDouble(), context->saved_data["causal"].toBool()), dense(q), dense(k), dense(v),
                   dense(saved[3]), saved[4].const_data_ptr<float>(), {dense(to_out), dense(to_q), dense(to_k), dense(to_v)});
    return {to_q, to_k, to_v, at::Tensor(), at::Tensor()};
  }
};

struct PackedAttentionFunction : torch::autograd::Function<PackedAttentionFunction> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& qkv, std::vector<int64_t> offsets, int64_t heads, double scale, bool causal) {
    const auto out = at::empty({qkv.size(0), heads, qkv.size(2)}, qkv.options()), log_sums = at::empty({qkv.size(0), heads}, qkv.options());
    if (!qkv.is_meta()) {
      const Call call = packed_call(qkv, offsets, heads, scale, causal);
      run_forward(call, slice(qkv, 0), slice(qkv, heads), slice(qkv, heads + call.kv_heads), slice(out, 0), log_sums.data_ptr<float>());
    }
    context->save_for_backward({qkv, out, log_sums});
    context->saved_data["offsets"] = std::move(offsets);
    context->saved_data["scale"] = scale;
    context->saved_data["causal"] = causal;
    return out;
  }
  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const auto saved = context->get_saved_variables();
    const auto &qkv = saved[0], &out = saved[1];
    const int64_t heads = out.size(1);
    const auto to_out = gradients[0].contiguous(), to_qkv = at::empty(qkv.sizes(), qkv.options());
    if (qkv.is_meta()) return {to_qkv, at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor()};
    const Call call = packed_call(qkv, context->saved_data["offsets"].toIntVector(), heads, context->saved_data["scale"].toDouble(),
                                  context->saved_data["causal"].toBool());
    run_backward(call, slice(qkv, 0), slice(qkv, heads), slice(qkv, heads + call.kv_heads), slice(out, 0), saved[2].const_data_ptr<float>(),
                 {slice(to_out, 0), slice(to_qkv, 0), slice(to_qkv, heads), slice(to_qkv, heads + call.kv_heads)});
    return {to_qkv, at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

bool cpu_attention_serves(const at::Tensor& heads) {
  if (heads.is_meta()) return true;  // `fusion plan` counts memory as our kernel, or a GPU's like it, keeps it
  return kernels::best_kernels() && heads.is_cpu() && heads.scalar_type() == at::kFloat && heads.stride(-1) == 1 && heads.size(-1) % 8 == 0;
}

bool cpu_attention_serves(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  return cpu_attention_serves(q) && cpu_attention_serves(k) && cpu_attention_serves(v);
}

at::Tensor cpu_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, double scale, bool causal) {
  return AttentionFunction::apply(q, k, v, scale, causal);
}

at::Tensor cpu_attention_packed(const at::Tensor& qkv, const std::vector<int64_t>& offsets, int64_t heads, double scale, bool causal) {
  return PackedAttentionFunction::apply(qkv, offsets, heads, scale, causal);
}

}  // namespace fusion
