#include "fusion/base/error.h"
#include "ranks_in_threads.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <latch>

namespace fusion {
namespace {

using test::all_of;
using test::run_ranks;
using test::TempFolder;
using testing::HasSubstr;

/// What a rank holds: any rank can work out what all others hold.
at::Tensor data_of(int64_t rank, int64_t n, at::ScalarType type) {
  const at::Tensor values = at::arange(n, at::kFloat) * 0.37 + static_cast<double>(rank) * 1.1 - 3;
  return (type == at::kLong ? values * 100 : values).to(type);
}

/// The plain sum in the order of the ranks; bf16 is rounded once.
at::Tensor plain_sum(int64_t world, int64_t n, at::ScalarType type) {
  const at::ScalarType wide = type == at::kBFloat16 ? at::kFloat : type;
  at::Tensor sum = data_of(0, n, type).to(wide);
  for (int64_t r = 1; r < world; ++r) sum += data_of(r, n, type).to(wide);
  return sum.to(type);
}

TEST(Gloo, VerbsEqualAPlainLoopOverTheRanks) {
  for (const int64_t world : {2, 3, 4})
    run_ranks(world, [world](int64_t rank, const Rendezvous& rendezvous) {
      const auto comm = rendezvous.connect("all", all_of(world), at::kCPU);
      ASSERT_EQ(comm->rank(), rank);
      ASSERT_EQ(comm->world(), world);
      for (const auto type : {at::kFloat, at::kDouble, at::kBFloat16, at::kLong})
        for (const int64_t n : {1, 7, 1000, 30011}) {  // both ways of all_reduce, with and without a remainder
          at::Tensor sum = data_of(rank, n, type);
          comm->all_reduce(sum, ReduceOp::sum, "sum");
          EXPECT_TRUE(at::equal(sum, plain_sum(world, n, type))) << type << " " << n;

          at::Tensor most = data_of(rank, n, type);
          comm->all_reduce(most, ReduceOp::max, "max");
          EXPECT_TRUE(at::equal(most, data_of(world - 1, n, type)));

          at::Tensor gathered = at::empty({world * n}, type);
          comm->all_gather(gathered, data_of(rank, n, type), "gather");
          for (int64_t r = 0; r < world; ++r) EXPECT_TRUE(at::equal(gathered.narrow(0, r * n, n), data_of(r, n, type)));

          at::Tensor own = at::empty({n}, type);
          comm->reduce_scatter(own, data_of(rank, n * world, type), ReduceOp::sum, "scatter");
          EXPECT_TRUE(at::equal(own, plain_sum(world, n * world, type).narrow(0, rank * n, n)));

          at::Tensor sent = data_of(rank, n, type);
          comm->broadcast(sent, world - 1, "send");
          EXPECT_TRUE(at::equal(sent, data_of(world - 1, n, type)));
        }
      comm->barrier("end");
      const auto texts = comm->gather_texts(std::string(static_cast<size_t>(rank), 'x'), "texts");
      for (int64_t r = 0; r < world; ++r) EXPECT_EQ(texts[static_cast<size_t>(r)], std::string(static_cast<size_t>(r), 'x'));
    });
}

TEST(Gloo, GathersInPlaceAndCountsWhatItSends) {
  run_ranks(3, [](int64_t rank, const Rendezvous& rendezvous) {
    const auto comm = rendezvous.connect("all", all_of(3), at::kCPU);
    const at::Tensor whole = at::zeros({30});
    whole.narrow(0, rank * 10, 10).fill_(static_cast<double>(rank + 1));
    comm->all_gather(whole, whole.narrow(0, rank * 10, 10), "gather");
    for (int64_t r = 0; r < 3; ++r) EXPECT_TRUE(at::equal(whole.narrow(0, r * 10, 10), at::full({10}, static_cast<double>(r + 1))));
    EXPECT_EQ(comm->sent_bytes(), 2 * 40);
  });
}

TEST(Gloo, StartedCallsRunInOrderBesideTheCaller) {
  run_ranks(2, [](int64_t rank, const Rendezvous& rendezvous) {
    const auto comm = rendezvous.connect("all", all_of(2), at::kCPU);
    std::vector<at::Tensor> values;
    std::vector<Pending> pending;
    for (int64_t i = 0; i < 50; ++i) {
      values.push_back(at::full({100}, static_cast<double>(rank + i)));
      pending.push_back(comm->start_all_reduce(values.back(), ReduceOp::sum, "sum"));
    }
    for (size_t i = 50; i-- > 0;) pending[i].wait();
    for (size_t i = 0; i < 50; ++i) EXPECT_EQ(values[i][0].item<float>(), static_cast<float>(2 * i + 1));
  });
}

TEST(Gloo, GroupsOfSomeRanksDoNotMeetTheOthers) {
  run_ranks(4, [](int64_t rank, const Rendezvous& rendezvous) {
    const std::vector<int64_t> pair = rank < 2 ? std::vector<int64_t>{0, 1} : std::vector<int64_t>{2, 3};
    const auto comm = rendezvous.connect(rank < 2 ? "low" : "high", pair, at::kCPU);
    at::Tensor sum = at::full({1}, rank, at::kLong);
    comm->all_reduce(sum, ReduceOp::sum, "sum");
    EXPECT_EQ(sum.item<int64_t>(), rank < 2 ? 1 : 5);
  });
}

std::string failure(const std::function<void()>& work, ExitCode code) {
  try {
    work();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code);
    return error.what();
  }
  return "";
}

TEST(Gloo, AnEndedRankIsNamedAtOnceAndTheCommunicatorStaysBroken) {
  run_ranks(3, [](int64_t rank, const Rendezvous& rendezvous) {
    const auto comm = rendezvous.connect("all", all_of(3), at::kCPU);
    if (rank == 1) return;  // its communicator closes
    at::Tensor sum = at::zeros({1});
    const std::string text = failure([&] { comm->all_reduce(sum, ReduceOp::sum, "losses"); }, ExitCode::requeue);
    EXPECT_THAT(text, HasSubstr("losses"));
    if (rank == 0) {
      EXPECT_THAT(text, HasSubstr("rank 1 is gone"));
    }
    EXPECT_EQ(failure([&] { comm->barrier("next"); }, ExitCode::requeue), text);
  });
}

TEST(Gloo, ASilentRankIsNamedAfterTheTimeout) {
  RendezvousOptions options;
  options.timeout = std::chrono::milliseconds(200);
  std::latch done(1);
  run_ranks(
      2,
      [&done](int64_t rank, const Rendezvous& rendezvous) {
        const auto comm = rendezvous.connect("all", all_of(2), at::kCPU);
        if (rank == 1) return done.wait();
        at::Tensor sum = at::zeros({1});
        EXPECT_THAT(failure([&] { comm->all_reduce(sum, ReduceOp::sum, "losses"); }, ExitCode::timeout), HasSubstr("losses: no answer from rank 1"));
        done.count_down();
      },
      options);
}

TEST(Gloo, WorkOnFilesMayTakeLongerThanACall) {
  RendezvousOptions options;
  options.timeout = std::chrono::milliseconds(100);
  run_ranks(
      2,
      [](int64_t rank, const Rendezvous& rendezvous) {
        const auto comm = rendezvous.connect("all", all_of(2), at::kCPU);
        const auto texts = together(*comm, "save", [rank] {
          if (rank == 1) std::this_thread::sleep_for(std::chrono::milliseconds(400));
          return std::to_string(rank);
        });
        EXPECT_EQ(texts, (std::vector<std::string>{"0", "1"}));
        if (rank == 1) std::this_thread::sleep_for(std::chrono::milliseconds(400));  // and only that
        at::Tensor sum = at::zeros({1});
        if (rank == 0) failure([&] { comm->all_reduce(sum, ReduceOp::sum, "losses"); }, ExitCode::timeout);
      },
      options);
}

TEST(Gloo, ARankThatDoesNotComeIsNamed) {
  const TempFolder folder;
  Ranks ranks;
  ranks.world = ranks.local_world = 2;
  ranks.rendezvous = folder.path();
  RendezvousOptions options;
  options.start_timeout = std::chrono::milliseconds(300);
  EXPECT_THAT(failure([&] { Rendezvous(ranks, options); }, ExitCode::timeout), HasSubstr("for rank 1, which did not come"));
}

TEST(CheckCalls, DifferentCallsAreRefusedWithBothSides) {
  RendezvousOptions options;
  options.check = true;
  run_ranks(
      2,
      [](int64_t rank, const Rendezvous& rendezvous) {
        const auto comm = rendezvous.connect("all", all_of(2), at::kCPU);
        at::Tensor same = at::zeros({4});
        comm->all_reduce(same, ReduceOp::sum, "same");
        at::Tensor other = at::zeros({rank == 0 ? 4 : 5});
        const std::string text = failure([&] { comm->all_reduce(other, ReduceOp::sum, rank == 0 ? "losses" : "norm"); }, ExitCode::failure);
        EXPECT_THAT(text, HasSubstr("4 Float on cpu, 'losses'"));
        EXPECT_THAT(text, HasSubstr("5 Float on cpu, 'norm'"));
      },
      options);
}

}  // namespace
}  // namespace fusion
