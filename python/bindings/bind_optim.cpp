// SPDX-License-Identifier: BSD-3-Clause
// What python/smet/compact_adamw.py needs: option checks and the step. State lives in Python, as torch's
// optimizers keep it; the arithmetic of ages lives in C++, once.
#include <pybind11/functional.h>
#include <pybind11/stl.h>
#include <torch/csrc/autograd/python_variable.h>

#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "kernels/adamw_compact.h"
#include "python/bindings/bindings.h"
#include "src/ops/first_nonfinite.h"
#include "src/optim/cohort_table.h"
#include "src/optim/step_call.h"

namespace smet::bindings {
namespace {

namespace py = pybind11;
using at::Tensor;

// age_schedule: None or "linear" (the formula of the warmup and boost options), "none", or callable(age) ->
// factor.
AgeSchedule make_age_schedule(const py::object& schedule, double warmup, double boost, double boost_tau) {
  if (schedule.is_none()) return AgeSchedule::boosted(warmup, boost, boost_tau);
  if (PyCallable_Check(schedule.ptr()) != 0) {
    return AgeSchedule::function(schedule.cast<std::function<double(std::int64_t)>>());
  }
  const auto word = py::str(schedule).cast<std::string>();
  if (word == "none") return AgeSchedule::none();
  TORCH_CHECK_VALUE(word == "linear", "Invalid age_schedule: ", word,
                    "; expected None, \"linear\", \"none\" or a callable(age) -> factor");
  return AgeSchedule::boosted(warmup, boost, boost_tau);
}

// A value of a parameter group as a T; TypeError that names the option where it is none.
template <class T>
T option(const py::dict& group, const char* name, const char* expected) {
  try {
    return group[name].cast<T>();
  } catch (const py::cast_error&) {
    TORCH_CHECK_TYPE(false, "Invalid ", name, ": ", py::repr(group[name]).cast<std::string>(), "; expected ",
                     expected);
  }
}

double number(const py::dict& group, const char* name) {
  const py::object value = group[name];
  if (THPVariable_Check(value.ptr()))
    return py::float_(value).cast<double>();  // what torch says of it is kept
  return option<double>(group, name, "a number");
}
bool flag(const py::dict& group, const char* name) {
  return option<bool>(group, name, "True or False");
}

// lr_stays: a tensor among the options is not read here, which would wait for its device.
AdamWHyper make_hyper(const py::dict& group, bool lr_stays = false) {
  AdamWHyper hyper;
  if (lr_stays && THPVariable_Check(group["lr"].ptr())) {
    hyper.lr_tensor = group["lr"].cast<Tensor>();
  } else {
    hyper.lr = number(group, "lr");
  }
  std::tie(hyper.beta1, hyper.beta2) = option<std::pair<double, double>>(group, "betas", "two numbers");
  hyper.eps = number(group, "eps");
  hyper.weight_decay = number(group, "weight_decay");
  hyper.coupled_weight_decay = flag(group, "coupled_weight_decay");
  hyper.density_scaling = number(group, "density_scaling");
  hyper.age_schedule = make_age_schedule(group["age_schedule"], number(group, "warmup"),
                                         number(group, "boost"), number(group, "boost_tau"));
  hyper.local_age = flag(group, "local_age");
  hyper.maximize = flag(group, "maximize");
  hyper.stochastic_rounding = flag(group, "stochastic_rounding");
  hyper.master_weights = flag(group, "master_weights");
  hyper.moments = option<std::string>(group, "moments", "a string");
  hyper.seed = option<std::uint64_t>(group, "seed", "an integer from 0 to 2^64 - 1");
  return hyper;
}

// (param, state, name, index)
using Item = std::tuple<Tensor, py::dict, std::string, std::int64_t>;

Tensor optional_state(const py::dict& state, const char* key) {
  return state.contains(key) ? state[key].cast<Tensor>() : Tensor();
}

Moments moments_of(const py::dict& state) {
  return {optional_state(state, "exp_avg"), optional_state(state, "exp_avg_sq"),
          optional_state(state, "exp_avg_scale"), optional_state(state, "exp_avg_sq_scale")};
}

py::dict moments_dict(const Tensor& param, const std::string& option) {
  const Moments moments = new_moments(param, option);
  py::dict state;
  state["exp_avg"] = moments.exp_avg;
  state["exp_avg_sq"] = moments.exp_avg_sq;
  if (!moments.block8()) return state;
  state["exp_avg_scale"] = moments.exp_avg_scale;
  state["exp_avg_sq_scale"] = moments.exp_avg_sq_scale;
  return state;
}

// The counter of a state: an int64 scalar on the CPU, written in place after the step.
std::int64_t* step_counter(const py::dict& state, const std::string& name) {
  const auto step = state["step"].cast<Tensor>();
  TORCH_CHECK_VALUE(step.scalar_type() == at::kLong && step.device().is_cpu() && step.numel() == 1,
                    "smet: the step of '", name, "' is ", step.scalar_type(), " ", step.sizes(), " on ",
                    step.device(), "; expected an int64 scalar on the CPU");
  return step.mutable_data_ptr<std::int64_t>();
}

// groups: [(options, [Item])]. One operator call for all of them; the steps move only after it. capturable:
// they are where the parameters are, and move there.
void compact_adamw_step(const std::vector<std::pair<py::dict, std::vector<Item>>>& groups, bool check_finite,
                        const std::optional<Tensor>& found_inf, const std::optional<Tensor>& grad_scale,
                        bool capturable) {
  std::vector<AdamWHyper> hypers;
  hypers.reserve(groups.size());  // StepCall keeps references
  std::vector<std::int64_t*> steps;
  StepCall call;
  for (const auto& [options, items] : groups) {
    const AdamWHyper& hyper = hypers.emplace_back(make_hyper(options, capturable));
    for (const auto& [param, state, name, index] : items) {
      ParamUpdate update;
      update.param = param;
      update.grad = param.grad();
      update.moments = moments_of(state);
      update.master_low = optional_state(state, "master_low");
      update.cohort = optional_state(state, "cohort");
      update.births = optional_state(state, "births");
      update.index = index;
      update.name = name;
      if (capturable) {
        update.counter = state["step"].cast<Tensor>();
      } else {
        steps.push_back(step_counter(state, name));
        update.step = *steps.back();
      }
      call.add(std::move(update), hyper);
    }
  }
  {
    const py::gil_scoped_release no_gil;
    call.run(check_finite, found_inf, grad_scale);
  }
  for (std::int64_t* step : steps) ++*step;
}

}  // namespace

void bind_optim(py::module_& module) {
  module.def(
      "check_adamw_options", [](const py::dict& group) { make_hyper(group).check(); }, py::arg("group"),
      "Raises ValueError naming the option of a parameter group that is out of range.");
  module.def(
      "block8_scales",
      [](std::int64_t rows, std::int64_t cols, std::int64_t n, bool sparse) -> std::int64_t {
        if (!sparse && !kernels::block8_worthwhile(cols)) return 0;
        return rows * kernels::blocks_per_row(cols, kernels::block8_segments(rows, cols, n));
      },
      py::arg("rows"), py::arg("cols"), py::arg("n"), py::arg("sparse"),
      "Scales of each 8-bit moment of n weights in rows x cols positions; 0 where dense ones stay float32.");
  module.def(
      "new_moments", &moments_dict, py::arg("param"), py::arg("moments"),
      "The moments of a state that was never updated: exp_avg, exp_avg_sq, and scales where they are 8-bit.");
  module.def(
      "moments_problem",
      [](const Tensor& param, const py::dict& saved) { return moments_problem(param, moments_of(saved)); },
      py::arg("param"), py::arg("saved"),
      "What is wrong with moments that were saved for `param`, or an empty text.");
  module.def(
      "copy_moments_",
      [](const Tensor& param, const py::dict& to, const py::dict& saved) {
        copy_moments_(param, moments_of(to), moments_of(saved));
      },
      py::arg("param"), py::arg("to"), py::arg("saved"),
      "The moments of `saved` in the format of `to`, to nearest; a second moment above 0 stays above 0.");
  module.def("check_cohorts", &check_cohorts, py::arg("cohort"), py::arg("births"), py::arg("n"),
             py::arg("step"), py::arg("name"),
             "Raises ValueError unless loaded cohorts and births fit n weights at that step.");
  module.def(
      "compact_adamw_step", &compact_adamw_step, py::arg("groups"), py::arg("check_finite"),
      py::arg("found_inf") = py::none(), py::arg("grad_scale") = py::none(), py::arg("capturable") = false,
      "One AdamW step of every (options, [(param, state, name, index)]); nothing changes on error. Where "
      "found_inf is not 0 only the counters move.");
  module.def(
      "first_nonfinite", [](const std::vector<Tensor>& tensors) { return ops::first_nonfinite(tensors); },
      py::arg("tensors"), py::call_guard<py::gil_scoped_release>(),
      "Index of the first tensor that holds NaN or infinity, or -1.");
  module.def(
      "age_factor",
      [](const py::object& schedule, double warmup, double boost, double boost_tau, std::int64_t age) {
        return make_age_schedule(schedule, warmup, boost, boost_tau)(age);
      },
      py::arg("age_schedule"), py::arg("warmup"), py::arg("boost"), py::arg("boost_tau"), py::arg("age"),
      "warm(age): the factor on the learning rate of a weight regrown after step 0.");
}

}  // namespace smet::bindings
