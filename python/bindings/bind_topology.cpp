// SPDX-License-Identifier: BSD-3-Clause
// What python/smet/topology_scheduler.py needs: the engine, layer views, criteria as Python callables.
#include <pybind11/stl.h>
#include <torch/csrc/autograd/python_variable.h>

#include <cstdio>
#include <memory>

#include "python/bindings/bindings.h"
#include "smet/distribution.h"
#include "smet/schedules.h"
#include "src/topology/engine.h"
#include "src/topology/layer_key.h"
#include "src/topology/observe.h"

namespace smet::bindings {
namespace {

namespace py = pybind11;
using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

OptionalTensor optional(const Tensor& tensor) {
  return tensor.defined() ? OptionalTensor(tensor) : std::nullopt;
}

LayerView make_view(std::string name, Tensor values, Tensor mask, Tensor rank, std::int64_t cols,
                    const OptionalTensor& grad, std::vector<Tensor> moments, const OptionalTensor& cohort,
                    const OptionalTensor& births, std::int64_t state_step, const OptionalTensor& candidates) {
  return {.name = std::move(name),
          .values = std::move(values),
          .mask = std::move(mask),
          .rank = std::move(rank),
          .cols = cols,
          .grad = grad.value_or(Tensor()),
          .moments = std::move(moments),
          .cohort = cohort.value_or(Tensor()),
          .births = births.value_or(Tensor()),
          .state_step = state_step,
          .grow_candidates = candidates.value_or(Tensor())};
}

// Criteria from Python. The engine runs without the GIL, so a call takes it, and so does dropping the last
// reference.
using Callable = std::shared_ptr<py::object>;

Callable hold(const py::object& callable) {
  return Callable(new py::object(callable), [](py::object* object) {
    const py::gil_scoped_acquire gil;
    delete object;
  });
}

Tensor as_tensor(const py::object& result, const char* role, const TopologyContext& context) {
  TORCH_CHECK_TYPE(THPVariable_Check(result.ptr()), "smet: the ", role, " callable returned ",
                   py::str(py::type::of(result).attr("__name__")).cast<std::string>(), " for layer '",
                   context.layer.name, "'; expected a torch.Tensor");
  return result.cast<Tensor>();
}

TopologyOptions::Prune make_prune(const py::object& prune) {
  if (py::isinstance<py::str>(prune)) return prune.cast<std::string>();
  TORCH_CHECK_TYPE(PyCallable_Check(prune.ptr()) != 0, "smet: prune is ", py::repr(prune).cast<std::string>(),
                   "; expected a name or a callable(context) -> scores");
  return PruneFunction([held = hold(prune)](const TopologyContext& context) {
    const py::gil_scoped_acquire gil;
    return as_tensor((*held)(context), "prune", context);
  });
}

TopologyOptions::Grow make_grow(const py::object& grow) {
  if (py::isinstance<py::str>(grow)) return grow.cast<std::string>();
  TORCH_CHECK_TYPE(PyCallable_Check(grow.ptr()) != 0, "smet: grow is ", py::repr(grow).cast<std::string>(),
                   "; expected a name or a callable(context, k) -> positions");
  return GrowFunction([held = hold(grow)](const TopologyContext& context, std::int64_t k) {
    const py::gil_scoped_acquire gil;
    return as_tensor((*held)(context, k), "grow", context);
  });
}

TopologyOptions make_options(const py::dict& options) {
  TopologyOptions result;
  result.interval(options["interval"].cast<std::int64_t>())
      .fraction(options["fraction"].cast<double>())
      .final_fraction(options["final_fraction"].cast<double>())
      .fraction_schedule(options["fraction_schedule"].cast<std::string>())
      .total_steps(options["total_steps"].cast<std::int64_t>())
      .prune(make_prune(options["prune"]))
      .grow(make_grow(options["grow"]))
      .seed(options["seed"].cast<std::int64_t>())
      .track_explored(options["track_explored"].cast<bool>());
  if (py::isinstance<py::int_>(options["stop"])) {
    result.stop(options["stop"].cast<std::int64_t>());
  } else {
    result.stop(options["stop"].cast<double>());
  }
  return result;
}

// State of the engine <-> dict of numbers, strings and tensors.

constexpr std::int64_t kStateVersion = 1;

py::dict state_to_dict(const TopologyState& state) {
  py::dict config;
  for (const auto& [name, value] : state.config) config[name.c_str()] = value;
  py::dict layers;
  for (const auto& [name, record] : state.layers) {
    py::dict layer;
    layer["n"] = record.n;
    layer["last_cohort_id"] = record.last_cohort_id;
    layer["last_cohort_size"] = record.last_cohort_size;
    if (record.explored.defined()) layer["explored"] = record.explored;
    layers[name.c_str()] = layer;
  }
  py::dict result;
  result["version"] = kStateVersion;
  result["config"] = config;
  result["steps"] = state.steps;
  result["updates"] = state.updates;
  result["optimizer_step"] = state.optimizer_step.value_or(-1);
  result["layers"] = layers;
  return result;
}

template <typename T>
T entry(const py::dict& dict, const char* key, const std::string& where) {
  TORCH_CHECK_VALUE(dict.contains(key), "smet: the saved topology state has no '", key, "'", where);
  try {
    return dict[key].cast<T>();
  } catch (const py::cast_error&) {
    TORCH_CHECK_VALUE(false, "smet: '", key, "'", where, " of the saved topology state is ",
                      py::repr(dict[key]).cast<std::string>(), ", which is not of the expected type");
  }
}

TopologyState state_from_dict(const py::dict& dict) {
  const auto version = entry<std::int64_t>(dict, "version", "");
  TORCH_CHECK_VALUE(version == kStateVersion, "smet: the topology state was saved in format ", version,
                    "; this smet reads format ", kStateVersion);
  TopologyState state;
  for (const auto& [name, value] : entry<py::dict>(dict, "config", "")) {
    state.config.emplace_back(name.cast<std::string>(), value.cast<TopologyState::Value>());
  }
  state.steps = entry<std::int64_t>(dict, "steps", "");
  state.updates = entry<std::int64_t>(dict, "updates", "");
  const auto optimizer_step = entry<std::int64_t>(dict, "optimizer_step", "");
  if (optimizer_step >= 0) state.optimizer_step = optimizer_step;
  for (const auto& [key, value] : entry<py::dict>(dict, "layers", "")) {
    const auto name = key.cast<std::string>();
    const auto layer = value.cast<py::dict>();
    const std::string where = " in layer '" + name + "'";
    LayerRecord record;
    record.n = entry<std::int64_t>(layer, "n", where);
    record.last_cohort_id = entry<std::int64_t>(layer, "last_cohort_id", where);
    record.last_cohort_size = entry<std::int64_t>(layer, "last_cohort_size", where);
    if (layer.contains("explored")) record.explored = entry<Tensor>(layer, "explored", where);
    state.layers.emplace(name, std::move(record));
  }
  return state;
}

// Reports.

std::string hash_text(std::uint64_t hash) {
  char text[17];
  std::snprintf(text, sizeof(text), "%016llx", static_cast<unsigned long long>(hash));
  return text;
}

template <typename T>
void common_entries(py::dict& dict, const T& update) {
  dict["density"] = update.density();
  dict["churn"] = update.churn();
  dict["last_cohort_pruned"] = update.last_cohort_pruned();
  dict["explored"] = update.explored();
  dict["hash"] = hash_text(update.hash);
}

py::dict as_dict(const LayerUpdate& update) {
  py::dict dict;
  dict["n"] = update.n;
  dict["k"] = update.k;
  dict["nan_count"] = update.nan_count;
  common_entries(dict, update);
  return dict;
}

py::dict as_dict(const TopologyUpdate& update) {
  py::dict dict;
  dict["update"] = update.update;
  dict["step"] = update.step;
  dict["fraction"] = update.fraction;
  dict["n"] = update.n();
  dict["k"] = update.k();
  dict["nan_count"] = update.nan_count();
  common_entries(dict, update);
  py::dict layers;
  for (const LayerUpdate& layer : update.layers) layers[layer.name.c_str()] = as_dict(layer);
  dict["layers"] = layers;
  return dict;
}

void bind_reports(py::module_& module) {
  py::class_<LayerUpdate>(module, "LayerUpdate", "What one topology update did to one layer.")
      .def_readonly("name", &LayerUpdate::name, "The layer's name.")
      .def_readonly("n", &LayerUpdate::n, "Active weights; the same before and after.")
      .def_readonly("k", &LayerUpdate::k, "Weights replaced.")
      .def_readonly("nan_count", &LayerUpdate::nan_count, "NaN scores; these weights are pruned first.")
      .def_readonly("hash", &LayerUpdate::hash, "64-bit hash of the positions.")
      .def_property_readonly("density", &LayerUpdate::density,
                             "Part of the positions that is active, n over all.")
      .def_property_readonly("churn", &LayerUpdate::churn, "Part of the weights that was replaced, k over n.")
      .def_property_readonly("last_cohort_pruned", &LayerUpdate::last_cohort_pruned,
                             "Part of the previous update's newborns that this one pruned, or None.")
      .def_property_readonly("explored", &LayerUpdate::explored,
                             "Part of the positions that was ever active, or None without track_explored.")
      .def(
          "as_dict", [](const LayerUpdate& update) { return as_dict(update); },
          "The same as numbers and strings.");
  py::class_<TopologyUpdate>(module, "TopologyUpdate", "What one topology update did; print it.")
      .def_readonly("update", &TopologyUpdate::update, "Number of the update, 1-based.")
      .def_readonly("step", &TopologyUpdate::step, "Optimizer steps done.")
      .def_readonly("fraction", &TopologyUpdate::fraction, "Asked for: f(step).")
      .def_readonly("hash", &TopologyUpdate::hash, "64-bit hash of the positions.")
      .def_readonly("layers", &TopologyUpdate::layers, "What it did to each layer.")
      .def_property_readonly("n", &TopologyUpdate::n, "Active weights; the same before and after.")
      .def_property_readonly("k", &TopologyUpdate::k, "Weights replaced.")
      .def_property_readonly("nan_count", &TopologyUpdate::nan_count,
                             "NaN scores; these weights are pruned first.")
      .def_property_readonly("density", &TopologyUpdate::density,
                             "Part of the positions that is active, n over all.")
      .def_property_readonly("churn", &TopologyUpdate::churn,
                             "Part of the weights that was replaced, k over n.")
      .def_property_readonly("last_cohort_pruned", &TopologyUpdate::last_cohort_pruned,
                             "Part of the previous update's newborns that this one pruned, or None.")
      .def_property_readonly("explored", &TopologyUpdate::explored,
                             "Part of the positions that was ever active, or None without track_explored.")
      .def(
          "as_dict", [](const TopologyUpdate& update) { return as_dict(update); },
          "The same as numbers and strings.")
      .def("__str__", &TopologyUpdate::to_string)
      .def("__repr__", &TopologyUpdate::to_string);
}

void bind_views(py::module_& module) {
  py::class_<LayerView>(module, "LayerView", "One sparse layer as the topology engine sees it.")
      .def(py::init(&make_view), py::kw_only(), py::arg("name"), py::arg("values"), py::arg("mask"),
           py::arg("rank"), py::arg("cols"), py::arg("grad") = py::none(),
           py::arg("moments") = std::vector<Tensor>(), py::arg("cohort") = py::none(),
           py::arg("births") = py::none(), py::arg("state_step") = 0, py::arg("grow_candidates") = py::none())
      .def_readonly("name", &LayerView::name);
  py::class_<TopologyContext>(module, "TopologyContext", "What a prune or grow callable may look at.")
      .def_property_readonly("name", [](const TopologyContext& context) { return context.layer.name; })
      .def_property_readonly("values",
                             [](const TopologyContext& context) { return context.layer.values.detach(); })
      .def_property_readonly("grad",
                             [](const TopologyContext& context) { return optional(context.layer.grad); })
      .def_property_readonly("cohort",
                             [](const TopologyContext& context) { return optional(context.layer.cohort); })
      .def_property_readonly("mask", [](const TopologyContext& context) { return context.layer.mask; })
      .def_property_readonly("out_features",
                             [](const TopologyContext& context) { return context.layer.mask.size(0); })
      .def_property_readonly("in_features", [](const TopologyContext& context) { return context.layer.cols; })
      .def_property_readonly("positions", &TopologyContext::positions)
      .def_readonly("step", &TopologyContext::step)
      .def_readonly("update", &TopologyContext::update)
      .def_readonly("key", &TopologyContext::key);
  using no_gil = py::call_guard<py::gil_scoped_release>;
  module.def("age_histogram", &age_histogram, py::arg("layer"), no_gil());
  module.def(
      "topology_hash", [](const std::vector<LayerView>& layers) { return topology_hash(layers); },
      py::arg("layers"), no_gil());
}

// What Python would do between two bytecodes: run the handlers of signals that came, which may raise.
void raise_signals() {
  const py::gil_scoped_acquire gil;
  if (PyErr_CheckSignals() != 0) throw py::error_already_set();
}

void bind_engine(py::module_& module) {
  using OptimizerStep = TopologyEngine::OptimizerStep;
  py::class_<TopologyEngine>(module, "TopologyEngine")
      .def(py::init([](const py::dict& options, const std::vector<LayerView>& layers,
                       OptimizerStep optimizer_step) {
             return std::make_unique<TopologyEngine>(make_options(options), layers, optimizer_step);
           }),
           py::arg("options"), py::arg("layers"), py::arg("optimizer_step"))
      .def("stalled", &TopologyEngine::stalled)
      .def("due", &TopologyEngine::due)
      .def("advance", &TopologyEngine::advance)
      .def("settle", &TopologyEngine::settle)
      .def("expected_step", &TopologyEngine::expected_step)
      .def(
          "update",
          [](TopologyEngine& engine, const std::vector<LayerView>& layers, OptimizerStep optimizer_step) {
            return engine.update(layers, optimizer_step, &raise_signals);
          },
          py::call_guard<py::gil_scoped_release>())
      .def("candidates_wanted", &TopologyEngine::candidates_wanted)
      .def_property_readonly("needs_candidates", &TopologyEngine::needs_candidates)
      .def_property_readonly("steps", [](const TopologyEngine& engine) { return engine.state().steps; })
      .def_property_readonly("updates", [](const TopologyEngine& engine) { return engine.state().updates; })
      .def_property_readonly("end_step",
                             [](const TopologyEngine& engine) { return engine.options().end_step(); })
      .def("fraction_at",
           [](const TopologyEngine& engine, std::int64_t step) { return engine.options().fraction_at(step); })
      .def("state_dict", [](const TopologyEngine& engine) { return state_to_dict(engine.state()); })
      .def("check_state_dict", [](const TopologyEngine& engine,
                                  const py::dict& state) { engine.check_state(state_from_dict(state)); })
      .def("load_state_dict",
           [](TopologyEngine& engine, const py::dict& state) { engine.load_state(state_from_dict(state)); });
}

void bind_distribution(py::module_& module) {
  using Shapes = std::vector<std::array<std::int64_t, 2>>;
  module.def("active_count", &active_count, py::arg("density"), py::arg("out_features"),
             py::arg("in_features"),
             "n = round(density * out * in), halves away from zero: the exact count of one layer.");
  module.def(
      "distribute",
      [](const Shapes& shapes, double density, const std::string& name) {
        return distribute(shapes, density, name);
      },
      py::arg("shapes"), py::arg("density"), py::arg("distribution") = "uniform",
      "Active weights of each layer (shapes are (out, in)) at one global density.");
  module.def("distribution_names", &distribution_names);
  module.def("layer_key", [](std::uint64_t seed, const std::string& name) { return layer_key(seed, name); });
}

}  // namespace

void bind_topology(py::module_& module) {
  bind_distribution(module);
  bind_reports(module);
  bind_views(module);
  bind_engine(module);
  module.def("prune_criteria", &prune_criteria);
  module.def("grow_criteria", &grow_criteria);
  module.def("fraction_schedules", &fraction_schedules);
  module.def(
      "fraction_at",
      [](const std::string& schedule, double fraction, double final_fraction, std::int64_t step,
         std::int64_t total_steps) {
        return fraction_at(schedule, fraction, final_fraction, step, total_steps);
      },
      py::arg("schedule"), py::arg("fraction"), py::arg("final_fraction"), py::arg("step"),
      py::arg("total_steps"));
}

}  // namespace smet::bindings
