// SPDX-License-Identifier: BSD-3-Clause
// Data parallel training: one process among RANK of WORLD_SIZE, joined over gloo as torchrun starts them.
#pragma once

#include <torch/torch.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

namespace llama {

class Processes {
 public:
  // Joins the others; alone where WORLD_SIZE is not set. Throws std::runtime_error naming the variable that
  // is missing, or the package without which this program was built.
  Processes();
  ~Processes();
  int64_t rank() const { return rank_; }
  int64_t world() const { return world_; }
  bool is_main() const { return rank_ == 0; }

  // Every tensor becomes its mean over the processes.
  void mean_(const std::vector<torch::Tensor>& tensors);
  double mean(double value);
  // Whether the flag is up on any process.
  bool any(bool flag);
  // Whether all processes have the same number.
  bool equal(uint64_t number);
  // Runs `action` on the first process while the others wait.
  void on_main(const std::function<void()>& action);

 private:
  struct Group;
  int64_t rank_ = 0, world_ = 1;
  std::unique_ptr<Group> group_;
};

}  // namespace llama
