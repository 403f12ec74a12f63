// SPDX-License-Identifier: BSD-3-Clause
// LLaMA with sparse or dense projections: RMSNorm, rotary positions, SwiGLU, grouped heads (Touvron et al.
// 2023). Parameters have the names, and operations the order, of transformers' LlamaForCausalLM, so that
// checkpoints and losses can be compared with Python's.
#pragma once

#include <torch/torch.h>

#include <cstdint>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace llama {

// The model's shape.
struct Shape {
  int64_t vocab = 0, hidden = 0, intermediate = 0, layers = 0, heads = 0, kv_heads = 0, head_dim = 0;
  int64_t positions = 0;  // longest sequence
  double norm_eps = 1e-6, rope_theta = 10000, init_std = 0.02, attention_dropout = 0;
  bool attention_bias = false, mlp_bias = false;

  // From transformers' config.json. Throws std::runtime_error naming what this model does not have.
  static Shape from_json(const nlohmann::json& config);

  struct Projection {
    std::string name;  // "model.layers.0.self_attn.q_proj"
    int64_t out, in;
  };
  // Everything that can be sparse, in the model's order.
  std::vector<Projection> projections() const;
};

// How the projections are built. An empty `density` makes them dense; else it has one entry a projection.
struct Sparsity {
  std::map<std::string, double> density;
  uint64_t seed = 0;  // of positions and values, together with the name
  std::optional<std::string> init_scale;
};

// A linear layer, torch::nn::Linear or smet::SparseLinear.
using Projection = torch::nn::AnyModule;

struct RmsNorm : torch::nn::Module {
  RmsNorm(int64_t size, double eps);
  torch::Tensor forward(const torch::Tensor& x);  // [..., size]
  torch::Tensor weight;
  double eps;
};

using Rotation = std::pair<torch::Tensor, torch::Tensor>;  // cos, sin: [1, T, head_dim]

struct Attention : torch::nn::Module {
  Attention(const Shape& shape, const Sparsity& sparsity, const std::string& name);
  torch::Tensor forward(const torch::Tensor& x, const Rotation& rotation);  // [B, T, hidden]
  Shape shape;
  Projection q_proj, k_proj, v_proj, o_proj;
};

struct Mlp : torch::nn::Module {
  Mlp(const Shape& shape, const Sparsity& sparsity, const std::string& name);
  torch::Tensor forward(const torch::Tensor& x);
  Projection gate_proj, up_proj, down_proj;
};

struct Block : torch::nn::Module {
  Block(const Shape& shape, const Sparsity& sparsity, const std::string& name);
  torch::Tensor forward(torch::Tensor x, const Rotation& rotation);
  std::shared_ptr<Attention> self_attn;
  std::shared_ptr<Mlp> mlp;
  std::shared_ptr<RmsNorm> input_layernorm, post_attention_layernorm;
};

struct Decoder : torch::nn::Module {
  Decoder(const Shape& shape, const Sparsity& sparsity);
  torch::Tensor forward(const torch::Tensor& ids);  // int64 [B, T] -> [B, T, hidden]
  torch::nn::Embedding embed_tokens{nullptr};
  std::vector<std::shared_ptr<Block>> blocks;
  std::shared_ptr<RmsNorm> norm;
  torch::Tensor inverse_frequency;  // float32 [head_dim / 2]; not saved
};

struct Llama : torch::nn::Module {
  // Sparse projections have drawn their weights from (sparsity.seed, name); all else: initialize.
  Llama(const Shape& shape, const Sparsity& sparsity);
  // Draws the dense matrices from torch's generator, seeded: as `smet pretrain --init sparse` does.
  void initialize(uint64_t seed);
  torch::Tensor forward(const torch::Tensor& ids);  // int64 [B, T] -> logits [B, T, vocab]
  Shape shape;
  std::shared_ptr<Decoder> model;
  torch::nn::Linear lm_head{nullptr};
};

// Cross entropy of batch[:, 1:] given batch[:, :-1], int64 [B, T + 1], in float32 or wider, the logits in
// slices; `reduction` is "mean", or "none": [B T].
torch::Tensor next_token_loss(Llama& llama, const torch::Tensor& batch,
                              const std::string& reduction = "mean");

}  // namespace llama
