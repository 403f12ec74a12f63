// SPDX-License-Identifier: BSD-3-Clause
#include "smet/compact_adamw.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <cstdlib>
#include <fstream>
#include <sstream>

#include "smet/values_registry.h"

namespace smet {
namespace {

using torch::Tensor;

// Numbers that C++ and Python compute exactly: small integers over a power of two.
Tensor formula(int64_t n, int64_t step) {
  const Tensor i = torch::arange(n, torch::kLong);
  return ((i * 7919 + step * 104729) * 40503 % 65536 % 2048).to(torch::kFloat) / 1024 - 1;
}

struct Model {
  Tensor values, weight, bias, rank;

  explicit Model(torch::Dtype dtype = torch::kFloat) {
    values = formula(150, 1).to(dtype).requires_grad_();
    rank = (torch::arange(20, torch::kInt) * 15).div(2, "floor").reshape({20, 1});  // 7 or 8 in a row
    register_values(values, 20, 30, "fc", rank);
    weight = formula(700, 2).reshape({7, 100}).to(dtype).requires_grad_();
    bias = formula(7, 3).requires_grad_();
  }
  std::vector<Tensor> parameters() const { return {values, weight, bias}; }
  void set_gradients(int64_t step) const {
    int64_t salt = 0;
    for (const Tensor& p : parameters()) {
      p.mutable_grad() = formula(p.numel(), 100 + 3 * step + salt++).reshape(p.sizes()).to(p.dtype());
    }
  }
};

void regrow(CompactAdamW& opt, const Tensor& values, int64_t first, int64_t id) {
  auto& state = opt.state_of(values);
  const auto newborn = torch::indexing::Slice(first, torch::indexing::None, 9);
  const torch::NoGradGuard no_grad;
  for (Tensor tensor : {Tensor(values), state.exp_avg(), state.exp_avg_sq(), state.master_low()}) {
    if (tensor.defined()) tensor.index_put_({newborn}, 0);
  }
  state.cohort().index_put_({newborn}, id);
  state.births().index_put_({id}, state.step());
}

void train(CompactAdamW& opt, const Model& model, int64_t begin, int64_t end) {
  for (int64_t step = begin; step < end; ++step) {
    if (step == 4) regrow(opt, model.values, 1, 1);
    if (step == 9) regrow(opt, model.values, 5, 200);
    model.set_gradients(step);
    opt.step();
  }
}

std::vector<Tensor> everything(CompactAdamW& opt, const Model& model) {
  std::vector<Tensor> all;
  for (const Tensor& p : model.parameters()) {
    const auto& state = opt.state_of(p);
    all.insert(all.end(), {p.detach().clone(), state.exp_avg().clone(), state.exp_avg_sq().clone(),
                           torch::tensor(state.step())});
    if (state.exp_avg_scale().defined()) {
      all.insert(all.end(), {state.exp_avg_scale().clone(), state.exp_avg_sq_scale().clone()});
    }
    if (state.master_low().defined()) all.push_back(state.master_low().clone());
    if (state.cohort().defined()) all.insert(all.end(), {state.cohort().clone(), state.births().clone()});
  }
  return all;
}

void expect_equal(const std::vector<Tensor>& a, const std::vector<Tensor>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) EXPECT_TRUE(torch::equal(a[i], b[i])) << i;
}

template <typename Error>
std::string message_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what_without_backtrace();
  }
  return "(no error)";
}

#define EXPECT_MESSAGE(Error, action, text)                         \
  {                                                                 \
    const std::string message = message_of<Error>([&] { action; }); \
    EXPECT_NE(message.find(text), std::string::npos) << message;    \
  }

TEST(CompactAdamW, DenseStepsEqualTorchsAdamW) {
  Tensor p = formula(500, 1).to(torch::kDouble).requires_grad_();
  Tensor q = p.detach().clone().requires_grad_();
  CompactAdamW ours({p}, CompactAdamWOptions(1e-2).weight_decay(0.1));
  torch::optim::AdamW theirs({q}, torch::optim::AdamWOptions(1e-2).weight_decay(0.1));
  for (int64_t step = 0; step < 20; ++step) {
    p.mutable_grad() = formula(500, 50 + step).to(torch::kDouble);
    q.mutable_grad() = p.grad().clone();
    ours.step();
    theirs.step();
  }
  EXPECT_TRUE(torch::allclose(p, q, 1e-13, 1e-15));
}

TEST(CompactAdamW, StateExistsFromConstructionAndFrozenCostsNone) {
  Model model;
  model.bias.set_requires_grad(false);
  CompactAdamW opt(model.parameters());
  EXPECT_EQ(opt.state().size(), 2U);
  EXPECT_EQ(opt.state_of(model.values).cohort().scalar_type(), torch::kByte);
  EXPECT_EQ(opt.state_of(model.values).births()[0].item<int64_t>(), 0);
  EXPECT_EQ(opt.state_of(model.values).births()[1].item<int64_t>(), -1);
  EXPECT_FALSE(opt.state_of(model.weight).cohort().defined());
  model.set_gradients(0);
  const Tensor before = model.bias.detach().clone();
  opt.step();
  EXPECT_TRUE(torch::equal(model.bias, before));
  EXPECT_EQ(opt.state_of(model.weight).step(), 1);
}

TEST(CompactAdamW, GroupsKeepTheirOptions) {
  Model model;
  std::vector<torch::optim::OptimizerParamGroup> groups;
  groups.emplace_back(
      std::vector<Tensor>{model.values},
      std::make_unique<CompactAdamWOptions>(CompactAdamWOptions(0.5).density_scaling(0).warmup(7)));
  groups.emplace_back(std::vector<Tensor>{model.weight});
  CompactAdamW opt(groups, CompactAdamWOptions(0.25));
  opt.add_param_group(torch::optim::OptimizerParamGroup(
      {model.bias}, std::make_unique<CompactAdamWOptions>(CompactAdamWOptions(0.125).maximize(true))));
  const auto& first = static_cast<const CompactAdamWOptions&>(opt.param_groups()[0].options());
  EXPECT_EQ(first.lr(), 0.5);
  EXPECT_EQ(first.density_scaling(), 0);
  EXPECT_EQ(first.age_schedule().warmup, 7);
  EXPECT_EQ(opt.param_groups()[1].options().get_lr(), 0.25);
  EXPECT_EQ(opt.param_groups()[2].options().get_lr(), 0.125);
  const Tensor start = model.bias.detach().clone();
  for (const Tensor& p : model.parameters()) p.mutable_grad() = torch::ones_like(p);
  opt.step();
  EXPECT_TRUE((model.bias > start * (1 - 0.125 * 0.01)).all().item<bool>());  // the maximising group rose
}

TEST(CompactAdamW, SchedulersOfTorchDriveIt) {
  const Tensor p = torch::ones({3}, torch::requires_grad());
  CompactAdamW ours({p}, CompactAdamWOptions(1.0));
  torch::optim::AdamW theirs({p}, torch::optim::AdamWOptions(1.0));
  torch::optim::StepLR schedule(ours, 2, 0.5);
  torch::optim::StepLR their_schedule(theirs, 2, 0.5);
  for (int step = 0; step < 7; ++step) {
    schedule.step();
    their_schedule.step();
    EXPECT_EQ(ours.param_groups()[0].options().get_lr(), theirs.param_groups()[0].options().get_lr());
  }
  EXPECT_LT(ours.param_groups()[0].options().get_lr(), 1);
}

TEST(CompactAdamW, ClosureRunsOnceWithGradients) {
  Model model;
  CompactAdamW opt(model.parameters());
  int calls = 0;
  const torch::NoGradGuard no_grad;
  const Tensor loss = opt.step([&] {
    ++calls;
    opt.zero_grad();
    Tensor value = (model.weight * model.weight).sum();
    value.backward();
    return value;
  });
  EXPECT_EQ(calls, 1);
  EXPECT_TRUE(loss.requires_grad());
  EXPECT_EQ(opt.state_of(model.weight).step(), 1);
  EXPECT_EQ(opt.state_of(model.values).step(), 0);  // no gradient: its step stands still
}

// Of `opt`, as an optimizer that is built with `moments` loads it.
std::unique_ptr<CompactAdamW> through_archive(const CompactAdamW& opt, const Model& from, const Model& to,
                                              const std::string& moments) {
  std::stringstream file;
  torch::serialize::OutputArchive out;
  opt.save(out);
  out.save_to(file);
  {
    const torch::NoGradGuard no_grad;
    for (size_t i = 0; i < 3; ++i) to.parameters()[i].copy_(from.parameters()[i]);
  }
  auto loaded = std::make_unique<CompactAdamW>(to.parameters(), CompactAdamWOptions(0.5).moments(moments));
  torch::serialize::InputArchive in;
  in.load_from(file);
  loaded->load(in);
  return loaded;
}

TEST(CompactAdamW, SavedAndLoadedContinuesBitEqual) {
  for (const std::string moments : {"fp32", "bf16", "8bit"}) {
    Model model(torch::kBFloat16);
    CompactAdamW opt(model.parameters(),
                     CompactAdamWOptions(1e-2).warmup(20).stochastic_rounding(true).moments(moments).seed(3));
    train(opt, model, 0, 12);
    Model other(torch::kBFloat16);
    const auto loaded = through_archive(opt, model, other, moments);
    EXPECT_EQ(loaded->param_groups()[0].options().get_lr(), 1e-2);
    EXPECT_EQ(loaded->state_of(other.values).exp_avg().scalar_type(), moments == "fp32"   ? torch::kFloat
                                                                      : moments == "bf16" ? torch::kBFloat16
                                                                                          : torch::kChar);
    train(opt, model, 12, 20);
    train(*loaded, other, 12, 20);
    expect_equal(everything(opt, model), everything(*loaded, other));
  }
}

TEST(CompactAdamW, MomentsOfTheOtherFormatAreConverted) {
  Model model;
  CompactAdamW opt(model.parameters(), CompactAdamWOptions(1e-2));
  train(opt, model, 0, 3);
  opt.state_of(model.values).exp_avg_sq()[0] = 1e-44;
  Model other;
  const auto loaded = through_archive(opt, model, other, "bf16");
  const Tensor v = loaded->state_of(other.values).exp_avg_sq();
  EXPECT_EQ(v[0].item<double>(), 0x1p-133);  // above 0 stays above 0
  EXPECT_TRUE(
      torch::equal(v.slice(0, 1), opt.state_of(model.values).exp_avg_sq().slice(0, 1).to(torch::kBFloat16)));
  train(*loaded, other, 3, 4);
  // To 8 bits and back: off by at most half the distance of two codes, 2 c + 1 units of scale / 255^2.
  Model third;
  const auto codes = through_archive(opt, model, third, "8bit");
  const auto& state = codes->state_of(third.weight);
  EXPECT_EQ(state.exp_avg_sq().scalar_type(), torch::kByte);
  EXPECT_EQ(state.exp_avg_scale().sizes(), torch::IntArrayRef({7, 1}));
  EXPECT_GT(codes->state_of(third.values).exp_avg_sq()[0].item<int>(), 0);
  Model fourth;
  const auto back = through_archive(*codes, third, fourth, "fp32");
  const Tensor root = opt.state_of(model.weight).exp_avg_sq().sqrt();
  const Tensor unit = state.exp_avg_sq_scale() / (255 * 255);
  const Tensor apart = (back->state_of(fourth.weight).exp_avg_sq().sqrt() - root).abs();
  EXPECT_TRUE((apart <= (state.exp_avg_sq().to(torch::kFloat) + 1) * unit).all().item<bool>());
  train(*codes, third, 3, 4);
}

TEST(CompactAdamW, MomentsThatDoNotFitAreRefused) {
  Model model;
  EXPECT_MESSAGE(c10::ValueError, CompactAdamW(model.parameters(), CompactAdamWOptions(1e-2).moments("int8")),
                 "expected \"fp32\", \"bf16\" or \"8bit\"");
  Model precise(torch::kDouble);
  EXPECT_MESSAGE(c10::TypeError,
                 CompactAdamW(precise.parameters(), CompactAdamWOptions(1e-2).moments("bf16")),
                 "got a float64 parameter and moments=\"bf16\"");
  CompactAdamW lost(model.parameters(), CompactAdamWOptions(1e-2).moments("8bit"));
  model.rank = Tensor();  // the layer is gone
  model.set_gradients(0);
  EXPECT_MESSAGE(c10::ValueError, lost.step(), "the positions of 'fc.values' are unknown");
  CompactAdamW opt({model.values});
  EXPECT_MESSAGE(c10::ValueError, opt.state_of(model.bias), "in none of this optimizer's groups");
}

// Counters, births and learning rate read where the parameters are: the ordinary run, through an archive too.
TEST(CompactAdamW, CapturableEqualsTheOrdinaryStep) {
  for (const std::string moments : {"fp32", "bf16"}) {
    const auto ordinary =
        CompactAdamWOptions(1e-2).warmup(6).boost(2).stochastic_rounding(true).moments(moments);
    const auto capturable = CompactAdamWOptions(ordinary).capturable(true).on_nonfinite("ignore").lr_tensor(
        torch::tensor(1e-2, torch::kDouble));
    Model a(torch::kBFloat16), b(torch::kBFloat16), c(torch::kBFloat16);
    CompactAdamW want(a.parameters(), ordinary);
    CompactAdamW got(b.parameters(), capturable);
    train(want, a, 0, 12);
    train(got, b, 0, 12);
    expect_equal(everything(want, a), everything(got, b));
    EXPECT_EQ(got.state_of(b.weight).counter().item<int64_t>(), 12);
    EXPECT_FALSE(want.state_of(a.weight).counter().defined());

    std::stringstream file;
    torch::serialize::OutputArchive out;
    got.save(out);
    out.save_to(file);
    {
      const torch::NoGradGuard no_grad;
      for (size_t i = 0; i < 3; ++i) c.parameters()[i].copy_(b.parameters()[i]);
    }
    CompactAdamW loaded(c.parameters(), capturable);
    torch::serialize::InputArchive in;
    in.load_from(file);
    loaded.load(in);
    capturable.lr_tensor().fill_(3e-3);
    for (auto& group : want.param_groups()) group.options().set_lr(3e-3);
    train(want, a, 12, 20);
    train(loaded, c, 12, 20);
    expect_equal(everything(want, a), everything(loaded, c));
  }
}

TEST(CompactAdamW, WhatACapturedStepCannotDoIsRefused) {
  Model model;
  const auto options = CompactAdamWOptions(1e-2).capturable(true);
  EXPECT_MESSAGE(c10::ValueError, CompactAdamW(model.parameters(), options),
                 "expected on_nonfinite(\"ignore\")");
  auto custom = CompactAdamWOptions(options).on_nonfinite("ignore");
  custom.age_schedule().custom = [](int64_t) { return 1.0; };
  CompactAdamW opt(model.parameters(), custom);
  model.set_gradients(0);
  EXPECT_MESSAGE(c10::ValueError, opt.step(), "is a function, which a device cannot call");
  EXPECT_EQ(opt.state_of(model.values).step(), 0);
  CompactAdamW ordinary(model.parameters(), CompactAdamWOptions(1e-2).lr_tensor(torch::tensor(1e-2)));
  EXPECT_MESSAGE(c10::ValueError, ordinary.step(), "which needs capturable(true)");
}

TEST(CompactAdamW, ArchiveThatDoesNotFitChangesNothing) {
  Tensor longer = formula(151, 1).requires_grad_();
  CompactAdamW source({longer}, CompactAdamWOptions(0.5));
  std::stringstream file;
  {
    torch::serialize::OutputArchive archive;
    source.save(archive);
    archive.save_to(file);
  }
  Tensor p = formula(150, 1).requires_grad_();
  CompactAdamW opt({p}, CompactAdamWOptions(0.25));
  p.mutable_grad() = formula(150, 2);
  opt.step();
  const Tensor moment = opt.state_of(p).exp_avg();
  torch::serialize::InputArchive archive;
  archive.load_from(file);
  EXPECT_MESSAGE(c10::ValueError, opt.load(archive), "loaded optimizer state of 'parameter 0'");
  EXPECT_EQ(opt.param_groups()[0].options().get_lr(), 0.25);
  EXPECT_TRUE(opt.state_of(p).exp_avg().is_same(moment));
  EXPECT_EQ(opt.state_of(p).step(), 1);
}

TEST(CompactAdamW, NonFiniteGradientRaisesByNameBeforeAnyWrite) {
  Model model;
  CompactAdamW opt(model.parameters());
  train(opt, model, 0, 2);
  model.set_gradients(2);
  const auto before = everything(opt, model);
  for (const auto& [bad, name] :
       {std::pair{model.values, "'fc.values'"}, std::pair{model.bias, "'parameter 2'"}}) {
    const Tensor good = bad.grad().clone();
    bad.mutable_grad()[-1] = std::nan("");
    EXPECT_MESSAGE(c10::Error, opt.step(), std::string("gradient of ") + name + " holds NaN or infinity");
    expect_equal(before, everything(opt, model));
    bad.mutable_grad() = good;
  }
}

// G2 in C++.
TEST(CompactAdamW, NonFiniteGradientSkipsTheStepOrIsIgnored) {
  Model model;
  CompactAdamW opt(model.parameters(), CompactAdamWOptions().on_nonfinite("skip"));
  train(opt, model, 0, 2);
  model.set_gradients(2);
  const auto before = everything(opt, model);
  model.values.mutable_grad()[0] = INFINITY;
  opt.step();
  expect_equal(before, everything(opt, model));
  EXPECT_EQ(opt.skipped_steps(), 1);
  model.set_gradients(2);
  opt.step();
  EXPECT_EQ(opt.state_of(model.values).step(), 3);
  EXPECT_EQ(opt.skipped_steps(), 1);

  CompactAdamW careless(model.parameters(), CompactAdamWOptions().on_nonfinite("ignore"));
  model.values.mutable_grad()[0] = std::nan("");
  careless.step();
  EXPECT_TRUE(model.values.isnan().any().item<bool>());
  EXPECT_MESSAGE(c10::ValueError,
                 CompactAdamW(model.parameters(), CompactAdamWOptions().on_nonfinite("stop")),
                 "Invalid on_nonfinite: 'stop'");
}

TEST(CompactAdamW, NamedParametersNameTheirErrors) {
  const torch::nn::Linear linear(3, 2);
  CompactAdamW opt(linear->named_parameters());
  linear->bias.mutable_grad() = torch::full({2}, INFINITY);
  EXPECT_MESSAGE(c10::Error, opt.step(), "gradient of 'bias' holds NaN or infinity");
}

TEST(CompactAdamW, BadInputIsRefused) {
  Tensor p = torch::ones({3}, torch::requires_grad());
  EXPECT_MESSAGE(c10::ValueError, CompactAdamW(std::vector<Tensor>{}), "empty parameter list");
  EXPECT_MESSAGE(c10::ValueError, CompactAdamW({p, p}), "listed twice");
  EXPECT_MESSAGE(c10::TypeError, CompactAdamW({torch::ones({3}, torch::kInt)}), "dtype Int");
  EXPECT_MESSAGE(c10::ValueError, CompactAdamW({p}, CompactAdamWOptions(-1)), "Invalid learning rate: -1.0");
  EXPECT_MESSAGE(c10::ValueError, CompactAdamW({p}, CompactAdamWOptions().warmup(-3)), "Invalid warmup: -3");
  CompactAdamW opt({p});
  EXPECT_MESSAGE(c10::Error, opt.add_param_group(torch::optim::OptimizerParamGroup({p})),
                 "more than one parameter group");
  const torch::optim::OptimizerParamGroup foreign({torch::ones({2}, torch::requires_grad())},
                                                  std::make_unique<torch::optim::AdamWOptions>(0.1));
  EXPECT_MESSAGE(c10::TypeError, opt.add_param_group(foreign), "options of another optimizer");
  EXPECT_EQ(opt.param_groups().size(), 1U);
  opt.state_of(p).exp_avg(torch::zeros({3}, torch::kHalf));
  p.mutable_grad() = torch::ones({3});
  EXPECT_MESSAGE(c10::TypeError, opt.step(), "exp_avg of 'parameter 0' has dtype Half");
}

// tests/python/test_compact_adamw_parity.py runs this and the same steps in Python, and compares the bytes.
TEST(CompactAdamW, RunForPython) {
  const char* path = std::getenv("SMET_PARITY_FILE");
  std::ofstream file(path != nullptr ? path : "/dev/null", std::ios::binary);
  const auto run = [&](torch::Dtype dtype, const std::string& moments, bool masters) {
    Model model(dtype);
    CompactAdamW opt(model.parameters(), CompactAdamWOptions(1e-2)
                                             .weight_decay(0.1)
                                             .warmup(7)
                                             .boost(2)
                                             .boost_tau(5)
                                             .stochastic_rounding(!masters)
                                             .master_weights(masters)
                                             .moments(moments)
                                             .seed(11));
    train(opt, model, 0, 30);
    for (const Tensor& tensor : everything(opt, model)) {
      file.write(static_cast<const char*>(tensor.const_data_ptr()),
                 static_cast<std::streamsize>(tensor.nbytes()));
    }
  };
  for (const auto dtype : {torch::kFloat, torch::kBFloat16, torch::kDouble}) run(dtype, "fp32", false);
  for (const char* moments : {"bf16", "8bit"}) {
    for (const auto dtype : {torch::kFloat, torch::kBFloat16}) run(dtype, moments, false);
  }
  for (const char* moments : {"fp32", "bf16", "8bit"}) run(torch::kBFloat16, moments, true);
  EXPECT_TRUE(file.good());
}

}  // namespace
}  // namespace smet
