// SPDX-License-Identifier: BSD-3-Clause
// AdamW for packed sparse layers and dense parameters, in one object and one kernel call.
#pragma once

#include <torch/arg.h>
#include <torch/optim/optimizer.h>
#include <torch/ordered_dict.h>
#include <torch/serialize/archive.h>

#include <cstdint>
#include <memory>
#include <string>
#include <tuple>
#include <unordered_map>
#include <utility>
#include <vector>

#include "smet/age_schedule.h"

namespace smet {

class FusedBackward;

// Options of one parameter group; the names are those of Python's CompactAdamW. In a group's own options,
// what is left at the value of the constructor takes the optimizer's default.
struct CompactAdamWOptions : public torch::optim::OptimizerCloneableOptions<CompactAdamWOptions> {
  // Everything but the learning rate at its default.
  CompactAdamWOptions(double lr = 1e-3) : lr_(lr) {}  // NOLINT: implicit, as torch's options are
  using betas_t = std::tuple<double, double>;         // beta1, beta2

  TORCH_ARG(double, lr);                                    // learning rate
  TORCH_ARG(betas_t, betas) = std::make_tuple(0.9, 0.999);  // decay rates of the two moments
  TORCH_ARG(double, eps) = 1e-8;                  // added to the root of the corrected second moment
  TORCH_ARG(double, weight_decay) = 1e-2;         // decoupled
  TORCH_ARG(bool, coupled_weight_decay) = false;  // true: weight_decay * w is added to the gradient (Adam)
  TORCH_ARG(double, density_scaling) = 0.5;       // p of lr * density^-p; 0 = off
  TORCH_ARG(AgeSchedule, age_schedule);           // warm(a), see age_schedule.h
  TORCH_ARG(bool, local_age) = true;             // false: moments corrected by the global step, as plain Adam
  TORCH_ARG(bool, maximize) = false;             // ascend instead of descend
  TORCH_ARG(bool, stochastic_rounding) = false;  // of bfloat16 parameters
  // Of bfloat16 parameters too, and not with stochastic_rounding: the step is that of float32 parameters,
  // whose upper halves, to nearest, the parameters are. Two more bytes for each weight (state master_low).
  // Where an optimizer is loaded, it stays what it is here; if that differs from what was saved,
  // stochastic_rounding stays too. float32 and float64: no effect; float16 is refused.
  TORCH_ARG(bool, master_weights) = false;
  TORCH_ARG(std::string, moments) = "fp32";  // or "bf16", "8bit": how they are stored; float64: "fp32"
  TORCH_ARG(int64_t, seed) = 0;              // of the random rounding of parameters and moments
  // What a NaN or infinite gradient does: "raise" (step() throws with the parameter's name before anything is
  // changed), "skip" (the step is left out: nothing moves, neither ages nor the topology's clock;
  // skipped_steps() counts it and a warning says it) or "ignore" (no check; what torch does). Of the whole
  // optimizer: the one it is constructed with counts.
  TORCH_ARG(std::string, on_nonfinite) = "raise";
  TORCH_ARG(bool, fused_backward) = false;  // see CompactAdamW; of the whole optimizer too
  // Counters and births are where the parameters are, and the step reads them there, so that a CUDA graph
  // which holds it takes a new step at every replay. Needs on_nonfinite("ignore"), since to raise or to skip
  // would mean to wait for the device, and age_schedule no function. Results are those of the ordinary step,
  // bit for bit on the CPU.
  TORCH_ARG(bool, capturable) = false;

  // Of a group, with capturable: where defined, the learning rate in place of lr, one float32 or float64
  // beside the parameters that every step reads. Not serialized.
  TORCH_ARG(torch::Tensor, lr_tensor);

 public:
  // Shorthands for the fields of age_schedule.
  CompactAdamWOptions& warmup(double updates);
  CompactAdamWOptions& boost(double factor);
  CompactAdamWOptions& boost_tau(double updates);

  // Throws ValueError naming the option that is out of range.
  void check() const;
  // A custom age schedule is not written; loading keeps the one that is set.
  void serialize(torch::serialize::InputArchive& archive) override;
  void serialize(torch::serialize::OutputArchive& archive) const override;
  // As torch's learning-rate schedulers ask for it.
  double get_lr() const override { return lr(); }
  void set_lr(double lr) override { lr_ = lr; }
};

// State of one parameter. It exists from construction; of a frozen parameter, from its first update.
struct CompactAdamWParamState : public torch::optim::OptimizerCloneableParamState<CompactAdamWParamState> {
  TORCH_ARG(torch::Tensor, exp_avg);     // like the parameter; float32, bfloat16 or int8, float64 for float64
  TORCH_ARG(torch::Tensor, exp_avg_sq);  // the same; uint8 beside int8
  TORCH_ARG(torch::Tensor, exp_avg_scale);     // 8-bit moments only: float32 [rows, blocks]
  TORCH_ARG(torch::Tensor, exp_avg_sq_scale);  // the same
  // master_weights of a bfloat16 parameter only: int16, like the parameter; modulo 2^32,
  // bits(master) = (bits(parameter) << 16) + master_low. Loaded state without it gets zeros.
  TORCH_ARG(torch::Tensor, master_low);
  TORCH_ARG(torch::Tensor, cohort);  // values of a sparse layer only: uint8 [n]
  TORCH_ARG(torch::Tensor, births);  // and int64 [256]: step after which a cohort was regrown, -1 = unused id
  TORCH_ARG(torch::Tensor, counter);  // with capturable: updates so far, int64 scalar beside the parameter

 public:
  // Updates so far. Where there is a counter, this waits for its device.
  int64_t step() const { return counter_.defined() ? counter_.item<int64_t>() : step_; }
  // Sets them.
  CompactAdamWParamState& step(int64_t updates);

  // As torch's optimizers write and read their state.
  void serialize(torch::serialize::InputArchive& archive) override;
  void serialize(torch::serialize::OutputArchive& archive) const override;

 private:
  int64_t step_ = 0;
};

// For every active weight, a = number of its updates since it was (re)grown, counting this one:
//   m <- beta1 m + (1 - beta1) g            v <- beta2 v + (1 - beta2) g^2
//   lr_w = lr * density^-p * warm(a)
//   w <- w - lr_w * ((m / (1 - beta1^a)) / (sqrt(v / (1 - beta2^a)) + eps) + weight_decay * w)
// Dense parameters, and weights that stood at step 0, have the global step as age and warm = 1; density is
// that of the layer (values_registry.h), 1 for dense parameters, which so get plain AdamW. Parameters without
// a gradient, or that do not require one, are skipped and their step stands still. Source: SMET, arXiv
// 2606.00888, section 3, with ages in place of a scaled first moment.
//
// fused_backward(true): each parameter is updated during backward(), as soon as its gradient is complete, and
// the gradient is freed, so that only one layer's is alive at a time. step() then ends the step (and updates
// what has a gradient nonetheless). Results are those of the ordinary step, bit for bit. Not with gradient
// accumulation or several processes: a second gradient before step() throws. on_nonfinite "raise" throws
// before the parameter at hand is changed, but after those nearer to the loss; "skip" needs clipped_backward.
class CompactAdamW : public torch::optim::Optimizer {
 public:
  // Throws ValueError for an empty list, a parameter that is listed twice, an option out of range,
  // master_weights with stochastic_rounding, or capturable without on_nonfinite "ignore";
  // TypeError for a dtype other than float32, float64, bfloat16, float16, for float64 with bf16 or 8-bit
  // moments, or for float16 with master_weights.
  explicit CompactAdamW(const std::vector<torch::optim::OptimizerParamGroup>& param_groups,
                        CompactAdamWOptions defaults = {});
  explicit CompactAdamW(std::vector<torch::Tensor> params, CompactAdamWOptions defaults = {});
  // Keeps the names for errors: CompactAdamW(model->named_parameters(), ...).
  explicit CompactAdamW(const torch::OrderedDict<std::string, torch::Tensor>& named_params,
                        CompactAdamWOptions defaults = {});
  // State, names and hooks move along; what was moved from is not used again.
  CompactAdamW(CompactAdamW&& other) noexcept;
  CompactAdamW& operator=(CompactAdamW&& other) noexcept;

  // As torch's; checks the options and that no parameter is listed twice, and makes the state.
  void add_param_group(const torch::optim::OptimizerParamGroup& param_group);

  // One update. Throws, with nothing changed: when a gradient holds NaN or infinity (on_nonfinite), or a
  // gradient or state does not fit its parameter. Returns what the closure returned, else an undefined
  // tensor.
  torch::Tensor step(LossClosure closure = nullptr) override;

  // With fused_backward: clip by the exact norm of all gradients, at the price of a second pass. Calls
  // `backward` (forward and backward pass, returns the loss) twice from the same state of torch's generators:
  // the first pass measures each gradient and frees it, the second one updates with gradients times min(1,
  // max_norm / (norm + 1e-6)), as clip_grad_norm_ and step() would. A gradient or a norm that is not finite
  // throws, or skips the step, between the two, when nothing is changed. Call step() after it. Returns (the
  // last loss, the norm before).
  std::pair<torch::Tensor, torch::Tensor> clipped_backward(const LossClosure& backward, double max_norm);

  // Steps left out since this object was built (on_nonfinite "skip").
  int64_t skipped_steps() const { return skipped_steps_; }

  // Whether the counters of the updates are where the parameters are.
  bool capturable() const;

  // Whether parameters are updated, and their gradients freed, during backward().
  bool fused_backward() const { return fused_ != nullptr; }

  // State of `param`, made now if it has none. Throws ValueError for a parameter of another optimizer.
  CompactAdamWParamState& state_of(const torch::Tensor& param);

  // Options and state of all parameters, by order.
  void save(torch::serialize::OutputArchive& archive) const override;
  // Parameters are matched by order. The options `moments` and `master_weights` stay what they are here:
  // moments that were saved in another format are converted, to nearest (8-bit ones by the layer's positions:
  // load the model before), and masters that were not saved begin at the parameters. Throws when the archive
  // does not fit; nothing is changed then.
  void load(torch::serialize::InputArchive& archive) override;

 private:
  friend class FusedBackward;
  // One parameter, and its number over all groups.
  struct Place {
    const torch::optim::OptimizerParamGroup* group;
    torch::Tensor param;
    int64_t index;
  };

  std::vector<Place> places() const;
  void update(const std::vector<Place>& chosen, bool check_finite);
  const std::string& on_nonfinite() const;
  bool skips(const std::vector<Place>& chosen);
  void count_skipped(const std::string& why);
  void set_group_options(size_t group, const torch::optim::OptimizerParamGroup& given);
  void check_new_params(size_t first_group) const;
  void make_states(size_t first_group);
  CompactAdamWParamState& state_in(const torch::optim::OptimizerParamGroup& group,
                                   const torch::Tensor& param);
  std::string name_of(const torch::Tensor& param, int64_t index) const;
  void check_loaded() const;
  void convert_loaded();

  std::unordered_map<const void*, std::string> names_;
  std::shared_ptr<FusedBackward> fused_;
  int64_t skipped_steps_ = 0;
};

}  // namespace smet
