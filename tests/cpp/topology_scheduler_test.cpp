// SPDX-License-Identifier: BSD-3-Clause
// The C++ front end of the topology engine. The engine itself is tested from Python (tests/python/
// test_topology_*.py), and that both front ends give the same bytes in tests/python/test_parity.py.
#include <gtest/gtest.h>
#include <smet/schedules.h>
#include <smet/smet.h>
#include <torch/torch.h>

#include <set>
#include <sstream>

namespace {

using smet::TopologyOptions;
using smet::TopologyScheduler;
using torch::Tensor;

struct Net : torch::nn::Module {
  Net() {
    up = register_module("up", smet::SparseLinear(smet::SparseLinearOptions(40, 70).density(0.3).name("up")));
    down = register_module("down",
                           smet::SparseLinear(smet::SparseLinearOptions(70, 33).bias(false).name("down")));
    torch::manual_seed(0);  // the dense layer alone draws from it
    head = register_module("head", torch::nn::Linear(33, 4));
  }
  Tensor forward(const Tensor& x) { return head->forward(down->forward(torch::tanh(up->forward(x)))); }
  smet::SparseLinear up{nullptr}, down{nullptr};
  torch::nn::Linear head{nullptr};
};

TopologyOptions options() {
  return TopologyOptions().interval(3).fraction(0.3).stop(1.0).total_steps(40);
}

Tensor batch(int64_t step) {
  return torch::sin(torch::arange(8 * 40, torch::kFloat) * 0.37 + static_cast<double>(step)).reshape({8, 40});
}

// Flat positions of a layer's values, read from the mask bit by bit.
std::vector<int64_t> active(const smet::SparseLinear& layer) {
  std::vector<int64_t> positions;
  const auto mask = layer->mask.accessor<int32_t, 2>();
  const int64_t cols = layer->options.in_features();
  for (int64_t row = 0; row < mask.size(0); ++row) {
    for (int64_t col = 0; col < cols; ++col) {
      if ((static_cast<uint32_t>(mask[row][col / 32]) >> (col % 32) & 1) != 0) {
        positions.push_back(row * cols + col);
      }
    }
  }
  return positions;
}

struct Training {
  explicit Training(const TopologyOptions& topology_options = options())
      : opt(net.parameters(), smet::CompactAdamWOptions(1e-2).warmup(5)), topo(net, opt, topology_options) {}

  std::optional<smet::TopologyUpdate> train(int64_t step) {
    opt.zero_grad();
    net.forward(batch(step)).square().mean().backward();
    opt.step();
    return topo.step();
  }

  std::vector<Tensor> tensors() {
    std::vector<Tensor> all = net.buffers();
    for (const Tensor& parameter : net.parameters()) {
      const auto& state = opt.state_of(parameter);
      for (const Tensor& tensor :
           {parameter, state.exp_avg(), state.exp_avg_sq(), state.cohort(), state.births()}) {
        if (tensor.defined()) all.push_back(tensor.detach());
      }
    }
    return all;
  }

  std::vector<Tensor> snapshot() {
    std::vector<Tensor> copies;
    for (const Tensor& tensor : tensors()) copies.push_back(tensor.clone());
    return copies;
  }

  Net net;
  smet::CompactAdamW opt;
  TopologyScheduler topo;
};

void expect_equal(const std::vector<Tensor>& a, const std::vector<Tensor>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) EXPECT_TRUE(torch::equal(a[i], b[i])) << "tensor " << i;
}

template <typename Error, typename F>
void expect_throw(F&& call, const std::string& text) {
  try {
    call();
    FAIL() << "no exception; expected one with: " << text;
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find(text), std::string::npos) << error.what();
  }
}

TEST(TopologyScheduler, UpdatesEveryIntervalUntilStop) {  // T12
  Training run(options().stop(9));
  std::vector<int64_t> seen;
  for (int64_t step = 1; step <= 12; ++step) {
    const auto before = run.topo.hash();
    const auto update = run.train(step);
    EXPECT_EQ(update.has_value(), run.topo.hash() != before);
    if (update.has_value()) seen.push_back(update->step);
  }
  EXPECT_EQ(seen, (std::vector<int64_t>{3, 6}));
  EXPECT_EQ(run.topo.steps(), 12);
  EXPECT_EQ(run.topo.updates(), 2);
  EXPECT_EQ(run.topo.last_update()->step, 6);
  EXPECT_EQ(run.topo.last_update()->hash, run.topo.hash());
}

TEST(TopologyScheduler, KeepsCountsAddressesAndSurvivors) {  // T1, T4, T5, T13
  Training run;
  for (int64_t step = 1; step < 3; ++step) run.train(step);
  const auto tensors = run.tensors();
  std::vector<void*> addresses;
  for (const Tensor& tensor : tensors) addresses.push_back(tensor.data_ptr());

  run.opt.zero_grad();
  run.net.forward(batch(3)).square().mean().backward();
  run.opt.step();
  const auto positions = active(run.net.up);
  const Tensor values = run.net.up->values.detach().clone();
  const Tensor grad = run.net.up->values.grad().clone();
  const auto update = run.topo.step();
  ASSERT_TRUE(update.has_value());
  ASSERT_EQ(update->layers.size(), 2U);
  EXPECT_EQ(update->layers[0].name, "up");

  const auto after = active(run.net.up);
  ASSERT_EQ(after.size(), positions.size());
  const std::set<int64_t> old(positions.begin(), positions.end());
  int64_t newborns = 0;
  for (size_t i = 0; i < after.size(); ++i) {
    const auto at = static_cast<int64_t>(i);
    const float value = run.net.up->values[at].item<float>();
    const float gradient = run.net.up->values.grad()[at].item<float>();
    if (old.contains(after[i])) {
      const auto from = std::lower_bound(positions.begin(), positions.end(), after[i]) - positions.begin();
      EXPECT_EQ(value, values[from].item<float>());
      EXPECT_EQ(gradient, grad[from].item<float>());
    } else {
      ++newborns;
      EXPECT_EQ(value, 0.0F);
      EXPECT_EQ(gradient, 0.0F);
      EXPECT_EQ(run.opt.state_of(run.net.up->values).cohort()[at].item<uint8_t>(), 1);
    }
  }
  EXPECT_EQ(newborns, update->layers[0].k);
  EXPECT_EQ(run.topo.ages("up").at(0), newborns);
  const auto now = run.tensors();
  for (size_t i = 0; i < now.size(); ++i) EXPECT_EQ(now[i].data_ptr(), addresses[i]);
}

TEST(TopologyScheduler, ReportsAndPrints) {
  Training run(options().track_explored(true));
  for (int64_t step = 1; step <= 6; ++step) run.train(step);
  const auto& update = *run.topo.last_update();
  EXPECT_EQ(update.update, 2);
  EXPECT_DOUBLE_EQ(update.fraction, smet::fraction_at("cosine", 0.3, 0.005, 6, 40));
  EXPECT_GT(update.explored().value(), update.density());
  EXPECT_GT(update.last_cohort_pruned().value(), 0.0);
  EXPECT_NE(update.to_string().find("topology update 2 at step 6"), std::string::npos);
  EXPECT_NE(update.to_string().find("\n  down: replaced"), std::string::npos);
}

TEST(TopologyScheduler, ResumesBitForBit) {  // C1
  for (const char* grow : {"random", "gradient"}) {
    Training straight(options().grow(grow).track_explored(true));
    Training first(options().grow(grow).track_explored(true));
    for (int64_t step = 1; step <= 5; ++step) first.train(step);
    std::stringstream model, optimizer, topology;
    torch::serialize::OutputArchive archive;
    first.topo.save(archive);
    archive.save_to(topology);
    torch::serialize::OutputArchive model_archive, optimizer_archive;
    first.net.save(model_archive);
    model_archive.save_to(model);
    first.opt.save(optimizer_archive);
    optimizer_archive.save_to(optimizer);

    Training second(options().grow(grow).track_explored(true));
    torch::serialize::InputArchive in_model, in_optimizer, in_topology;
    in_model.load_from(model);
    second.net.load(in_model);
    in_optimizer.load_from(optimizer);
    second.opt.load(in_optimizer);
    in_topology.load_from(topology);
    second.topo.load(in_topology);
    for (int64_t step = 6; step <= 14; ++step) second.train(step);
    for (int64_t step = 1; step <= 14; ++step) straight.train(step);
    expect_equal(second.tensors(), straight.tensors());
    EXPECT_EQ(second.topo.updates(), 4);
    EXPECT_EQ(second.topo.last_update()->to_string(), straight.topo.last_update()->to_string());
  }
}

TEST(TopologyScheduler, RefusesAStateOfOtherOptions) {
  Training run;
  std::stringstream stream;
  torch::serialize::OutputArchive archive;
  run.topo.save(archive);
  archive.save_to(stream);
  torch::serialize::InputArchive saved;
  saved.load_from(stream);
  Training other(options().interval(4));
  expect_throw<c10::ValueError>([&] { other.topo.load(saved); }, "saved with interval = 3");
  torch::serialize::InputArchive empty;
  std::stringstream nothing;
  torch::serialize::OutputArchive().save_to(nothing);
  empty.load_from(nothing);
  expect_throw<c10::ValueError>([&] { other.topo.load(empty); }, "holds no topology state");
}

TEST(TopologyScheduler, TakesFunctionsAsCriteria) {
  std::vector<std::string> seen;
  auto prune = [&](const smet::TopologyContext& context) {
    seen.push_back(context.layer.name);
    return context.positions().to(torch::kFloat);
  };
  Training run(options().interval(1).prune(smet::PruneFunction(prune)));
  const auto before = active(run.net.down);
  const auto update = run.train(1);
  const auto after = active(run.net.down);
  const std::set<int64_t> kept(after.begin(), after.end());
  for (size_t i = 0; i < before.size(); ++i) {
    EXPECT_EQ(kept.contains(before[i]), static_cast<int64_t>(i) >= update->layers[1].k);
  }
  EXPECT_EQ(seen, (std::vector<std::string>{"up", "down"}));
}

TEST(TopologyScheduler, AFailingFunctionOfTheSecondLayerChangesNothing) {  // T14
  auto grow = [](const smet::TopologyContext& context, int64_t k) {
    if (context.layer.name == "down") return context.positions().slice(0, 0, k);  // active
    std::vector<int64_t> free;
    const auto positions = context.positions();
    const auto* active = positions.const_data_ptr<int64_t>();
    for (int64_t position = 0, i = 0; static_cast<int64_t>(free.size()) < k; ++position) {
      if (i < positions.numel() && active[i] == position) {
        ++i;
      } else {
        free.push_back(position);
      }
    }
    return torch::tensor(free, torch::kLong);
  };
  Training run(options().interval(1).grow(smet::GrowFunction(grow)));
  run.net.forward(batch(0)).square().mean().backward();
  run.opt.step();
  const auto before = run.snapshot();
  expect_throw<c10::ValueError>([&] { run.topo.step(); }, "layer 'down': grow position");
  expect_equal(run.tensors(), before);
  EXPECT_EQ(run.topo.steps(), 0);
  EXPECT_FALSE(run.topo.last_update().has_value());
}

TEST(TopologyScheduler, GradientGrowthIsArmedForUpdateStepsAlone) {
  Training run(options().grow("gradient"));
  for (int64_t step = 1; step <= 7; ++step) {
    EXPECT_EQ(run.net.up->grow_candidates.defined(), step % 3 == 0);
    run.train(step);
  }
  Training every(options().grow("gradient").interval(1));
  ASSERT_TRUE(every.net.down->grow_candidates.defined());
  every.net.forward(batch(0)).square().mean();  // no backward
  for (const Tensor& parameter : every.net.parameters()) {
    parameter.mutable_grad() = torch::ones_like(parameter);
  }
  every.opt.step();
  const auto before = every.snapshot();
  expect_throw<c10::Error>([&] { every.topo.step(); }, "no candidates for layer 'up'");
  expect_equal(every.tensors(), before);
}

TEST(TopologyScheduler, MovesTheStateOfTorchOptimizers) {
  Net net;
  torch::optim::SGD opt(net.parameters(), torch::optim::SGDOptions(0.1).momentum(0.9));
  TopologyScheduler topo(net, opt, options().interval(1));
  net.forward(batch(0)).square().mean().backward();
  opt.step();
  auto& state =
      static_cast<torch::optim::SGDParamState&>(*opt.state().at(net.up->values.unsafeGetTensorImpl()));
  const Tensor momentum = state.momentum_buffer().clone();
  const auto before = active(net.up);
  topo.step();
  const auto after = active(net.up);
  for (size_t i = 0; i < after.size(); ++i) {
    const auto from = std::lower_bound(before.begin(), before.end(), after[i]);
    const bool survived = from != before.end() && *from == after[i];
    EXPECT_EQ(state.momentum_buffer()[static_cast<int64_t>(i)].item<float>(),
              survived ? momentum[from - before.begin()].item<float>() : 0.0F);
  }

  Net other;
  torch::optim::RMSprop unknown(other.parameters(), torch::optim::RMSpropOptions(0.1));
  TopologyScheduler refused(other, unknown, options().interval(1));
  other.forward(batch(0)).square().mean().backward();
  unknown.step();
  expect_throw<c10::ValueError>([&] { refused.step(); }, "layer 'up' is of a kind");
}

// The counter is read when an update is due; what did not happen by then is taken back.
TEST(TopologyScheduler, ReadsACounterOnTheDeviceOnlyWhenAnUpdateIsDue) {
  const auto run = [](bool capturable) {
    Net net;
    smet::CompactAdamW opt(
        net.parameters(),
        smet::CompactAdamWOptions(1e-2).capturable(capturable).on_nonfinite(capturable ? "ignore" : "raise"));
    TopologyScheduler topo(net, opt, options());
    std::vector<int64_t> seen;
    for (int64_t call = 0; call < 12; ++call) {
      opt.zero_grad();
      net.forward(batch(call)).square().mean().backward();
      if (call != 1 && call != 3 && call != 4) opt.step();
      topo.step();
      if (call == 4) seen.push_back(topo.steps());
    }
    seen.insert(seen.end(), {topo.steps(), topo.updates(), static_cast<int64_t>(topo.hash())});
    for (const auto& [age, count] : topo.ages("up")) seen.insert(seen.end(), {age, count});
    return seen;
  };
  EXPECT_EQ(run(true), run(false));
  EXPECT_EQ(run(true)[1], 9);
}

TEST(TopologyScheduler, LeavesFrozenLayersAloneAndCountsNoSkippedStep) {
  Training run(options().interval(1));
  run.net.up->values.set_requires_grad(false);
  const Tensor mask = run.net.up->mask.clone();
  const auto update = run.train(0);
  ASSERT_EQ(update->layers.size(), 1U);
  EXPECT_EQ(update->layers[0].name, "down");
  EXPECT_TRUE(torch::equal(run.net.up->mask, mask));
  EXPECT_FALSE(run.topo.step().has_value());  // the optimizer made no step
  EXPECT_EQ(run.topo.steps(), 1);
}

TEST(TopologyScheduler, AModelMayBeASingleLayer) {
  smet::SparseLinear layer(smet::SparseLinearOptions(20, 10).density(0.5));
  TopologyScheduler topo(*layer, options().interval(1));
  EXPECT_EQ(topo.step()->layers.at(0).name, "");
}

TEST(TopologyScheduler, RefusesBadInput) {
  Net net;
  smet::CompactAdamW opt(net.parameters());
  const auto refuse = [&](const TopologyOptions& bad, const std::string& text) {
    expect_throw<c10::ValueError>([&] { TopologyScheduler(net, opt, bad); }, text);
  };
  refuse(TopologyOptions(), "total_steps is 0");
  refuse(options().interval(0), "interval is 0");
  refuse(options().fraction(1.5), "fraction is 1.5");
  refuse(options().final_fraction(std::nan("")), "final_fraction is nan");
  refuse(options().stop(-0.1), "stop is -0.1");
  refuse(options().stop(41), "stop is step 41");
  refuse(options().fraction_schedule("cos"), "known: 'cosine', 'constant', 'linear', 'wsd'");
  refuse(options().prune("smallest"), "known: 'magnitude', 'magnitude_gradient', 'random'");
  refuse(options().grow("rigl"), "known: 'random', 'gradient'");
  refuse(options().prune(smet::PruneFunction()), "prune is an empty function");
  refuse(options().seed(-1), "seed is -1");
  torch::nn::Linear dense(3, 3);
  expect_throw<c10::ValueError>([&] { TopologyScheduler(*dense, options()); }, "no sparse layer");
  Net other;
  expect_throw<c10::ValueError>([&] { TopologyScheduler(other, opt, options()); },
                                "does not hold the values of layer 'up'");
  smet::CompactAdamW fused(other.parameters(), smet::CompactAdamWOptions().fused_backward(true));
  expect_throw<c10::ValueError>(
      [&] { TopologyScheduler(other, fused, options().prune("magnitude_gradient")); },
      "the optimizer has fused_backward(true), which frees every gradient");
  Training run;
  expect_throw<c10::ValueError>([&] { run.topo.ages("left"); }, "no sparse layer 'left'");
}

}  // namespace
