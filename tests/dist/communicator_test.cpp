#include "fusion/dist/communicator.h"

#include "fusion/base/error.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

namespace fusion {
namespace {

TEST(SingleProcess, VerbsGiveTheOnlyRanksData) {
  SingleProcess comm;
  EXPECT_EQ(comm.rank(), 0);
  EXPECT_EQ(comm.world(), 1);
  const at::Tensor data = at::arange(5, at::kFloat);
  at::Tensor reduced = data.clone(), gathered = at::zeros({5}), scattered = at::zeros({5}), sent = data.clone();
  comm.all_reduce(reduced, ReduceOp::sum, "sum");
  comm.all_gather(gathered, data, "gather");
  comm.reduce_scatter(scattered, data, ReduceOp::max, "scatter");
  comm.broadcast(sent, 0, "send");
  comm.barrier("wait");
  for (const at::Tensor& result : {reduced, gathered, scattered, sent}) EXPECT_TRUE(at::equal(result, data));
}

template <class F>
std::string failure(F f) {
  try {
    f();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::failure);
    return error.what();
  }
  return "";
}

TEST(SingleProcess, BrokenContractsNameTheCall) {
  SingleProcess comm;
  at::Tensor square = at::zeros({2, 2}), five = at::zeros({5}), four = at::zeros({4}), whole = at::zeros({5}, at::kLong), undefined;
  at::Tensor strided = at::zeros({10}).slice(0, 0, 10, 2);
  EXPECT_NE(failure([&] { comm.all_reduce(square, ReduceOp::sum, "loss counts"); }).find("loss counts"), std::string::npos);
  EXPECT_NE(failure([&] { comm.all_reduce(strided, ReduceOp::sum, "a"); }), "");
  EXPECT_NE(failure([&] { comm.all_reduce(undefined, ReduceOp::sum, "b"); }), "");
  EXPECT_NE(failure([&] { comm.all_gather(five, four, "c"); }), "");
  EXPECT_NE(failure([&] { comm.reduce_scatter(whole, five, ReduceOp::sum, "d"); }), "");
  EXPECT_NE(failure([&] { comm.broadcast(five, 1, "e"); }), "");
}

}  // namespace
}  // namespace fusion
