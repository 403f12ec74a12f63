// SPDX-License-Identifier: BSD-3-Clause
// fused_backward: the step of the ordinary optimizer, with one gradient alive at a time.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <functional>
#include <memory>
#include <sstream>

#include "smet/smet.h"

namespace smet {
namespace {

using torch::Tensor;

struct Training {
  torch::nn::Sequential net;
  std::unique_ptr<CompactAdamW> opt;

  explicit Training(bool fused, CompactAdamWOptions options = {3e-3}) {
    torch::manual_seed(0);
    net = torch::nn::Sequential(SparseLinear(SparseLinearOptions(24, 40).density(0.3).seed(1)),
                                torch::nn::Tanh(), torch::nn::Dropout(0.3), torch::nn::Linear(40, 8));
    opt = std::make_unique<CompactAdamW>(net->named_parameters(),
                                         options.weight_decay(0.1).fused_backward(fused));
  }
  Tensor backward(int64_t number) {
    Tensor loss = net->forward(torch::linspace(-1, 1, 24 * 5).view({5, 24}) * (number + 1)).square().mean();
    loss.backward();
    return loss;
  }
  std::vector<Tensor> everything() {
    std::vector<Tensor> all;
    for (const Tensor& p : net->parameters()) {
      const auto& state = opt->state_of(p);
      all.insert(all.end(), {p.detach().clone(), state.exp_avg().clone(), state.exp_avg_sq().clone(),
                             torch::tensor(state.step())});
    }
    return all;
  }
};

void expect_equal(const std::vector<Tensor>& a, const std::vector<Tensor>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) EXPECT_TRUE(torch::equal(a[i], b[i])) << i;
}

void expect_error(const std::function<void()>& action, const std::string& text) {
  try {
    action();
    ADD_FAILURE() << "no error; expected " << text;
  } catch (const c10::Error& error) {
    EXPECT_NE(std::string(error.what_without_backtrace()).find(text), std::string::npos)
        << error.what_without_backtrace();
  }
}

TEST(FusedBackward, EqualsTheOrdinaryStepBitForBit) {
  Training ordinary(false);
  Training fused(true);
  for (int64_t number = 0; number < 6; ++number) {
    torch::manual_seed(number);
    ordinary.backward(number);
    ordinary.opt->step();
    ordinary.opt->zero_grad();
    torch::manual_seed(number);
    fused.backward(number);
    for (const Tensor& p : fused.net->parameters()) EXPECT_FALSE(p.grad().defined());
    fused.opt->step();
  }
  expect_equal(ordinary.everything(), fused.everything());
}

TEST(FusedBackward, OneGradientIsAliveAtATime) {
  // The loss's own tensor hooks see each gradient before it is accumulated: no other may be there then.
  Training run(true);
  int seen = 0;
  for (const Tensor& p : run.net->parameters()) {
    p.register_hook([&](const Tensor& grad) {
      ++seen;
      for (const Tensor& other : run.net->parameters()) EXPECT_FALSE(other.grad().defined());
      return grad;
    });
  }
  run.backward(0);
  EXPECT_EQ(seen, 4);
}

TEST(FusedBackward, ClippedBackwardEqualsClippingAndStep) {
  for (const double max_norm : {0.01, 1e3}) {
    Training ordinary(false);
    Training fused(true);
    for (int64_t number = 0; number < 3; ++number) {
      torch::manual_seed(number);
      const Tensor loss = ordinary.backward(number);
      std::vector<Tensor> norms;
      for (const Tensor& p : ordinary.net->parameters()) norms.push_back(at::linalg_vector_norm(p.grad()));
      const Tensor total = at::linalg_vector_norm(torch::stack(norms));
      for (Tensor& p : ordinary.net->parameters()) {
        p.mutable_grad().mul_((max_norm / (total + 1e-6)).clamp_max(1.0));
      }
      ordinary.opt->step();
      ordinary.opt->zero_grad();
      const Tensor after = torch::rand({3});
      torch::manual_seed(number);
      const auto [fused_loss, norm] =
          fused.opt->clipped_backward([&] { return fused.backward(number); }, max_norm);
      fused.opt->step();
      expect_equal({loss, total, after}, {fused_loss, norm, torch::rand({3})});
    }
    expect_equal(ordinary.everything(), fused.everything());
  }
}

TEST(FusedBackward, RefusesAccumulationAndASecondOptimizer) {
  Training run(true);
  run.backward(0);
  const auto before = run.everything();
  expect_error([&] { run.backward(1); }, "a second gradient of '3.");
  expect_equal(before, run.everything());
  run.opt->step();
  expect_error([&] { CompactAdamW(run.net->parameters(), CompactAdamWOptions().fused_backward(true)); },
               "has a post-accumulate-grad hook already");
  run.opt.reset();  // its hooks stay behind and do nothing
  run.backward(2);
  EXPECT_TRUE(run.net->parameters()[0].grad().defined());
  run.opt = std::make_unique<CompactAdamW>(run.net->parameters(), CompactAdamWOptions().fused_backward(true));
  run.opt->zero_grad();
  run.backward(3);
  EXPECT_FALSE(run.net->parameters()[0].grad().defined());
  Training ordinary(false);
  expect_error([&] { ordinary.opt->clipped_backward([] { return Tensor(); }, 1); },
               "needs fused_backward(true)");
}

TEST(FusedBackward, ABadGradientIsNamedBeforeItsParameterChanges) {
  Training run(true);
  const auto before = run.everything();
  const auto bad = [&] {
    Tensor loss = run.net->parameters()[1][0] * INFINITY;  // the first layer's bias
    loss = loss + run.net->forward(torch::ones({2, 24})).sum();
    loss.backward();
    return loss;
  };
  expect_error([&] { run.opt->clipped_backward(bad, 1); },
               "'0.bias' holds NaN or infinity; nothing was changed");
  expect_equal(before, run.everything());
  expect_error(bad, "'0.bias' holds NaN or infinity; the parameter was not changed");
  EXPECT_EQ(run.opt->state_of(run.net->parameters()[1]).step(), 0);
  EXPECT_TRUE(torch::equal(run.net->parameters()[1], before[4]));
}

TEST(FusedBackward, ANormThatOverflowsChangesNothing) {
  Training run(true);
  const auto before = run.everything();
  expect_error(
      [&] {
        run.opt->clipped_backward(
            [&] {
              Tensor loss = run.net->forward(torch::ones({2, 24})).sum() * 1e38;
              loss.backward();
              return loss;
            },
            1);
      },
      "the norm of all gradients overflows; nothing was changed");
  expect_equal(before, run.everything());
}

TEST(FusedBackward, AThawedParameterIsClippedToo) {
  // Without a hook it would gather the gradients of both passes, and have no part in the norm.
  Training ordinary(false);
  Training fused(true);
  fused.net->parameters()[1].set_requires_grad(false);
  fused.opt.reset();
  fused.opt =
      std::make_unique<CompactAdamW>(fused.net->parameters(), CompactAdamWOptions().fused_backward(true));
  fused.net->parameters()[1].set_requires_grad(true);
  torch::manual_seed(1);
  const auto [loss, norm] = fused.opt->clipped_backward([&] { return fused.backward(0); }, 0.01);
  EXPECT_FALSE(fused.net->parameters()[1].grad().defined());
  torch::manual_seed(1);
  ordinary.backward(0);
  std::vector<Tensor> norms;
  for (const Tensor& p : ordinary.net->parameters()) norms.push_back(at::linalg_vector_norm(p.grad()));
  EXPECT_TRUE(torch::equal(norm, at::linalg_vector_norm(torch::stack(norms))));
}

TEST(FusedBackward, LoadingBeginsANewStep) {
  Training run(true);
  std::stringstream saved;
  torch::serialize::OutputArchive out;
  run.opt->save(out);
  out.save_to(saved);
  run.backward(0);  // and no step(): the pass was given up
  torch::serialize::InputArchive in;
  in.load_from(saved);
  run.opt->load(in);
  run.backward(1);
  EXPECT_EQ(run.opt->state_of(run.net->parameters()[0]).step(), 1);
}

TEST(FusedBackward, SkipsAStepWhileNothingIsChangedYet) {
  Training run(true, CompactAdamWOptions(3e-3).on_nonfinite("skip"));
  expect_error([&] { run.backward(0); }, "use that, or on_nonfinite(\"raise\")");
  const auto before = run.everything();
  const auto bad = [&] {
    Tensor loss = run.net->forward(torch::ones({5, 24})).sum() * INFINITY;
    loss.backward();
    return loss;
  };
  run.opt->clipped_backward(bad, 1.0);
  run.opt->step();
  EXPECT_EQ(run.opt->skipped_steps(), 1);
  expect_equal(before, run.everything());
  run.opt->clipped_backward([&] { return run.backward(0); }, 1.0);
  run.opt->step();
  EXPECT_EQ(run.opt->skipped_steps(), 1);
  EXPECT_EQ(run.opt->state_of(run.net->parameters()[0]).step(), 1);
}

TEST(FusedBackward, MovesWithTheOptimizerAndWatchesNewGroups) {
  Training run(true);
  CompactAdamW moved = std::move(*run.opt);
  run.opt.reset();
  const Tensor extra = torch::ones({3}, torch::requires_grad());
  moved.add_param_group(torch::optim::OptimizerParamGroup({extra}));
  (run.net->forward(torch::ones({2, 24})).sum() + extra.sum()).backward();
  EXPECT_FALSE(extra.grad().defined());
  EXPECT_LT(extra[0].item<float>(), 1);
  EXPECT_EQ(moved.state_of(run.net->parameters()[0]).step(), 1);
}

}  // namespace
}  // namespace smet
