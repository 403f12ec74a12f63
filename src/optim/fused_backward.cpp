// SPDX-License-Identifier: BSD-3-Clause
#include "src/optim/fused_backward.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>
#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>
#include <torch/types.h>

#include <algorithm>
#include <cmath>

#include "src/ops/first_nonfinite.h"

namespace smet {
namespace {

using at::Tensor;

// Does nothing once the optimizer is gone.
struct Hook : torch::autograd::PostAccumulateGradHook {
  Hook(const std::shared_ptr<FusedBackward>& fused, int64_t index) : fused_(fused), index_(index) {}

  void operator()(const torch::autograd::Variable& param) override {
    const torch::NoGradGuard no_grad;
    if (const auto fused = fused_.lock()) fused->complete(param, index_);
  }
  bool stale() const { return fused_.expired(); }
  bool of(const FusedBackward& fused) const { return fused_.lock().get() == &fused; }

 private:
  std::weak_ptr<FusedBackward> fused_;
  int64_t index_;
};

// torch's global generators, so that both passes of clipped_backward see the same dropout.
class Generators {
 public:
  explicit Generators(const std::vector<torch::optim::OptimizerParamGroup>& groups) {
    add(at::kCPU);
    for (const auto& group : groups) {
      for (const Tensor& param : group.params()) {
        if (param.is_cuda()) add(param.device());
      }
    }
  }
  void rewind() {
    for (auto& [generator, state] : states_) generator.set_state(state);
  }

 private:
  void add(c10::Device device) {
    at::Generator generator = at::globalContext().defaultGenerator(device);
    const auto same = [&](const auto& entry) { return entry.first == generator; };
    if (std::ranges::any_of(states_, same)) return;
    states_.emplace_back(generator, generator.get_state());
  }

  std::vector<std::pair<at::Generator, Tensor>> states_;
};

// Formula and order of torch.nn.utils.clip_grad_norm_, so that Python's results are equal bit for bit.
Tensor total_norm(std::vector<std::pair<int64_t, Tensor>> norms) {
  if (norms.empty()) return torch::zeros({});
  std::ranges::sort(norms, {}, &std::pair<int64_t, Tensor>::first);
  std::vector<Tensor> values;
  for (const auto& [index, norm] : norms) values.push_back(norm.to(norms.front().second.device()));
  return at::linalg_vector_norm(torch::stack(values));
}

}  // namespace

void FusedBackward::attach(size_t first_group) {
  const auto* const first = optimizer_->param_groups().data() + first_group;
  for (const auto& [group, param, index] : optimizer_->places()) {
    if (group < first || !param.requires_grad()) continue;
    const auto& present = torch::autograd::impl::post_acc_grad_hooks(param);
    const auto* ours = dynamic_cast<const Hook*>(present.get());
    if (ours != nullptr && ours->of(*this)) continue;
    TORCH_CHECK(present == nullptr || (ours != nullptr && ours->stale()), "smet: '",
                optimizer_->name_of(param, index),
                "' has a post-accumulate-grad hook already, another optimizer's with fused_backward perhaps; "
                "expected a parameter without one");
    torch::autograd::impl::set_post_acc_grad_hooks(param, std::make_unique<Hook>(shared_from_this(), index));
  }
}

void FusedBackward::complete(const Tensor& param, int64_t index) {
  Tensor& grad = param.mutable_grad();
  if (!grad.defined()) return;
  const std::string name = optimizer_->name_of(param, index);
  check_use(index, name);
  const bool finite = optimizer_->on_nonfinite() == "ignore" || ops::first_nonfinite({grad}) < 0;
  if (norms_) {
    if (!finite && norms_->bad.empty()) norms_->bad = name;
    norms_->of.emplace_back(index, at::linalg_vector_norm(grad));
  } else {
    TORCH_CHECK(finite, "smet: the gradient of '", name,
                "' holds NaN or infinity; the parameter was not changed, but ", updated_.size(),
                " nearer to the loss were (fused_backward updates during the backward pass). "
                "clipped_backward() looks at all gradients before any change");
    if (factor_.defined()) grad.mul_(factor_.to(grad.device()));
    optimizer_->update({optimizer_->places()[static_cast<size_t>(index)]}, false);
    updated_.insert(index);
  }
  grad.reset();
}

void FusedBackward::check_use(int64_t index, const std::string& name) const {
  const auto is_it = [index](const auto& entry) { return entry.first == index; };
  const bool measured = norms_ && std::ranges::any_of(norms_->of, is_it);
  TORCH_CHECK(!measured && !updated_.contains(index), "smet: a second gradient of '", name,
              "' since the last step(): fused_backward updates during backward(), so gradients cannot be "
              "accumulated over several passes. Call step() after every backward(), or use "
              "fused_backward(false)");
  TORCH_CHECK(optimizer_->on_nonfinite() != "skip" || norms_ || factor_.defined(),
              "smet: on_nonfinite \"skip\" needs all gradients before the first update, which fused_backward "
              "has only in clipped_backward(); use that, or on_nonfinite(\"raise\")");
}

std::pair<Tensor, Tensor> FusedBackward::clipped(const torch::optim::Optimizer::LossClosure& backward,
                                                 double max_norm) {
  TORCH_CHECK(updated_.empty(), "smet: clipped_backward() after a backward pass; call step() first");
  attach(0);  // a parameter that thawed would gather the gradients of both passes
  Generators generators(optimizer_->param_groups());
  const at::AutoGradMode enable_grad(true);
  const auto run = [&] {
    try {
      return backward();
    } catch (...) {
      norms_.reset();
      factor_.reset();
      throw;
    }
  };
  norms_.emplace();
  const Tensor first = run();
  const Norms norms = std::move(*norms_);
  norms_.reset();
  const Tensor total = total_norm(norms.of);
  std::string bad;
  if (!norms.bad.empty()) {
    bad = "the gradient of '" + norms.bad + "' holds NaN or infinity";
  } else if (optimizer_->on_nonfinite() != "ignore" && !std::isfinite(total.item<double>())) {
    bad = "the norm of all gradients overflows";  // a factor of 0 would hide it
  }
  if (!bad.empty() && optimizer_->on_nonfinite() == "skip") {
    optimizer_->count_skipped(bad);
    return {first, total};
  }
  TORCH_CHECK(bad.empty(), "smet: ", bad, "; nothing was changed. Find where the loss left the finite range");
  factor_ = (max_norm / (total + 1e-6)).clamp_max(1.0);
  generators.rewind();
  Tensor result = run();
  factor_.reset();
  return {std::move(result), total};
}

}  // namespace smet
