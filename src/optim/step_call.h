// SPDX-License-Identifier: BSD-3-Clause
// One optimizer step over any number of parameter groups: both front ends collect, this builds the tables and
// makes the one operator call. With counters on the device (capturable) the tables are built there, by two
// small operators around it, and nothing that is handed over changes from step to step, so that a CUDA graph
// which holds the three takes a new step at every replay.
#pragma once

#include <ATen/core/List.h>
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "src/optim/cohort_table.h"
#include "src/optim/moments.h"

namespace smet {

// One parameter with its state before the step. `cohort` and `births` are undefined for dense parameters.
struct ParamUpdate {
  at::Tensor param, grad;
  Moments moments;
  at::Tensor master_low;  // int16, like the parameter; undefined without masters
  at::Tensor cohort;      // uint8 [n]
  at::Tensor births;      // int64 [256], on the CPU; where counter is defined, on its device
  std::int64_t step = 0;  // updates so far; the front end adds 1 after run()
  at::Tensor counter;  // capturable: in place of step, an int64 scalar where the parameter is; run() counts
  std::int64_t index = 0;  // in optimizer order
  std::string name;        // for errors; "" = default_name
};

class StepCall {
 public:
  // Computes the tables; throws before anything is changed. `hyper` must outlive the call to run().
  void add(ParamUpdate update, const AdamWHyper& hyper);

  // smet::adamw_step_ of everything that was added; nothing when that is nothing. found_inf and grad_scale:
  // what a GradScaler decided, as the operator takes it.
  void run(bool check_finite, const std::optional<at::Tensor>& found_inf = std::nullopt,
           const std::optional<at::Tensor>& grad_scale = std::nullopt);

 private:
  // Arguments of smet::cohort_table.
  struct DeviceClocks {
    std::vector<at::Tensor> steps, births, lrs;
    std::vector<double> lr, lr_scale, weight_decay, warmup, boost, boost_tau;
    c10::List<bool> local_age;
    std::vector<std::int64_t> seeds, indices;
  };

  void add_moments(const ParamUpdate& update);
  void add_device_clock(const ParamUpdate& update, const AdamWHyper& hyper);
  at::Tensor derive_tables();  // fills tables_, returns the keys

  CohortTables cohort_tables_;
  DeviceClocks clocks_;  // of all parameters, or of none
  std::vector<at::Tensor> params_, grads_, exp_avgs_, exp_avg_sqs_, scales_, scale_sqs_, master_lows_, ranks_,
      cohorts_, tables_;
  std::vector<double> beta1_, beta2_, eps_, l2_;
  c10::List<bool> maximize_;
  std::vector<std::int64_t> cols_, rounding_keys_, moment_keys_;
  c10::List<std::string> names_;
};

// For errors: the registered name of a layer's values, else "parameter <index>".
std::string default_name(const at::Tensor& param, std::int64_t index);

// Density of `param` where it is the values of a sparse layer, else 1.
double density_of(const at::Tensor& param);

}  // namespace smet
