// SPDX-License-Identifier: BSD-3-Clause
#include "src/optim/cohort_table.h"

#include <ATen/ops/empty.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <charconv>
#include <cmath>

namespace smet {
namespace {

// As Python prints it: the shortest text that reads back as the same number, 1.0 rather than 1.
std::string number(double value) {
  if (!std::isfinite(value)) return std::isnan(value) ? "nan" : value > 0 ? "inf" : "-inf";
  std::array<char, 32> buffer;
  std::string text(buffer.data(), std::to_chars(buffer.data(), buffer.data() + buffer.size(), value).ptr);
  return text.find_first_of(".e") == std::string::npos ? text + ".0" : text;
}

}  // namespace

void AdamWHyper::check() const {
  // The wording of torch's own AdamW, then what is expected.
  TORCH_CHECK_VALUE(lr >= 0 && std::isfinite(lr), "Invalid learning rate: ", number(lr),
                    "; expected a finite number >= 0");
  TORCH_CHECK_VALUE(beta1 >= 0 && beta1 < 1, "Invalid beta parameter at index 0: ", number(beta1),
                    "; expected 0 <= beta < 1");
  TORCH_CHECK_VALUE(beta2 >= 0 && beta2 < 1, "Invalid beta parameter at index 1: ", number(beta2),
                    "; expected 0 <= beta < 1");
  TORCH_CHECK_VALUE(eps >= 0 && std::isfinite(eps), "Invalid epsilon value: ", number(eps),
                    "; expected a finite number >= 0");
  TORCH_CHECK_VALUE(weight_decay >= 0 && std::isfinite(weight_decay),
                    "Invalid weight_decay value: ", number(weight_decay), "; expected a finite number >= 0");
  TORCH_CHECK_VALUE(std::isfinite(density_scaling),
                    "Invalid density_scaling value: ", number(density_scaling),
                    "; expected a finite exponent (0.5: lr / sqrt(density), 0: off)");
  TORCH_CHECK_VALUE(moments == "fp32" || moments == "bf16" || moments == "8bit", "Invalid moments: \"",
                    moments, "\"; expected \"fp32\", \"bf16\" or \"8bit\"");
  TORCH_CHECK_VALUE(!(master_weights && stochastic_rounding),
                    "Invalid stochastic_rounding: True beside master_weights=True, of which nothing is "
                    "rounded; expected one of them");
  age_schedule.check();
}

kernels::AgeOptions AdamWHyper::ages() const {
  return {.beta1 = beta1,
          .beta2 = beta2,
          .warmup = age_schedule.warmup,
          .boost = age_schedule.boost,
          .boost_tau = age_schedule.boost_tau,
          .local_age = local_age};
}

at::Tensor CohortTables::table(const CohortClock& clock, const AdamWHyper& hyper, double density,
                               std::string_view name) {
  TORCH_CHECK_VALUE(std::isfinite(hyper.lr), "smet: the learning rate of '", name, "' is ", hyper.lr,
                    "; nothing was changed");
  TORCH_CHECK_VALUE(density > 0 && density <= 1, "smet: '", name, "' has density ", density,
                    "; expected 0 < density <= 1");
  const Ages& ages = this->ages(clock, hyper, name);
  const double rate = hyper.lr * std::pow(density, -hyper.density_scaling);
  const double decay = hyper.coupled_weight_decay ? 0 : hyper.weight_decay;
  for (const Entry& entry : entries_) {
    if (entry.ages == &ages && entry.rate == rate && entry.decay == decay) return entry.table;
  }
  const std::int64_t rows = clock.births == nullptr ? 1 : kCohortIds;
  at::Tensor table = at::empty({rows, 3}, at::kDouble);
  auto* row = reinterpret_cast<kernels::CohortRow*>(table.mutable_data_ptr<double>());
  for (std::size_t id = 0; id < static_cast<std::size_t>(rows); ++id) {
    const kernels::reference::AgeFactors& factors = ages.factors[id];
    const double lr_w = rate * factors.warm;
    row[id] = {lr_w * decay, lr_w / factors.bias1, factors.bias2_sqrt};
  }
  entries_.push_back({&ages, rate, decay, table});
  return table;
}

const CohortTables::Ages& CohortTables::ages(const CohortClock& clock, const AdamWHyper& hyper,
                                             std::string_view name) {
  const bool has_births = clock.births != nullptr;
  for (const Ages& known : ages_) {
    if (known.step == clock.step && known.beta1 == hyper.beta1 && known.beta2 == hyper.beta2 &&
        known.local_age == hyper.local_age && known.has_births == has_births &&
        (known.schedule == &hyper.age_schedule || *known.schedule == hyper.age_schedule) &&
        (!has_births || std::equal(known.births.begin(), known.births.end(), clock.births))) {
      return known;
    }
  }
  TORCH_CHECK_VALUE(clock.step >= 1, "smet: the coming step of '", name, "' is ", clock.step,
                    "; expected at least 1");
  Ages ages{};
  ages.step = clock.step;
  ages.has_births = has_births;
  ages.beta1 = hyper.beta1;
  ages.beta2 = hyper.beta2;
  ages.local_age = hyper.local_age;
  ages.schedule = &hyper.age_schedule;
  if (has_births) std::copy_n(clock.births, kCohortIds, ages.births.begin());
  for (std::size_t id = 0; id < (has_births ? ages.births.size() : 1); ++id) {
    const std::int64_t birth = ages.births[id];
    if (birth < 0 && id > 0) {
      ages.factors[id] = ages.factors[0];
      continue;
    }
    TORCH_CHECK_VALUE(birth >= 0 && birth < clock.step, "smet: cohort ", id, " of '", name,
                      "' was born at step ", birth, ", not in 0 to ", clock.step - 1,
                      ", the steps before this one: the optimizer state does not belong to this run");
    ages.factors[id] = kernels::reference::age_factors(hyper.ages(), clock.step, birth);
    if (birth > 0) ages.factors[id].warm = hyper.age_schedule(clock.step - birth);
  }
  ages_.push_back(ages);
  return ages_.back();
}

void check_cohorts(const at::Tensor& cohort, const at::Tensor& births, std::int64_t n, std::int64_t step,
                   const std::string& name) {
  const std::string where = "smet: loaded optimizer state of '" + name + "': ";
  TORCH_CHECK_VALUE(cohort.defined() && births.defined(), where,
                    "no cohort or no births; nothing was changed");
  TORCH_CHECK_VALUE(cohort.scalar_type() == at::kByte && cohort.dim() == 1 && cohort.numel() == n, where,
                    "cohort is ", cohort.scalar_type(), " ", cohort.sizes(), ", expected uint8 [", n,
                    "]; nothing was changed");
  TORCH_CHECK_VALUE(births.scalar_type() == at::kLong && births.dim() == 1 && births.numel() == kCohortIds,
                    where, "births are ", births.scalar_type(), " ", births.sizes(),
                    ", expected int64 [256]; nothing was changed");
  const at::Tensor ids = cohort.cpu().contiguous();
  std::array<bool, kCohortIds> used{};
  used[0] = true;
  for (std::int64_t i = 0; i < n; ++i) used[ids.const_data_ptr<std::uint8_t>()[i]] = true;
  const at::Tensor steps = births.cpu().contiguous();
  for (std::size_t id = 0; id < used.size(); ++id) {
    const std::int64_t birth = steps.const_data_ptr<std::int64_t>()[id];
    TORCH_CHECK_VALUE(birth <= step && birth >= (used[id] ? 0 : -1), where, "cohort ", id,
                      used[id] ? "" : ", unused,", " was born at step ", birth, ", expected 0 to ", step,
                      "; nothing was changed");
  }
}

std::int64_t rounding_key(std::uint64_t seed, std::int64_t index, std::int64_t step) {
  return static_cast<std::int64_t>(kernels::step_keys(seed, index, step).rounding);
}

std::int64_t moment_key(std::uint64_t seed, std::int64_t index, std::int64_t step) {
  return static_cast<std::int64_t>(kernels::step_keys(seed, index, step).moments);
}

}  // namespace smet
