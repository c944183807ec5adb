// Outputs that cost little to make: a segment of the tape can drop their memory after its forward pass and fill it again before its backward.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <vector>

namespace fusion {

/// The outputs of cheap() that one segment has dropped, and how they are made.
class CheapOutputs {
 public:
  /// What cheap() makes on this thread is noted until the scope ends.
  class Scope {
   public:
    explicit Scope(CheapOutputs& outputs);
    ~Scope();
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    CheapOutputs* outer_;
  };

  /// Of this thread; null outside of a scope.
  static CheapOutputs* noting();
  void note(at::Tensor output, std::function<at::Tensor()> make);

  /// Frees the memory of what the graph keeps for its backward, but for memory that belongs to one of `needed`. The tensors stay, without data.
  void drop(const std::vector<at::Tensor>& needed);
  /// Makes all of it again, in the order of the forward pass, with the same bits.
  void restore();

 private:
  struct Output {
    at::Tensor tensor;
    std::function<at::Tensor()> make;
  };
  std::vector<Output> outputs_;
};

/// make(): a norm, an activation; no product of matrices. It returns a new contiguous tensor and reads only what the graph keeps anyway.
template <class Make>
at::Tensor cheap(const Make& make) {
  at::Tensor output = make();
  if (CheapOutputs* outputs = CheapOutputs::noting()) outputs->note(output, make);
  return output;
}

}  // namespace fusion
