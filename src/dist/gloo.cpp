#include "gloo.h"

#include "fusion/base/error.h"
#include "fusion/base/whereabouts.h"
#include "reason.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/maximum.h>
#include <gloo/config.h>
#include <gloo/rendezvous/context.h>
#include <gloo/transport/tcp/device.h>
#include <gloo/transport/unbound_buffer.h>

#include <condition_variable>
#include <cstring>
#include <deque>
#include <future>
#include <mutex>
#include <span>
#include <thread>

namespace fusion {
namespace {

using Bytes = std::span<std::byte>;

Bytes bytes_of(const at::Tensor& tensor) { return {static_cast<std::byte*>(tensor.data_ptr()), tensor.nbytes()}; }

class BoardStore : public gloo::rendezvous::Store {
 public:
  BoardStore(const Board& board, std::chrono::milliseconds timeout) : board_(board), timeout_(timeout) {}
  void set(const std::string& key, const std::vector<char>& data) override { board_.set(key, data); }
  std::vector<char> get(const std::string& key) override { return board_.get(key); }
  void wait(const std::vector<std::string>& keys) override { board_.wait(keys, timeout_); }
  void wait(const std::vector<std::string>& keys, const std::chrono::milliseconds&) override { board_.wait(keys, timeout_); }

 private:
  const Board& board_;
  std::chrono::milliseconds timeout_;
};

/// Sum in the order of the ranks, or maximum, of `world` parts of n elements that lie one after another.
void reduce_parts(const at::Tensor& out, const at::Tensor& parts, ReduceOp op) {
  const at::NoGradGuard no_grad;
  const int64_t n = out.numel(), world = n > 0 ? parts.numel() / n : 0;
  if (n == 0) return;
  const bool wide = op == ReduceOp::sum && out.scalar_type() == at::kBFloat16;  // one rounding, at the end
  at::Tensor total = wide ? parts.narrow(0, 0, n).to(at::kFloat) : out;
  if (!wide) total.copy_(parts.narrow(0, 0, n));
  for (int64_t r = 1; r < world; ++r) {
    const at::Tensor part = parts.narrow(0, r * n, n);
    if (op == ReduceOp::sum) {
      total.add_(part);
    } else {
      at::maximum_out(total, total, part);
    }
  }
  if (wide) out.copy_(total);
}

/// All verbs are made of one: exchange(), in which each rank sends a part to each other rank and receives one. A part that does not come names its
/// rank. One thread runs the verbs in the order of their start, beside the computation.
class GlooCommunicator : public Communicator {
 public:
  GlooCommunicator(const GlooOptions& options, const Board& board)
      : rank_(options.rank),
        world_(options.world),
        timeout_(options.timeout),
        start_timeout_(options.start_timeout),
        context_(static_cast<int>(rank_), static_cast<int>(world_)) {
    connect(options, board);
    worker_ = std::thread([this] { work(); });
  }

  ~GlooCommunicator() override {
    {
      const std::lock_guard lock(mutex_);
      closing_ = true;
    }
    changed_.notify_all();
    worker_.join();
  }

  int64_t rank() const override { return rank_; }
  int64_t world() const override { return world_; }
  int64_t sent_bytes() const override { return sent_; }
  void wait_for_files(bool on) override { patience_ = on ? std::max(start_timeout_, timeout_) : timeout_; }

  Pending start_all_reduce(at::Tensor flat, ReduceOp op, std::string name) override {
    verb::check_flat(flat, name);
    return start(std::move(name), [this, flat, op](const std::string& call) { all_reduce_now(flat, op, call); });
  }

  Pending start_all_gather(at::Tensor out, at::Tensor in, std::string name) override {
    verb::check_parts(out, in, world_, name);
    return start(std::move(name), [this, out, in](const std::string& call) { gather_now(out, in, call); });
  }

  Pending start_reduce_scatter(at::Tensor out, at::Tensor in, ReduceOp op, std::string name) override {
    verb::check_parts(in, out, world_, name);
    return start(std::move(name), [this, out, in, op](const std::string& call) { scatter_now(out, in, op, call); });
  }

  Pending start_broadcast(at::Tensor flat, int64_t root, std::string name) override {
    verb::check_flat(flat, name);
    verb::check_root(root, world_, name);
    return start(std::move(name), [this, flat, root](const std::string& call) {
      std::vector<Bytes> out(world_), in(world_);
      if (rank_ == root) {
        for (int64_t r = 0; r < world_; ++r) out[r] = bytes_of(flat);
      } else {
        in[root] = bytes_of(flat);
      }
      exchange(out, in, call);
    });
  }

 private:
  void connect(const GlooOptions& options, const Board& board) {
    try {
      context_.setTimeout(options.start_timeout);
      gloo::transport::tcp::attr attributes;
      attributes.hostname = options.address;
      auto device = gloo::transport::tcp::CreateDevice(attributes);
      BoardStore store(board, options.start_timeout);
      context_.connectFullMesh(store, device);
    } catch (const Error&) {
      throw;
    } catch (const std::exception& error) {
      fail(ExitCode::timeout, "dist: rank {} of {} could not connect to the others from {}: {}", rank_, world_, options.address, reason_of(error));
    }
  }

  Pending start(std::string name, std::function<void(const std::string&)> verb) {
    std::packaged_task<void()> task([this, name = std::move(name), verb = std::move(verb), patience = patience_] {
      limit_ = patience;
      if (broken_) std::rethrow_exception(broken_);
      whereabouts::call_begins(name);
      try {
        verb(name);
        whereabouts::call_ends();
      } catch (...) {
        broken_ = std::current_exception();
        throw;
      }
    });
    auto done = std::make_shared<std::future<void>>(task.get_future());
    {
      const std::lock_guard lock(mutex_);
      tasks_.push_back(std::move(task));
    }
    changed_.notify_all();
    return Pending([done] { done->get(); });
  }

  void work() {
    while (true) {
      std::packaged_task<void()> task;
      {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [this] { return closing_ || !tasks_.empty(); });
        if (tasks_.empty()) return;
        task = std::move(tasks_.front());
        tasks_.pop_front();
      }
      task();
    }
  }

  void all_reduce_now(const at::Tensor& flat, ReduceOp op, const std::string& name) {
    // Few numbers go to everyone at once; many are summed where they belong first.
    const int64_t n = flat.numel();
    if (n < world_ * 1024) {
      const at::Tensor parts = at::empty({world_ * n}, flat.options());
      gather_now(parts, flat, name);
      return reduce_parts(flat, parts, op);
    }
    const int64_t part = (n + world_ - 1) / world_;
    at::Tensor padded = flat;
    if (part * world_ != n) {
      padded = at::empty({part * world_}, flat.options());
      padded.narrow(0, 0, n).copy_(flat);
      padded.narrow(0, n, part * world_ - n).zero_();
    }
    const at::Tensor own = padded.narrow(0, rank_ * part, part);
    const at::Tensor sum = at::empty({part}, flat.options());
    scatter_now(sum, padded, op, name);
    own.copy_(sum);
    gather_now(padded, own, name);
    if (!padded.is_same(flat)) flat.copy_(padded.narrow(0, 0, n));
  }

  void gather_now(const at::Tensor& out, const at::Tensor& in, const std::string& name) {
    const size_t part = in.nbytes();
    std::vector<Bytes> to(world_, bytes_of(in)), from(world_);
    for (int64_t r = 0; r < world_; ++r) from[r] = bytes_of(out).subspan(static_cast<size_t>(r) * part, part);
    if (part > 0 && from[rank_].data() != to[rank_].data()) std::memcpy(from[rank_].data(), to[rank_].data(), part);
    exchange(to, from, name);
  }

  void scatter_now(const at::Tensor& out, const at::Tensor& in, ReduceOp op, const std::string& name) {
    const size_t part = out.nbytes();
    const at::Tensor parts = at::empty({in.numel()}, in.options());
    std::vector<Bytes> to(world_), from(world_);
    for (int64_t r = 0; r < world_; ++r) {
      to[r] = bytes_of(in).subspan(static_cast<size_t>(r) * part, part);
      from[r] = bytes_of(parts).subspan(static_cast<size_t>(r) * part, part);
    }
    if (part > 0) std::memcpy(from[rank_].data(), to[rank_].data(), part);
    exchange(to, from, name);
    reduce_parts(out, parts, op);
  }

  /// Sends to[r] to rank r and fills from[r] with what it sends; empty parts are not sent.
  void exchange(const std::vector<Bytes>& to, const std::vector<Bytes>& from, const std::string& name) {
    using Buffer = std::unique_ptr<gloo::transport::UnboundBuffer>;
    const uint64_t slot = ++exchanges_;
    const auto deadline = std::chrono::steady_clock::now() + limit_;
    std::vector<Buffer> sending(world_), receiving(world_);
    int64_t peer = rank_;
    try {
      for (int64_t step = 1; step < world_; ++step) {
        peer = (rank_ + step) % world_;
        if (!from[peer].empty()) {
          receiving[peer] = context_.createUnboundBuffer(from[peer].data(), from[peer].size());
          receiving[peer]->recv(static_cast<int>(peer), slot);
        }
        if (to[peer].empty()) continue;
        sending[peer] = context_.createUnboundBuffer(to[peer].data(), to[peer].size());
        sending[peer]->send(static_cast<int>(peer), slot);
        sent_ += static_cast<int64_t>(to[peer].size());
      }
      for (int64_t step = 1; step < world_; ++step) {
        peer = (rank_ + step) % world_;
        if (receiving[peer]) receiving[peer]->waitRecv(deadline);
        if (sending[peer]) sending[peer]->waitSend(deadline);
      }
    } catch (const std::exception& error) {
      if (std::chrono::steady_clock::now() >= deadline)
        fail(ExitCode::timeout, "dist: rank {} of {}: {}{}: no answer from rank {} in {} s (it hangs, or is slower than runtime.timeout allows)",
             rank_, world_, whereabouts::step_prefix(), name, peer, std::chrono::duration<double>(limit_).count());
      fail(ExitCode::requeue, "dist: rank {} of {}: {}{}: rank {} is gone ({})", rank_, world_, whereabouts::step_prefix(), name, peer,
           reason_of(error));
    }
  }

  const int64_t rank_, world_;
  const std::chrono::milliseconds timeout_, start_timeout_;
  std::chrono::milliseconds patience_ = timeout_;  // of the calls that are started now
  std::chrono::milliseconds limit_ = timeout_;     // of the call that the worker thread runs
  gloo::rendezvous::Context context_;
  uint64_t exchanges_ = 0;
  std::atomic<int64_t> sent_{0};
  std::exception_ptr broken_;  // of the worker thread

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::packaged_task<void()>> tasks_;
  bool closing_ = false;
  std::thread worker_;
};

}  // namespace

std::string gloo_version() { return fmt::format("{}.{}.{}", GLOO_VERSION_MAJOR, GLOO_VERSION_MINOR, GLOO_VERSION_PATCH); }

std::unique_ptr<Communicator> connect_gloo(const GlooOptions& options, const Board& board) {
  return std::make_unique<GlooCommunicator>(options, board);
}

}  // namespace fusion
