#include "fusion/dist/communicator.h"

#include "fusion/base/error.h"

#include <ATen/core/grad_mode.h>

namespace fusion {
namespace verb {

void check_flat(const at::Tensor& tensor, const Call& call) {
  if (!tensor.defined() || tensor.dim() != 1 || !tensor.is_contiguous())
    fail(ExitCode::failure, "dist: {}: the tensor is not flat and contiguous", call.name);
}

void check_parts(const at::Tensor& whole, const at::Tensor& part, int64_t world, const Call& call) {
  check_flat(whole, call);
  check_flat(part, call);
  if (whole.numel() != world * part.numel())
    fail(ExitCode::failure, "dist: {}: {} elements are not {} parts of {}", call.name, whole.numel(), world, part.numel());
  if (whole.scalar_type() != part.scalar_type() || whole.device() != part.device())
    fail(ExitCode::failure, "dist: {}: types or devices of the two tensors differ", call.name);
}

void check_root(int64_t root, int64_t world, const Call& call) {
  if (root < 0 || root >= world) fail(ExitCode::failure, "dist: {}: root {} is none of {} ranks", call.name, root, world);
}

}  // namespace verb

// With one rank a sum, a maximum and a copy of another rank's data are the rank's own data.

void SingleProcess::all_reduce(at::Tensor& flat, ReduceOp, const Call& call) { verb::check_flat(flat, call); }

void SingleProcess::all_gather(at::Tensor& out, const at::Tensor& in, const Call& call) {
  verb::check_parts(out, in, world(), call);
  const at::NoGradGuard no_grad;
  out.copy_(in);
}

void SingleProcess::reduce_scatter(at::Tensor& out, const at::Tensor& in, ReduceOp, const Call& call) {
  verb::check_parts(in, out, world(), call);
  const at::NoGradGuard no_grad;
  out.copy_(in);
}

void SingleProcess::broadcast(at::Tensor& flat, int64_t root, const Call& call) {
  verb::check_flat(flat, call);
  verb::check_root(root, world(), call);
}

void SingleProcess::barrier(const Call&) {}

}  // namespace fusion
