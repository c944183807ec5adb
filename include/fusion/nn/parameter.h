// Parameters, units and the scope that names them. Names are Hugging Face's, so the store is the state dict.
#pragma once

#include <ATen/core/Tensor.h>

#include <deque>
#include <string>
#include <unordered_map>
#include <vector>

namespace fusion {

using Tensors = std::vector<at::Tensor>;

/// How a random start fills a parameter.
struct Init {
  enum class Kind { normal, uniform, constant } kind = Kind::constant;
  double scale = 0.0;  // standard deviation, half width or value

  static Init normal(double deviation) { return {Kind::normal, deviation}; }
  static Init uniform(double half_width) { return {Kind::uniform, half_width}; }
  static Init zeros() { return {Kind::constant, 0.0}; }
  static Init ones() { return {Kind::constant, 1.0}; }
};

/// One trainable tensor: fp32 master, the copy that forward passes read, and its fp32 gradient.
/// A process may own a part of it only (train/sharding.h): then master and moments are the flat elements [begin, end), and so is the gradient once it
/// is reduced.
struct Parameter {
  std::string name;
  std::vector<int64_t> shape;
  Init init;
  at::Tensor master;  // fp32; undefined in a model made for inference in another dtype
  at::Tensor value;   // compute dtype, whole, a leaf; the master itself when the compute dtype is fp32 and all of it is owned
  at::Tensor grad;    // fp32; undefined while no backward has reached the parameter
  int64_t begin = 0, end = 0;
  bool sharded = false;  // the value is not made from the master by this process alone
  bool train = true;     // false: frozen
  bool used = true;      // false: in the file but in no forward pass (model.md 7); never has a gradient

  int64_t numel() const;
};

/// Parameters that are gathered, computed, reduced and recomputed together.
struct Unit {
  std::string name;
  std::vector<Parameter*> parameters;
  bool reused = false;  // runs at several places of a forward pass; others run at one

  bool trains() const;
};

/// Owns all parameters and units of a model, in state-dict order.
class ParameterStore {
 public:
  ParameterStore(at::Device device, at::ScalarType dtype) : device_(device), dtype_(dtype) {}
  ParameterStore(const ParameterStore&) = delete;
  ParameterStore& operator=(const ParameterStore&) = delete;

  Unit& add_unit(std::string name);
  Parameter& add(Unit& unit, std::string name, std::vector<int64_t> shape, Init init);

  std::deque<Parameter>& all() { return parameters_; }
  const std::deque<Parameter>& all() const { return parameters_; }
  std::deque<Unit>& units() { return units_; }
  Parameter* find(const std::string& name);
  at::Device device() const { return device_; }
  at::ScalarType dtype() const { return dtype_; }
  int64_t numel() const;

  /// Allocates masters and values. `masters` false keeps compute copies only (inference).
  void allocate(bool masters);
  /// Random start: each parameter's numbers depend on (seed, name) alone.
  void initialize(uint64_t seed);
  /// The number that initialize() gives one parameter, fp32 on the CPU; the store may be without memory.
  static at::Tensor start_value(const Parameter& parameter, uint64_t seed);
  /// Sets one parameter, or the part of it that is owned here, from a tensor of its shape, any float dtype.
  void assign(Parameter& parameter, const at::Tensor& tensor);
  /// Masters to compute copies, after an update. Nothing to do in fp32.
  void refresh_values();
  void set_trainable(Parameter& parameter, bool train);
  void zero_grads();

 private:
  at::Device device_;
  at::ScalarType dtype_;
  std::deque<Parameter> parameters_;
  std::deque<Unit> units_;
  std::unordered_map<std::string, Parameter*> by_name_;
};

/// A name prefix and a unit: Scope(store, unit, "model") / "norm" registers "model.norm.*".
class Scope {
 public:
  Scope(ParameterStore& store, Unit& unit, std::string prefix) : store_(&store), unit_(&unit), prefix_(std::move(prefix)) {}
  Scope operator/(const std::string& name) const { return Scope(*store_, *unit_, prefix_.empty() ? name : prefix_ + "." + name); }
  Parameter* add(const std::string& name, std::vector<int64_t> shape, Init init) const {
    return &store_->add(*unit_, prefix_.empty() ? name : prefix_ + "." + name, std::move(shape), init);
  }

 private:
  ParameterStore* store_;
  Unit* unit_;
  std::string prefix_;
};

}  // namespace fusion
