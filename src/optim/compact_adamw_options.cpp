// SPDX-License-Identifier: BSD-3-Clause
// Options and state of CompactAdamW as archives hold them.
#include <torch/optim/serialize.h>
#include <torch/types.h>

#include "smet/compact_adamw.h"

namespace smet {

CompactAdamWOptions& CompactAdamWOptions::warmup(double updates) {
  age_schedule_.warmup = updates;
  return *this;
}

CompactAdamWOptions& CompactAdamWOptions::boost(double factor) {
  age_schedule_.boost = factor;
  return *this;
}

CompactAdamWOptions& CompactAdamWOptions::boost_tau(double updates) {
  age_schedule_.boost_tau = updates;
  return *this;
}

void CompactAdamWOptions::serialize(torch::serialize::OutputArchive& archive) const {
  _TORCH_OPTIM_SERIALIZE_TORCH_ARG(lr);
  _TORCH_OPTIM_SERIALIZE_TORCH_ARG(betas);
  _TORCH_OPTIM_SERIALIZE_TORCH_ARG(eps);
  _TORCH_OPTIM_SERIALIZE_TORCH_ARG(weight_decay);
  _TORCH_OPTIM_SERIALIZE_TORCH_ARG(coupled_weight_decay);
  _TORCH_OPTIM_SERIALIZE_TORCH_ARG(density_scaling);
  _TORCH_OPTIM_SERIALIZE_TORCH_ARG(local_age);
  _TORCH_OPTIM_SERIALIZE_TORCH_ARG(maximize);
  _TORCH_OPTIM_SERIALIZE_TORCH_ARG(stochastic_rounding);
  _TORCH_OPTIM_SERIALIZE_TORCH_ARG(master_weights);
  _TORCH_OPTIM_SERIALIZE_TORCH_ARG(seed);
  archive.write("warmup", torch::IValue(age_schedule().warmup));
  archive.write("boost", torch::IValue(age_schedule().boost));
  archive.write("boost_tau", torch::IValue(age_schedule().boost_tau));
}

void CompactAdamWOptions::serialize(torch::serialize::InputArchive& archive) {
  _TORCH_OPTIM_DESERIALIZE_TORCH_ARG(double, lr);
  _TORCH_OPTIM_DESERIALIZE_TORCH_ARG(betas_t, betas);
  _TORCH_OPTIM_DESERIALIZE_TORCH_ARG(double, eps);
  _TORCH_OPTIM_DESERIALIZE_TORCH_ARG(double, weight_decay);
  _TORCH_OPTIM_DESERIALIZE_TORCH_ARG(bool, coupled_weight_decay);
  _TORCH_OPTIM_DESERIALIZE_TORCH_ARG(double, density_scaling);
  _TORCH_OPTIM_DESERIALIZE_TORCH_ARG(bool, local_age);
  _TORCH_OPTIM_DESERIALIZE_TORCH_ARG(bool, maximize);
  _TORCH_OPTIM_DESERIALIZE_TORCH_ARG(bool, stochastic_rounding);
  c10::IValue masters;  // older archives do not say
  master_weights(archive.try_read("master_weights", masters) && masters.toBool());
  _TORCH_OPTIM_DESERIALIZE_TORCH_ARG(int64_t, seed);
  const auto read = [&archive](const char* key) {
    c10::IValue value;
    archive.read(key, value);
    return value.toDouble();
  };
  age_schedule_.warmup = read("warmup");
  age_schedule_.boost = read("boost");
  age_schedule_.boost_tau = read("boost_tau");
}

CompactAdamWParamState& CompactAdamWParamState::step(int64_t updates) {
  if (counter_.defined()) {
    counter_.fill_(updates);
  } else {
    step_ = updates;
  }
  return *this;
}

void CompactAdamWParamState::serialize(torch::serialize::OutputArchive& archive) const {
  _TORCH_OPTIM_SERIALIZE_TORCH_ARG(step);
  _TORCH_OPTIM_SERIALIZE_TORCH_ARG(exp_avg);
  _TORCH_OPTIM_SERIALIZE_TORCH_ARG(exp_avg_sq);
  _TORCH_OPTIM_SERIALIZE_TORCH_ARG(exp_avg_scale);
  _TORCH_OPTIM_SERIALIZE_TORCH_ARG(exp_avg_sq_scale);
  _TORCH_OPTIM_SERIALIZE_TORCH_ARG(master_low);
  _TORCH_OPTIM_SERIALIZE_TORCH_ARG(cohort);
  _TORCH_OPTIM_SERIALIZE_TORCH_ARG(births);
}

void CompactAdamWParamState::serialize(torch::serialize::InputArchive& archive) {
  _TORCH_OPTIM_DESERIALIZE_TORCH_ARG(int64_t, step);
  _TORCH_OPTIM_DESERIALIZE_TORCH_ARG(torch::Tensor, exp_avg);
  _TORCH_OPTIM_DESERIALIZE_TORCH_ARG(torch::Tensor, exp_avg_sq);
  _TORCH_OPTIM_DESERIALIZE_TORCH_ARG(torch::Tensor, exp_avg_scale);
  _TORCH_OPTIM_DESERIALIZE_TORCH_ARG(torch::Tensor, exp_avg_sq_scale);
  _TORCH_OPTIM_DESERIALIZE_TORCH_ARG(torch::Tensor, master_low);
  _TORCH_OPTIM_DESERIALIZE_TORCH_ARG(torch::Tensor, cohort);
  _TORCH_OPTIM_DESERIALIZE_TORCH_ARG(torch::Tensor, births);
}

}  // namespace smet
