#include "fusion/train/runtime.h"

#include "fusion/config/config.h"

#include <ATen/Parallel.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace fusion {
namespace {

struct Product {
  int64_t rows, inner, columns;
};

// The three forms of a layer's products: y = x W^T, dx = dy W, dW = dy^T x.
at::Tensor multiply(const at::Tensor& x, const at::Tensor& w, const at::Tensor& to_y, int form) {
  return form == 0 ? x.mm(w.t()) : form == 1 ? to_y.mm(w) : to_y.t().mm(x);
}

// How many of `repeats` products of two threads differ in any bit from that of `threads`.
int64_t differing(Product size, int form, int repeats, int threads) {
  const auto x = at::randn({size.rows, size.inner}), w = at::randn({size.columns, size.inner}), to_y = at::randn({size.rows, size.columns});
  at::set_num_threads(threads);
  const auto first = multiply(x, w, to_y, form);
  at::set_num_threads(2);
  int64_t count = 0;
  for (int i = 0; i < repeats; ++i) count += multiply(x, w, to_y, form).equal(first) ? 0 : 1;
  return count;
}

[[noreturn]] void repeat_products() {
  RuntimeConfig config;
  config.threads = 2;
  config.device = Device::cpu;
  setup_runtime(config);
  // The strict mode promises more: bits that do not depend on the number of threads. Repeats alone rarely show that threads share a sum.
  const char* mode = std::getenv("MKL_CBWR");
  const int threads = mode != nullptr && std::strstr(mode, "STRICT") != nullptr ? 1 : 2;
  int64_t count = 0;
  // Widths of small towers and decoders; few and many rows, so that threads share rows, columns or the sum.
  for (const Product size : {Product{1500, 96, 288}, {700, 352, 128}, {700, 128, 704}, {64, 128, 700}, {3000, 64, 40}, {9, 4000, 33}})
    for (int form = 0; form < 3; ++form) count += differing(size, form, 100, threads);
  std::fprintf(stderr, "%ld differ\n", static_cast<long>(count));
  std::_Exit(count == 0 ? 0 : 1);
}

// In a process of its own: MKL takes its mode at the first product.
TEST(Runtime, ProductsOfSeveralThreadsHaveTheSameBitsInEveryRepeat) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(repeat_products(), testing::ExitedWithCode(0), "0 differ");
}

}  // namespace
}  // namespace fusion
