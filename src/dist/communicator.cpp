#include "fusion/dist/communicator.h"

#include "fusion/base/error.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cstring>

namespace fusion {
namespace verb {

void check_flat(const at::Tensor& tensor, const std::string& name) {
  if (!tensor.defined() || tensor.dim() != 1 || !tensor.is_contiguous())
    fail(ExitCode::failure, "dist: {}: the tensor is not flat and contiguous", name);
}

void check_parts(const at::Tensor& whole, const at::Tensor& part, int64_t world, const std::string& name) {
  check_flat(whole, name);
  check_flat(part, name);
  if (whole.numel() != world * part.numel())
    fail(ExitCode::failure, "dist: {}: {} elements are not {} parts of {}", name, whole.numel(), world, part.numel());
  if (whole.scalar_type() != part.scalar_type() || whole.device() != part.device())
    fail(ExitCode::failure, "dist: {}: types or devices of the two tensors differ", name);
}

void check_root(int64_t root, int64_t world, const std::string& name) {
  if (root < 0 || root >= world) fail(ExitCode::failure, "dist: {}: root {} is none of {} ranks", name, root, world);
}

}  // namespace verb

void Communicator::barrier(const std::string& name) { all_reduce(at::zeros({1}, at::kLong), ReduceOp::max, name); }

std::vector<std::string> Communicator::gather_texts(const std::string& text, const std::string& name) {
  at::Tensor size = at::full({1}, static_cast<int64_t>(text.size()), at::kLong), sizes = at::empty({world()}, at::kLong);
  all_gather(sizes, size, name + " (sizes)");
  const int64_t* length = sizes.const_data_ptr<int64_t>();
  const int64_t longest = std::max<int64_t>(*std::max_element(length, length + world()), 1);
  at::Tensor part = at::zeros({longest}, at::kByte), whole = at::empty({world() * longest}, at::kByte);
  std::memcpy(part.mutable_data_ptr<uint8_t>(), text.data(), text.size());
  all_gather(whole, part, name);
  std::vector<std::string> texts;
  for (int64_t r = 0; r < world(); ++r)
    texts.emplace_back(reinterpret_cast<const char*>(whole.const_data_ptr<uint8_t>()) + r * longest, static_cast<size_t>(length[r]));
  return texts;
}

std::vector<std::string> together(Communicator& comm, const std::string& name, const std::function<std::string()>& work) {
  std::string text = "0";
  std::exception_ptr failure;
  try {
    text += work();
  } catch (const Error& error) {
    failure = std::current_exception();
    text = fmt::format("{} {}", static_cast<int>(error.code()), error.what());
  } catch (const std::exception& error) {
    failure = std::current_exception();
    text = fmt::format("{} {}", static_cast<int>(ExitCode::failure), error.what());
  }
  comm.wait_for_files(true);
  std::vector<std::string> texts = comm.gather_texts(text, name);
  comm.wait_for_files(false);
  if (failure) std::rethrow_exception(failure);
  for (int64_t r = 0; r < comm.world(); ++r) {
    const std::string& theirs = texts[static_cast<size_t>(r)];
    if (theirs.starts_with('0')) continue;
    throw Error(static_cast<ExitCode>(std::stoi(theirs)), fmt::format("rank {}: {}", r, theirs.substr(theirs.find(' ') + 1)));
  }
  for (std::string& theirs : texts) theirs.erase(0, 1);
  return texts;
}

// With one rank a sum, a maximum and a copy of another rank's data are the rank's own data.

Pending SingleProcess::start_all_reduce(at::Tensor flat, ReduceOp, std::string name) {
  verb::check_flat(flat, name);
  return {};
}

Pending SingleProcess::start_all_gather(at::Tensor out, at::Tensor in, std::string name) {
  verb::check_parts(out, in, world(), name);
  const at::NoGradGuard no_grad;
  if (out.data_ptr() != in.data_ptr()) out.copy_(in);
  return {};
}

Pending SingleProcess::start_reduce_scatter(at::Tensor out, at::Tensor in, ReduceOp, std::string name) {
  verb::check_parts(in, out, world(), name);
  const at::NoGradGuard no_grad;
  out.copy_(in);
  return {};
}

Pending SingleProcess::start_broadcast(at::Tensor flat, int64_t root, std::string name) {
  verb::check_flat(flat, name);
  verb::check_root(root, world(), name);
  return {};
}

}  // namespace fusion
