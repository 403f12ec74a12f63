// SPDX-License-Identifier: BSD-3-Clause
// The option master_weights of CompactAdamW: state, archives, topology updates, memory. The kernels' part is
// in kernels/master_weight_test.cpp, the steps against Python's in compact_adamw_test.cpp.
#include <gtest/gtest.h>
#include <smet/smet.h>
#include <torch/torch.h>

#include <sstream>

namespace smet {
namespace {

using torch::Tensor;

struct NetImpl : torch::nn::Module {
  SparseLinear up;
  torch::nn::Linear head;

  NetImpl()
      : up(register_module("up", SparseLinear(SparseLinearOptions(40, 33).density(.3).seed(1).name("up")))),
        head(register_module("head", torch::nn::Linear(33, 5))) {
    to(torch::kBFloat16);
  }
};
TORCH_MODULE(Net);

// Gradients that are a function of the step, so that any two runs have the same.
void train(Net& net, CompactAdamW& opt, TopologyScheduler* topology, int64_t begin, int64_t end) {
  for (int64_t step = begin; step < end; ++step) {
    for (Tensor p : net->parameters()) {
      const Tensor i = torch::arange(p.numel()) * 7919 + step * 104729;
      p.mutable_grad() = (i.remainder(2048) / 1024.0 - 1).reshape(p.sizes()).to(torch::kBFloat16);
    }
    opt.step();
    if (topology != nullptr) topology->step();
  }
}

CompactAdamWOptions options() {
  return CompactAdamWOptions(1e-3).master_weights(true).warmup(2);
}

Tensor master(CompactAdamW& opt, const Tensor& param) {
  const Tensor high = param.detach().view(torch::kShort).to(torch::kInt) * 65536;
  return (high + opt.state_of(param).master_low().to(torch::kInt)).view(torch::kFloat);
}

template <typename Save>
torch::serialize::InputArchive archived(const Save& saved) {
  std::stringstream file;
  torch::serialize::OutputArchive out;
  saved.save(out);
  out.save_to(file);
  torch::serialize::InputArchive in;
  in.load_from(file);
  return in;
}

TEST(MasterWeights, StateIsTwoBytesOfBfloat16Alone) {
  Net net;
  CompactAdamW opt(net->parameters(), options());
  EXPECT_EQ(opt.state_of(net->up->values).master_low().scalar_type(), torch::kShort);
  EXPECT_TRUE(master(opt, net->up->values).equal(net->up->values.to(torch::kFloat)));
  train(net, opt, nullptr, 0, 5);
  EXPECT_TRUE(opt.state_of(net->up->values).master_low().ne(0).any().item<bool>());
  const auto report = smet::report(*net, &opt);
  EXPECT_EQ(report.moments, (2 * 4 + 2) * net->up->nnz());
  EXPECT_EQ(report.dense_moments, (2 * 4 + 2) * (33 + 5 * 33 + 5));  // biases, head

  Tensor wide = torch::ones({3}, torch::requires_grad());
  CompactAdamW none({wide}, options());
  EXPECT_FALSE(none.state_of(wide).master_low().defined());
}

TEST(MasterWeights, WhatIsRefused) {
  Tensor half = torch::ones({3}, torch::kHalf).requires_grad_();
  Tensor p = torch::ones({3}, torch::kBFloat16).requires_grad_();
  EXPECT_THROW(CompactAdamW({half}, options()), c10::TypeError);
  EXPECT_THROW(CompactAdamW({p}, options().stochastic_rounding(true)), c10::ValueError);
  CompactAdamW opt({p}, options());
  p.mutable_grad() = torch::ones_like(p);
  opt.state_of(p).master_low(torch::zeros({3}, torch::kInt));
  EXPECT_THROW(opt.step(), c10::TypeError);
}

void copy_parameters(Net& from, Net& to) {
  const torch::NoGradGuard no_grad;
  for (auto& item : to->named_parameters()) item.value().copy_(from->named_parameters()[item.key()]);
}

void expect_equal(Net& net, CompactAdamW& opt, Net& other, CompactAdamW& other_opt) {
  for (const auto& item : net->named_parameters()) {
    const Tensor theirs = other->named_parameters()[item.key()];
    EXPECT_TRUE(item.value().equal(theirs)) << item.key();
    const auto& state = opt.state_of(item.value());
    EXPECT_TRUE(state.master_low().equal(other_opt.state_of(theirs).master_low())) << item.key();
    EXPECT_TRUE(state.exp_avg().equal(other_opt.state_of(theirs).exp_avg())) << item.key();
  }
}

// A loaded optimizer goes on bit for bit.
TEST(MasterWeights, Archive) {
  Net net;
  Net other;
  CompactAdamW opt(net->parameters(), options());
  CompactAdamW other_opt(other->parameters(), options());
  train(net, opt, nullptr, 0, 5);
  train(other, other_opt, nullptr, 3, 5);
  copy_parameters(net, other);
  auto archive = archived(opt);
  other_opt.load(archive);
  expect_equal(net, opt, other, other_opt);
  train(net, opt, nullptr, 5, 9);
  train(other, other_opt, nullptr, 5, 9);
  expect_equal(net, opt, other, other_opt);
}

// The option stays what it is where the optimizer was built: masters that were not saved begin at the
// parameters, and saved ones without a place are dropped.
TEST(MasterWeights, ArchiveOfTheOtherKind) {
  Net net;
  CompactAdamW with(net->parameters(), options());
  CompactAdamW without(net->parameters(), CompactAdamWOptions(1e-3).stochastic_rounding(true));
  train(net, with, nullptr, 0, 5);
  const Tensor& values = net->up->values;
  auto archive = archived(with);
  without.load(archive);
  const auto& plain = static_cast<const CompactAdamWOptions&>(without.param_groups()[0].options());
  EXPECT_TRUE(plain.stochastic_rounding() && !plain.master_weights());
  EXPECT_FALSE(without.state_of(values).master_low().defined());
  EXPECT_EQ(without.state_of(values).step(), 5);
  train(net, without, nullptr, 5, 6);

  auto back = archived(without);
  with.load(back);
  const auto& masters = static_cast<const CompactAdamWOptions&>(with.param_groups()[0].options());
  EXPECT_TRUE(masters.master_weights() && !masters.stochastic_rounding());
  EXPECT_EQ(with.state_of(values).step(), 6);
  EXPECT_TRUE(master(with, values).equal(values.to(torch::kFloat)));

  with.state_of(values).master_low(torch::zeros({3}, torch::kShort));
  auto broken = archived(with);
  EXPECT_THROW(with.load(broken), c10::ValueError);
}

// Survivors keep their masters bit for bit, newborns have 0.
TEST(MasterWeights, TopologyUpdate) {
  Net net;
  CompactAdamW opt(net->parameters(), options());
  TopologyScheduler topology(*net, opt, TopologyOptions().interval(5).fraction(.3).stop(1.0).total_steps(40));
  const Tensor& values = net->up->values;
  const auto positions = [&] {  // flat ones of the active weights, in order
    const Tensor columns = torch::arange(40);
    const Tensor words = net->up->mask.index_select(1, columns.div(32, "floor"));
    return words.bitwise_right_shift(columns.remainder(32)).bitwise_and(1).flatten().nonzero().flatten();
  };
  train(net, opt, &topology, 0, 4);
  const auto dense = [&] {
    const Tensor all = torch::full({33 * 40}, -1, torch::kInt);
    all.index_put_({positions()}, master(opt, values).view(torch::kInt));
    return all;
  };
  train(net, opt, nullptr, 4, 5);
  const Tensor before = dense();
  const Tensor was = positions();
  ASSERT_TRUE(topology.step());
  const Tensor after = dense();
  const Tensor survives = torch::isin(positions(), was);
  const Tensor survivors = positions().masked_select(survives);
  const Tensor newborns = positions().masked_select(survives.logical_not());
  EXPECT_GT(newborns.numel(), 0);
  EXPECT_TRUE(after.index_select(0, survivors).equal(before.index_select(0, survivors)));
  EXPECT_TRUE(after.index_select(0, newborns).eq(0).all().item<bool>());
}

}  // namespace
}  // namespace smet
