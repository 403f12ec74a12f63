// SPDX-License-Identifier: BSD-3-Clause
#include "processes.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

#ifdef USE_C10D_GLOO  // set by CMake where gloo's headers are
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#endif

namespace llama {

#ifdef USE_C10D_GLOO
namespace {

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  if (value == nullptr) {
    throw std::runtime_error(std::string("WORLD_SIZE is set, but not ") + name +
                             "; start the processes with torchrun, or set RANK, WORLD_SIZE, MASTER_ADDR and "
                             "MASTER_PORT");
  }
  return value;
}

}  // namespace

struct Processes::Group {
  Group(int rank, int world) {
    const char* elastic = std::getenv("TORCHELASTIC_USE_AGENT_STORE");  // torchrun's agent keeps the store
    const bool serves = rank == 0 && (elastic == nullptr || std::string(elastic) != "True");
    const auto port = static_cast<uint16_t>(std::stoi(variable("MASTER_PORT")));
    auto store = c10::make_intrusive<c10d::TCPStore>(
        variable("MASTER_ADDR"),
        c10d::TCPStoreOptions{.port = port, .isServer = serves, .numWorkers = world});
    auto options = c10d::ProcessGroupGloo::Options::create_default();
    options->devices.push_back(c10d::ProcessGroupGloo::createDefaultDevice());
    gloo = c10::make_intrusive<c10d::ProcessGroupGloo>(store, rank, world, options);
  }
  void reduce(const std::vector<torch::Tensor>& tensors, c10d::ReduceOp::RedOpType how) {
    c10d::AllreduceOptions options;
    options.reduceOp = how;
    std::vector<c10::intrusive_ptr<c10d::Work>> pending;
    for (const auto& tensor : tensors) {
      std::vector<torch::Tensor> one{tensor};
      pending.push_back(gloo->allreduce(one, options));
    }
    for (const auto& work : pending) work->wait();
  }
  c10::intrusive_ptr<c10d::ProcessGroupGloo> gloo;
};

Processes::Processes() {
  const char* world = std::getenv("WORLD_SIZE");
  if (world == nullptr || std::stoi(world) == 1) return;
  world_ = std::stoi(world);
  rank_ = std::stoi(variable("RANK"));
  group_ = std::make_unique<Group>(static_cast<int>(rank_), static_cast<int>(world_));
}

void Processes::mean_(const std::vector<torch::Tensor>& tensors) {
  if (world_ == 1) return;
  for (const auto& tensor : tensors) tensor.div_(world_);
  group_->reduce(tensors, c10d::ReduceOp::SUM);
}

bool Processes::any(bool flag) {
  if (world_ == 1) return flag;
  const auto largest = torch::tensor(static_cast<int64_t>(flag));
  group_->reduce({largest}, c10d::ReduceOp::MAX);
  return largest.item<int64_t>() != 0;
}

bool Processes::equal(uint64_t number) {
  if (world_ == 1) return true;
  const auto bits = static_cast<int64_t>(number);
  const auto least = torch::tensor(bits), largest = torch::tensor(bits);
  group_->reduce({least}, c10d::ReduceOp::MIN);
  group_->reduce({largest}, c10d::ReduceOp::MAX);
  return least.item<int64_t>() == largest.item<int64_t>();
}
#else
struct Processes::Group {};

Processes::Processes() {
  const char* world = std::getenv("WORLD_SIZE");
  if (world != nullptr && std::stoi(world) != 1) {
    throw std::runtime_error(
        "this program was built for one process: gloo's headers were missing. Install them "
        "and build again: apt-get install libgloo-dev");
  }
}

void Processes::mean_(const std::vector<torch::Tensor>&) {}

bool Processes::any(bool flag) {
  return flag;
}

bool Processes::equal(uint64_t) {
  return true;
}
#endif

Processes::~Processes() = default;

double Processes::mean(double value) {
  const auto one = torch::tensor(value, torch::kDouble);
  mean_({one});
  return one.item<double>();
}

void Processes::on_main(const std::function<void()>& action) {
  std::exception_ptr failure;
  try {
    if (is_main()) action();
  } catch (...) {
    failure = std::current_exception();
  }
  const bool failed = any(failure != nullptr);
  if (failure) std::rethrow_exception(failure);
  if (failed) throw std::runtime_error("the first process failed");
}

}  // namespace llama
