#include "fusion/nn/cheap.h"

#include "fusion/nn/memory.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <utility>

namespace fusion {
namespace {

thread_local CheapOutputs* noted_by = nullptr;

}  // namespace

CheapOutputs::Scope::Scope(CheapOutputs& outputs) : outer_(std::exchange(noted_by, &outputs)) {}
CheapOutputs::Scope::~Scope() { noted_by = outer_; }

CheapOutputs* CheapOutputs::noting() { return noted_by; }

void CheapOutputs::note(at::Tensor output, std::function<at::Tensor()> make) { outputs_.push_back({std::move(output), std::move(make)}); }

void CheapOutputs::drop(const std::vector<at::Tensor>& needed) {
  std::erase_if(outputs_, [&](const Output& output) {
    const at::Tensor& tensor = output.tensor;
    const bool held = tensor.use_count() > 1 || tensor.storage().use_count() > 1;  // a frozen layer keeps nothing
    return !held || std::any_of(needed.begin(), needed.end(), [&](const at::Tensor& other) { return other.is_alias_of(tensor); });
  });
  for (const Output& output : outputs_) take_memory(output.tensor);
}

void CheapOutputs::restore() {
  const at::NoGradGuard no_grad;
  for (const Output& output : outputs_) {
    const at::Tensor again = output.make();
    give_memory(output.tensor, again);
  }
  outputs_.clear();
}

}  // namespace fusion
