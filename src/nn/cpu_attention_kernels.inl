// Included by cpu_attention_avx512.cpp and cpu_attention_avx2.cpp inside an unnamed namespace, after `Vec`: the instruction set's vector of
// Vec::lanes floats, and kGroup: rows whose kTileVectors sums fit the registers together.

constexpr int64_t kTileVectors = 3, kWidthVectors = 2;
static_assert(kTile % (kTileVectors * Vec::lanes) == 0 && kLanes % Vec::lanes == 0 && kRows % kGroup == 0);

// Sums stay in registers only when no index is a variable.
#define FUSION_UNROLL _Pragma("GCC unroll 8")

// exp(x) for x <= 88 to about one unit in the last place: x = n ln 2 + r, a polynomial in r, scaled by 2^n.
inline Vec exp(Vec x) {
  const Vec n = round(x * Vec(1.44269504F));
  Vec r = subtract_product(n, Vec(0.693359375F), x);
  r = subtract_product(n, Vec(-2.12194440e-4F), r);
  Vec p = add_product(Vec(1.9875691500e-4F), r, Vec(1.3981999507e-3F));
  p = add_product(p, r, Vec(8.3334519073e-3F));
  p = add_product(p, r, Vec(4.1665795894e-2F));
  p = add_product(p, r, Vec(1.6666665459e-1F));
  p = add_product(p, r, Vec(5.0000001201e-1F));
  p = add_product(p, r * r, r + Vec(1.0F));
  return scale_by_power(p, n);
}

inline void score_tile(const float* a, int64_t lda, const float* tile, int64_t depth, float* out, int64_t ldo) {
  Vec sum[kGroup][kTileVectors];
  FUSION_UNROLL for (int r = 0; r < kGroup; ++r) FUSION_UNROLL for (int v = 0; v < kTileVectors; ++v) sum[r][v] = Vec(0.0F);
  for (int64_t c = 0; c < depth; ++c) {
    Vec b[kTileVectors];
    FUSION_UNROLL for (int v = 0; v < kTileVectors; ++v) b[v] = Vec::load(tile + c * kTile + v * Vec::lanes);
    FUSION_UNROLL for (int r = 0; r < kGroup; ++r) {
      const Vec x(a[r * lda + c]);
      FUSION_UNROLL for (int v = 0; v < kTileVectors; ++v) sum[r][v] = add_product(x, b[v], sum[r][v]);
    }
  }
  FUSION_UNROLL for (int r = 0; r < kGroup; ++r) FUSION_UNROLL for (int v = 0; v < kTileVectors; ++v) sum[r][v].store(out + r * ldo + v * Vec::lanes);
}

template <int V>
inline void product_tile(const float* p, int64_t ldp, const float* m, int64_t ldm, int64_t n, float* out, int64_t ldo) {
  Vec sum[kGroup][V];
  FUSION_UNROLL for (int r = 0; r < kGroup; ++r) FUSION_UNROLL for (int v = 0; v < V; ++v) sum[r][v] = Vec::load(out + r * ldo + v * Vec::lanes);
  for (int64_t j = 0; j < n; ++j) {
    Vec b[V];
    FUSION_UNROLL for (int v = 0; v < V; ++v) b[v] = Vec::load(m + j * ldm + v * Vec::lanes);
    FUSION_UNROLL for (int r = 0; r < kGroup; ++r) {
      const Vec x(p[r * ldp + j]);
      FUSION_UNROLL for (int v = 0; v < V; ++v) sum[r][v] = add_product(x, b[v], sum[r][v]);
    }
  }
  FUSION_UNROLL for (int r = 0; r < kGroup; ++r) FUSION_UNROLL for (int v = 0; v < V; ++v) sum[r][v].store(out + r * ldo + v * Vec::lanes);
}

template <int V>
inline void outer_tile(const float* p, int64_t ldp, const float* x, int64_t ldx, int64_t n, float* out, int64_t ldo) {
  Vec rows[kGroup][V];
  FUSION_UNROLL for (int r = 0; r < kGroup; ++r) FUSION_UNROLL for (int v = 0; v < V; ++v) rows[r][v] = Vec::load(x + r * ldx + v * Vec::lanes);
  for (int64_t j = 0; j < n; ++j) {
    Vec sum[V];
    FUSION_UNROLL for (int v = 0; v < V; ++v) sum[v] = Vec::load(out + j * ldo + v * Vec::lanes);
    FUSION_UNROLL for (int r = 0; r < kGroup; ++r) {
      const Vec w(p[r * ldp + j]);
      FUSION_UNROLL for (int v = 0; v < V; ++v) sum[v] = add_product(w, rows[r][v], sum[v]);
    }
    FUSION_UNROLL for (int v = 0; v < V; ++v) sum[v].store(out + j * ldo + v * Vec::lanes);
  }
}

void copy_row(const float* from, int64_t n, float scale, float* to, int64_t width) {
  for (int64_t c = 0; c < width; c += Vec::lanes) (Vec::load_first(from + c, n - c) * Vec(scale)).store(to + c);
}

void pack_tiles(const float* from, int64_t stride, int64_t rows, int64_t depth, float* to) {
  const int64_t columns = padded(rows, kTile);
  for (int64_t first = 0; first < columns; first += Vec::lanes) {
    float* tile = to + first / kTile * kTile * depth + first % kTile;
    for (int64_t c = 0; c < depth; ++c) Vec::gather_first(from + first * stride + c, stride, rows - first).store(tile + c * kTile);
  }
}

void rows_times_tiles(const float* a, int64_t lda, const float* tiles, int64_t depth, int64_t columns, float* out, int64_t ldo) {
  constexpr int64_t kStep = kTileVectors * Vec::lanes;
  for (int64_t j = 0; j < columns; j += kStep)
    for (int64_t r = 0; r < kRows; r += kGroup)
      score_tile(a + r * lda, lda, tiles + j / kTile * kTile * depth + j % kTile, depth, out + r * ldo + j, ldo);
}

void add_product(const float* p, int64_t ldp, const float* m, int64_t width, int64_t n, float* out, int64_t ldo) {
  for (int64_t r = 0; r < kRows; r += kGroup) {
    int64_t c = 0;
    for (; c + kWidthVectors * Vec::lanes <= width; c += kWidthVectors * Vec::lanes)
      product_tile<kWidthVectors>(p + r * ldp, ldp, m + c, width, n, out + r * ldo + c, ldo);
    if (c < width) product_tile<1>(p + r * ldp, ldp, m + c, width, n, out + r * ldo + c, ldo);
  }
}

void add_outer(const float* p, int64_t ldp, const float* x, int64_t width, int64_t n, float* out, int64_t ldo) {
  for (int64_t r = 0; r < kRows; r += kGroup) {
    int64_t c = 0;
    for (; c + kWidthVectors * Vec::lanes <= width; c += kWidthVectors * Vec::lanes)
      outer_tile<kWidthVectors>(p + r * ldp, ldp, x + r * width + c, width, n, out + c, ldo);
    if (c < width) outer_tile<1>(p + r * ldp, ldp, x + r * width + c, width, n, out + c, ldo);
  }
}

std::pair<float, float> softmax_row(float* row, int64_t n, int64_t end) {
  Vec top(-INFINITY);
  int64_t whole = 0;
  for (; whole + Vec::lanes <= n; whole += Vec::lanes) top = maximum(top, Vec::load(row + whole));
  float max = largest(top);
  for (int64_t j = whole; j < n; ++j) max = std::max(max, row[j]);
  Vec total(0.0F);
  for (int64_t j = 0; j < end; j += Vec::lanes) {
    const Vec e = keep_first(exp(Vec::load(row + j) - Vec(max)), n - j);
    e.store(row + j);
    total = total + e;
  }
  const float sum = sum_of(total);
  return {max + std::log(sum), sum};
}

void softmax_backward_row(float* weights, float* slopes, int64_t n, int64_t end, float log_sum, float delta) {
  for (int64_t j = 0; j < end; j += Vec::lanes) {
    const Vec w = keep_first(exp(Vec::load(weights + j) - Vec(log_sum)), n - j);
    w.store(weights + j);
    (w * (Vec::load(slopes + j) - Vec(delta))).store(slopes + j);
  }
}

constexpr Kernels kTable{copy_row, pack_tiles, rows_times_tiles, add_product, add_outer, softmax_row, softmax_backward_row};

#undef FUSION_UNROLL
