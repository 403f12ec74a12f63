// SPDX-License-Identifier: BSD-3-Clause
// sparsify_ and densify_ from C++.
#include "smet/convert.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <algorithm>
#include <sstream>

#include "smet/compact_adamw.h"
#include "smet/sparse_linear.h"
#include "smet/sparsify.h"
#include "smet/topology_scheduler.h"

namespace {

namespace nn = torch::nn;

// A member of fixed type that is a Sequential: what it holds can be exchanged.
struct Block : nn::Module {
  Block() { layers = register_module("layers", layers); }
  torch::Tensor forward(const torch::Tensor& x) { return layers->forward(x); }
  nn::Sequential layers{nn::Linear(40, 72), nn::ReLU(), nn::Linear(nn::LinearOptions(72, 40).bias(false))};
};

nn::Sequential model() {
  torch::manual_seed(0);
  nn::Sequential all;
  all->push_back("in", nn::Linear(8, 40));
  all->push_back("block", std::make_shared<Block>());
  all->push_back("lm_head", nn::Linear(40, 5));
  return all;
}

std::vector<std::string> names(nn::Sequential& sequential) {
  std::vector<std::string> found;
  for (const auto& [name, layer] : smet::sparse_layers(*sequential)) found.push_back(name);
  return found;
}

void expect_refused(nn::Module& module, const smet::SparsifyOptions& options, const std::string& why) {
  try {
    smet::sparsify_(module, options);
    FAIL() << "accepted; expected: " << why;
  } catch (const c10::ValueError& error) {
    EXPECT_NE(std::string(error.what()).find(why), std::string::npos) << error.what();
  }
}

TEST(Convert, ReplacesLayersOfSequentialsByName) {
  nn::Sequential dense = model(), sparse = model();
  const smet::ConversionTable table = smet::sparsify_(*sparse, smet::SparsifyOptions().seed(3));
  EXPECT_EQ(names(sparse), (std::vector<std::string>{"in", "block.layers.0", "block.layers.2"}));
  ASSERT_EQ(table.layers.size(), 3U);
  EXPECT_EQ(table.layers[1].n, 720);
  EXPECT_EQ(table.layers[1].dense_bytes, 4 * 40 * 72);
  ASSERT_EQ(table.kept.size(), 1U);
  EXPECT_EQ(table.kept[0].name + table.kept[0].reason, "lm_headskip");
  EXPECT_DOUBLE_EQ(table.density(), 0.25);
  std::ostringstream text;
  text << table;
  EXPECT_NE(text.str().find("block.layers.0  72 x 40  n 720  density 0.25"), std::string::npos) << text.str();

  // Weights are the given ones at positions of (seed, name), and the model computes with them.
  const auto layers = smet::sparse_layers(*sparse);
  const auto& source = *std::dynamic_pointer_cast<nn::LinearImpl>(dense->named_modules()["block.layers.0"]);
  const auto alone = smet::SparseLinearImpl::from_dense(
      source, smet::SparseLinearOptions(40, 72).density(0.25).seed(3).name("block.layers.0"));
  EXPECT_TRUE(torch::equal(alone->mask, layers[1].second->mask));
  EXPECT_TRUE(torch::equal(alone->values, layers[1].second->values));
  const auto x = torch::randn({3, 8});
  const auto expected = sparse->forward(x).detach();
  smet::densify_(*sparse);
  EXPECT_TRUE(names(sparse).empty());
  EXPECT_TRUE(torch::allclose(sparse->forward(x), expected, 1e-5, 1e-6));
  for (const auto& item : dense->named_parameters()) {
    EXPECT_EQ(sparse->named_parameters()[item.key()].sizes(), item.value().sizes()) << item.key();
  }
}

TEST(Convert, ASparsifiedModelTrains) {
  nn::Sequential net = model();
  smet::sparsify_(*net, smet::SparsifyOptions().density(0.5));
  smet::CompactAdamW opt(net->named_parameters(), smet::CompactAdamWOptions(1e-2));
  smet::TopologyScheduler topo(*net, opt, smet::TopologyOptions().interval(20).total_steps(100));
  const auto x = torch::randn({64, 8}), y = x.slice(1, 0, 5) * 2;
  double first = 0, last = 0;
  for (int step = 0; step < 100; ++step) {
    opt.zero_grad();
    auto loss = torch::mse_loss(net->forward(x), y);
    loss.backward();
    opt.step();
    topo.step();
    (step == 0 ? first : last) = loss.item<double>();
  }
  EXPECT_LT(last, 0.2 * first);
  EXPECT_EQ(topo.updates(), 3);
}

TEST(Convert, MagnitudeKeepsTheLargest) {
  nn::Sequential net = model();
  const auto& source = *std::dynamic_pointer_cast<nn::LinearImpl>(net->named_modules()["block.layers.2"]);
  {
    const torch::NoGradGuard no_grad;
    source.weight[0][0] = std::nan("");
    source.weight.slice(1, 1, 30).fill_(0.01);  // many equal ones: the last positions stay
  }
  const auto weight = source.weight.detach().clone();
  smet::sparsify_(*net, smet::SparsifyOptions().density(0.3).select("magnitude"));
  const auto layer = smet::sparse_layers(*net)[2].second;
  // Plainly: sort by (|w|, position), NaN first, and keep the last n.
  std::vector<std::pair<double, std::int64_t>> order;
  const auto flat = weight.flatten();
  for (std::int64_t i = 0; i < flat.numel(); ++i) {
    const double w = std::abs(flat[i].item<double>());
    order.emplace_back(std::isnan(w) ? -1.0 : w, i);
  }
  std::sort(order.begin(), order.end());
  auto expected = torch::zeros({flat.numel()});
  for (std::size_t i = order.size() - 864; i < order.size(); ++i) {
    expected[order[i].second] = flat[order[i].second];
  }
  ASSERT_EQ(layer->nnz(), 864);
  EXPECT_TRUE(torch::equal(layer->dense_weight().detach().flatten(), expected));
}

TEST(Convert, PatternsDistributionAndInitialisation) {
  nn::Sequential net = model();
  const auto is_small = [](const std::string&, const nn::Module& module) {
    return module.as<nn::LinearImpl>() != nullptr && module.as<nn::LinearImpl>()->options.in_features() == 8;
  };
  smet::sparsify_(*net, smet::SparsifyOptions().include(smet::Patterns{std::regex("0$"), is_small}));
  EXPECT_EQ(names(net), (std::vector<std::string>{"in", "block.layers.0"}));

  net = model();
  smet::sparsify_(*net, smet::SparsifyOptions().density(
                            std::vector<std::pair<std::string, double>>{{"block.*", 0.5}, {"block", 0.1}}));
  EXPECT_EQ(names(net), (std::vector<std::string>{"block.layers.0", "block.layers.2"}));
  EXPECT_EQ(smet::sparse_layers(*net)[0].second->nnz(), 1440);

  net = model();
  const auto table = smet::sparsify_(
      *net, smet::SparsifyOptions().distribution("erk").density(0.2).init_std(0.5).init_scale("fan_in"));
  std::vector<std::int64_t> counts;
  for (const auto& layer : table.layers) counts.push_back(layer.n);
  EXPECT_EQ(counts, smet::distribute({{40, 8}, {72, 40}, {40, 72}}, 0.2, "erk"));
  EXPECT_NEAR(smet::sparse_layers(*net)[1].second->values.std().item<double>(),
              0.5 / std::sqrt(table.layers[1].density()), 0.1);
}

struct Typed : nn::Module {
  Typed() { fc = register_module("fc", nn::Linear(4, 4)); }
  nn::Linear fc{nullptr};
};

TEST(Convert, RefusesBeforeAnythingChanges) {
  using Options = smet::SparsifyOptions;
  nn::Sequential net = model();
  expect_refused(*net, Options().density(0.0), "density");
  expect_refused(*net, Options().select("best"), "select is 'best'");
  expect_refused(*net, Options().init_std(-1.0), "init_std is -1");
  expect_refused(*net, Options().init_scale("fan_out"), "init_scale is 'fan_out'");
  expect_refused(*net, Options().distribution("even"), "even");
  expect_refused(*net, Options().include(smet::Patterns{"attention"}), "'attention' matches no linear layer");
  expect_refused(*net, Options().include(smet::Patterns{"lm_head"}), "that skip does not leave out");
  expect_refused(*net, Options().skip({"*"}), "no layer to make sparse is left");
  expect_refused(*net, Options().skip({""}), "an empty name pattern");
  expect_refused(*net,
                 Options().density(std::vector<std::pair<std::string, double>>{{"block", .5}, {"none", .5}}),
                 "density of 'none' matches no layer");
  Typed typed;
  expect_refused(typed, {}, "layer 'fc' is in no torch::nn::Sequential");
  nn::Linear alone(4, 4);
  expect_refused(*alone, {}, "itself one linear layer");
  nn::Sequential tied(nn::Linear(6, 6), nn::Linear(6, 6));
  tied->ptr<nn::LinearImpl>(1)->weight.set_data(tied->ptr<nn::LinearImpl>(0)->weight);
  expect_refused(*tied, {}, "is shared with");
  EXPECT_TRUE(names(net).empty());
  EXPECT_THROW(smet::densify_(*net), c10::ValueError);
  smet::sparsify_(*net);
  expect_refused(*net, {}, "is sparse already");
}

TEST(Convert, ALayerInTwoPlacesStaysOne) {
  const nn::Linear shared(6, 6);
  nn::Sequential net(shared, nn::ReLU(), shared);
  smet::sparsify_(*net);
  EXPECT_EQ(net->ptr<smet::SparseLinearImpl>(0), net->ptr<smet::SparseLinearImpl>(2));
  net->forward(torch::randn({2, 6})).sum().backward();
  EXPECT_TRUE(net->ptr<smet::SparseLinearImpl>(0)->values.grad().defined());
}

}  // namespace
