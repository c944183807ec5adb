#include "fusion/nn/parameter.h"

#include "fusion/base/error.h"
#include "fusion/base/random.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>

#include <functional>
#include <numeric>

namespace fusion {
namespace {

// FNV-1a: the same on every platform, unlike std::hash.
uint64_t stable_hash(const std::string& text) {
  uint64_t hash = 14695981039346656037ULL;
  for (const unsigned char c : text) hash = (hash ^ c) * 1099511628211ULL;
  return hash;
}

void fill(at::Tensor& tensor, const Init& init, uint64_t seed) {
  if (init.kind == Init::Kind::constant) {
    tensor.fill_(init.scale);
    return;
  }
  auto host = tensor.is_cpu() ? tensor : at::empty(tensor.sizes(), tensor.options().device(at::kCPU));
  auto generator = at::make_generator<at::CPUGeneratorImpl>(seed);
  if (init.kind == Init::Kind::normal) {
    host.normal_(0.0, init.scale, generator);
  } else {
    host.uniform_(-init.scale, init.scale, generator);
  }
  if (!tensor.is_cpu()) tensor.copy_(host);
}

}  // namespace

int64_t Parameter::numel() const { return std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>()); }

bool Unit::trains() const {
  for (const Parameter* parameter : parameters)
    if (parameter->train && parameter->used) return true;
  return false;
}

Unit& ParameterStore::add_unit(std::string name) { return units_.emplace_back(Unit{std::move(name), {}}); }

Parameter& ParameterStore::add(Unit& unit, std::string name, std::vector<int64_t> shape, Init init) {
  if (by_name_.contains(name)) fail(ExitCode::failure, "model: parameter {} is registered twice", name);
  Parameter& parameter = parameters_.emplace_back();
  parameter.name = std::move(name);
  parameter.shape = std::move(shape);
  parameter.end = parameter.numel();
  parameter.init = init;
  by_name_[parameter.name] = &parameter;
  unit.parameters.push_back(&parameter);
  return parameter;
}

Parameter* ParameterStore::find(const std::string& name) {
  const auto it = by_name_.find(name);
  return it == by_name_.end() ? nullptr : it->second;
}

int64_t ParameterStore::numel() const {
  int64_t total = 0;
  for (const Parameter& parameter : parameters_) total += parameter.numel();
  return total;
}

void ParameterStore::allocate(bool masters) {
  const auto options = at::TensorOptions().device(device_);
  for (Parameter& parameter : parameters_) {
    if (masters) parameter.master = at::empty(parameter.shape, options.dtype(at::kFloat));
    parameter.value = masters && dtype_ == at::kFloat ? parameter.master : at::empty(parameter.shape, options.dtype(dtype_));
    parameter.value.requires_grad_(masters && parameter.train && parameter.used);
  }
}

void ParameterStore::initialize(uint64_t seed) {
  const at::NoGradGuard no_grad;
  for (Parameter& parameter : parameters_) {
    if (parameter.sharded) {
      if (parameter.end > parameter.begin) assign(parameter, start_value(parameter, seed));
      continue;
    }
    auto target = (parameter.master.defined() ? parameter.master : parameter.value).detach();
    fill(target, parameter.init, random_bits({seed, stable_hash(parameter.name)}));
  }
  refresh_values();
}

at::Tensor ParameterStore::start_value(const Parameter& parameter, uint64_t seed) {
  const at::NoGradGuard no_grad;
  auto tensor = at::empty(parameter.shape, at::TensorOptions().dtype(at::kFloat));
  fill(tensor, parameter.init, random_bits({seed, stable_hash(parameter.name)}));
  return tensor;
}

void ParameterStore::assign(Parameter& parameter, const at::Tensor& tensor) {
  FUSION_CHECK(tensor.sizes() == at::IntArrayRef(parameter.shape), "model: {} has shape [{}] in the file but [{}] in the config", parameter.name,
               fmt::join(tensor.sizes().begin(), tensor.sizes().end(), ", "), fmt::join(parameter.shape, ", "));
  const at::NoGradGuard no_grad;
  if (parameter.sharded) {
    parameter.master.copy_(tensor.reshape({-1}).narrow(0, parameter.begin, parameter.end - parameter.begin));
    return;
  }
  if (parameter.master.defined()) parameter.master.detach().copy_(tensor);
  if (!parameter.value.is_same(parameter.master)) parameter.value.detach().copy_(tensor);
}

void ParameterStore::refresh_values() {
  if (dtype_ == at::kFloat) return;
  const at::NoGradGuard no_grad;
  for (Parameter& parameter : parameters_)
    if (parameter.master.defined() && !parameter.sharded) parameter.value.detach().copy_(parameter.master);
}

void ParameterStore::set_trainable(Parameter& parameter, bool train) {
  parameter.train = train;
  if (parameter.value.defined()) parameter.value.requires_grad_(train && parameter.used);
}

void ParameterStore::zero_grads() {
  for (Parameter& parameter : parameters_) parameter.grad.reset();
}

}  // namespace fusion
