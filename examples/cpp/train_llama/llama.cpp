// SPDX-License-Identifier: BSD-3-Clause
#include "llama.h"

#include <smet/linear_cross_entropy.h>
#include <smet/sparse_linear.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <stdexcept>

namespace llama {
namespace {

using torch::Tensor;

// A new projection of `parent`, under the last part of its name.
Projection add_projection(torch::nn::Module& parent, const std::string& name, int64_t in, int64_t out,
                          bool bias, const Shape& shape, const Sparsity& sparsity) {
  Projection layer;
  if (sparsity.density.empty()) {
    layer = Projection(torch::nn::Linear(torch::nn::LinearOptions(in, out).bias(bias)));
  } else {
    layer = Projection(smet::SparseLinear(smet::SparseLinearOptions(in, out)
                                              .bias(bias)
                                              .density(sparsity.density.at(name))
                                              .seed(sparsity.seed)
                                              .name(name)
                                              .init_std(shape.init_std)
                                              .init_scale(sparsity.init_scale)));
  }
  parent.register_module(name.substr(name.rfind('.') + 1), layer.ptr());
  return layer;
}

// The second half of the last dimension, negated, before the first.
Tensor rotate_half(const Tensor& x) {
  const auto half = x.size(-1) / 2;
  return torch::cat({-x.slice(-1, half), x.slice(-1, 0, half)}, -1);
}

Tensor rotate(const Tensor& x, const Rotation& rotation) {  // [B, heads, T, head_dim]
  const auto& [cos, sin] = rotation;
  return x * cos.unsqueeze(1) + rotate_half(x) * sin.unsqueeze(1);
}

}  // namespace

Shape Shape::from_json(const nlohmann::json& config) {
  const auto need = [&](const std::string& key, const nlohmann::json& expected) {
    const auto got = config.value(key, expected);
    if (got != expected) {
      throw std::runtime_error("the model's config.json has " + key + " " + got.dump() + "; expected " +
                               expected.dump());
    }
  };
  need("model_type", "llama");
  need("hidden_act", "silu");
  need("tie_word_embeddings", false);
  Shape shape;
  shape.vocab = config.at("vocab_size");
  shape.hidden = config.at("hidden_size");
  shape.intermediate = config.at("intermediate_size");
  shape.layers = config.at("num_hidden_layers");
  shape.heads = config.at("num_attention_heads");
  const auto count = [&](const char* key, int64_t otherwise) {  // absent or null: `otherwise`
    return config.contains(key) && config[key].is_number() ? config[key].get<int64_t>() : otherwise;
  };
  shape.kv_heads = count("num_key_value_heads", shape.heads);
  shape.head_dim = count("head_dim", shape.hidden / shape.heads);
  shape.positions = count("max_position_embeddings", 2048);
  shape.norm_eps = config.value("rms_norm_eps", shape.norm_eps);
  shape.init_std = config.value("initializer_range", shape.init_std);
  shape.attention_dropout = config.value("attention_dropout", shape.attention_dropout);
  shape.attention_bias = config.value("attention_bias", shape.attention_bias);
  shape.mlp_bias = config.value("mlp_bias", shape.mlp_bias);
  const auto rope = config.value("rope_parameters", nlohmann::json::object());
  if (const auto type = rope.value("rope_type", "default"); type != "default") {
    throw std::runtime_error("the model's config.json has rope_type '" + type + "'; expected 'default'");
  }
  shape.rope_theta = rope.value("rope_theta", config.value("rope_theta", shape.rope_theta));
  return shape;
}

std::vector<Shape::Projection> Shape::projections() const {
  const int64_t q = heads * head_dim, kv = kv_heads * head_dim;
  std::vector<Projection> found;
  for (int64_t layer = 0; layer < layers; ++layer) {
    const std::string name = "model.layers." + std::to_string(layer);
    found.insert(found.end(), {{name + ".self_attn.q_proj", q, hidden},
                               {name + ".self_attn.k_proj", kv, hidden},
                               {name + ".self_attn.v_proj", kv, hidden},
                               {name + ".self_attn.o_proj", hidden, q},
                               {name + ".mlp.gate_proj", intermediate, hidden},
                               {name + ".mlp.up_proj", intermediate, hidden},
                               {name + ".mlp.down_proj", hidden, intermediate}});
  }
  return found;
}

RmsNorm::RmsNorm(int64_t size, double eps)
    : weight(register_parameter("weight", torch::ones({size}))), eps(eps) {}

// weight * x / sqrt(mean(x^2) + eps), the mean in float32.
Tensor RmsNorm::forward(const Tensor& x) {
  const auto wide = x.to(torch::kFloat);
  const auto variance = wide.pow(2).mean(-1, /*keepdim=*/true);
  return weight * (wide * torch::rsqrt(variance + eps)).to(x.scalar_type());
}

Attention::Attention(const Shape& shape, const Sparsity& sparsity, const std::string& name) : shape(shape) {
  const auto add = [&](const char* part, int64_t in, int64_t out) {
    return add_projection(*this, name + part, in, out, shape.attention_bias, shape, sparsity);
  };
  q_proj = add(".q_proj", shape.hidden, shape.heads * shape.head_dim);
  k_proj = add(".k_proj", shape.hidden, shape.kv_heads * shape.head_dim);
  v_proj = add(".v_proj", shape.hidden, shape.kv_heads * shape.head_dim);
  o_proj = add(".o_proj", shape.heads * shape.head_dim, shape.hidden);
}

Tensor Attention::forward(const Tensor& x, const Rotation& rotation) {
  const auto heads = [&](Projection& projection) {  // [B, T, hidden] -> [B, heads, T, head_dim]
    const auto y = projection.forward<Tensor>(x);
    return y.view({x.size(0), x.size(1), -1, shape.head_dim}).transpose(1, 2);
  };
  const auto q = heads(q_proj), k = heads(k_proj), v = heads(v_proj);
  const auto turned_q = rotate(q, rotation), turned_k = rotate(k, rotation);
  const auto mixed = at::scaled_dot_product_attention(
      turned_q, turned_k, v, /*attn_mask=*/{}, is_training() ? shape.attention_dropout : 0.0,
      /*is_causal=*/x.size(1) > 1, /*scale=*/std::pow(static_cast<double>(shape.head_dim), -0.5),
      /*enable_gqa=*/shape.kv_heads != shape.heads);
  return o_proj.forward<Tensor>(mixed.transpose(1, 2).contiguous().flatten(2));
}

Mlp::Mlp(const Shape& shape, const Sparsity& sparsity, const std::string& name) {
  const auto add = [&](const char* part, int64_t in, int64_t out) {
    return add_projection(*this, name + part, in, out, shape.mlp_bias, shape, sparsity);
  };
  gate_proj = add(".gate_proj", shape.hidden, shape.intermediate);
  up_proj = add(".up_proj", shape.hidden, shape.intermediate);
  down_proj = add(".down_proj", shape.intermediate, shape.hidden);
}

Tensor Mlp::forward(const Tensor& x) {
  const auto gate = torch::silu(gate_proj.forward<Tensor>(x));
  const auto up = up_proj.forward<Tensor>(x);
  return down_proj.forward<Tensor>(gate * up);
}

Block::Block(const Shape& shape, const Sparsity& sparsity, const std::string& name)
    : self_attn(
          register_module("self_attn", std::make_shared<Attention>(shape, sparsity, name + ".self_attn"))),
      mlp(register_module("mlp", std::make_shared<Mlp>(shape, sparsity, name + ".mlp"))),
      input_layernorm(
          register_module("input_layernorm", std::make_shared<RmsNorm>(shape.hidden, shape.norm_eps))),
      post_attention_layernorm(register_module("post_attention_layernorm",
                                               std::make_shared<RmsNorm>(shape.hidden, shape.norm_eps))) {}

Tensor Block::forward(Tensor x, const Rotation& rotation) {
  x = x + self_attn->forward(input_layernorm->forward(x), rotation);
  return x + mlp->forward(post_attention_layernorm->forward(x));
}

Decoder::Decoder(const Shape& shape, const Sparsity& sparsity) {
  embed_tokens = register_module("embed_tokens", torch::nn::Embedding(shape.vocab, shape.hidden));
  torch::nn::ModuleList layers;
  for (int64_t layer = 0; layer < shape.layers; ++layer) {
    blocks.push_back(std::make_shared<Block>(shape, sparsity, "model.layers." + std::to_string(layer)));
    layers->push_back(blocks.back());
  }
  register_module("layers", layers);
  norm = register_module("norm", std::make_shared<RmsNorm>(shape.hidden, shape.norm_eps));
  const auto exponent = torch::arange(0, shape.head_dim, 2, torch::kFloat) / shape.head_dim;
  inverse_frequency = 1 / torch::pow(shape.rope_theta, exponent);
}

Tensor Decoder::forward(const Tensor& ids) {
  auto x = embed_tokens->forward(ids);
  const auto angle = torch::arange(ids.size(1)).unsqueeze(-1).to(torch::kFloat) * inverse_frequency;
  const auto twice = torch::cat({angle, angle}, -1).unsqueeze(0);
  const Rotation rotation{twice.cos().to(x.scalar_type()), twice.sin().to(x.scalar_type())};
  for (const auto& block : blocks) x = block->forward(x, rotation);
  return norm->forward(x);
}

Llama::Llama(const Shape& shape, const Sparsity& sparsity) : shape(shape) {
  model = register_module("model", std::make_shared<Decoder>(shape, sparsity));
  lm_head = register_module(
      "lm_head", torch::nn::Linear(torch::nn::LinearOptions(shape.hidden, shape.vocab).bias(false)));
}

void Llama::initialize(uint64_t seed) {
  torch::manual_seed(seed);
  for (const auto& item : named_parameters()) {
    if (item.value().dim() == 2) torch::nn::init::normal_(item.value(), 0, shape.init_std);
    if (item.key().ends_with("bias")) torch::nn::init::zeros_(item.value());
  }
}

Tensor Llama::forward(const Tensor& ids) {
  return lm_head->forward(model->forward(ids));
}

Tensor next_token_loss(Llama& llama, const Tensor& batch, const std::string& reduction) {
  const auto hidden = llama.model->forward(batch.slice(1, 0, -1));
  return smet::linear_cross_entropy(hidden.flatten(0, 1), llama.lm_head->weight, batch.slice(1, 1).flatten(),
                                    smet::LinearCrossEntropyOptions().reduction(reduction));
}

}  // namespace llama
