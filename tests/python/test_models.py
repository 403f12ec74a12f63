# SPDX-License-Identifier: BSD-3-Clause
"""Models of transformers: sparsified, trained through topology updates, saved, loaded, continued."""

import copy
import io
import re

import pytest
import torch
import transformers

import smet

pytestmark = pytest.mark.usefixtures("one_thread")

STEPS, INTERVAL, VOCAB = 20, 5, 97


def llama():
    config = transformers.LlamaConfig(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=80, num_hidden_layers=2, num_attention_heads=4
    )
    return transformers.LlamaForCausalLM(config)


def gpt2():
    config = transformers.GPT2Config(vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=4, n_positions=32)
    config.resid_pdrop = config.embd_pdrop = config.attn_pdrop = 0.0
    return transformers.GPT2LMHeadModel(config)


def qwen2():
    config = transformers.Qwen2Config(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=80,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    return transformers.Qwen2ForCausalLM(config)


def vit():
    config = transformers.ViTConfig(
        hidden_size=32,
        intermediate_size=80,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=16,
        patch_size=4,
        num_labels=10,
    )
    return transformers.ViTForImageClassification(config)


# Constructor, sparse layers expected, and the name of one of them.
MODELS = {
    "llama": (llama, 14, "model.layers.0.self_attn.q_proj"),
    "gpt2": (gpt2, 8, "transformer.h.0.attn.c_attn"),
    "qwen2": (qwen2, 14, "model.layers.1.mlp.down_proj"),
    "vit": (vit, 12, None),
}


def build(name, seed=0, density=0.3):
    torch.manual_seed(seed)
    model = MODELS[name][0]().train()
    smet.sparsify_(model, density, seed=seed)
    opt = smet.CompactAdamW(model, lr=3e-3, warmup=INTERVAL)
    topo = smet.TopologyScheduler(
        model, opt, interval=INTERVAL, fraction=0.3, total_steps=40, stop=1.0, seed=1
    )
    return model, opt, topo


def batch(name, step):
    generator = torch.Generator().manual_seed(step)
    if name == "vit":
        labels = torch.randint(10, (4,), generator=generator)
        images = torch.randn(4, 3, 16, 16, generator=generator) + labels.view(4, 1, 1, 1)
        return {"pixel_values": images, "labels": labels}
    start = torch.randint(VOCAB, (4, 1), generator=generator)
    tokens = (start + 3 * torch.arange(16)) % VOCAB  # predictable
    return {"input_ids": tokens, "labels": tokens}


def train(name, model, opt, topo, first, last):
    losses = []
    for step in range(first, last):
        opt.zero_grad()
        loss = model(**batch(name, step)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
        topo.step()
        losses.append(loss.item())
    return losses


def assert_equal_states(ours, theirs, path=""):
    assert type(ours) is type(theirs), path
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys(), path
        for key in ours:
            assert_equal_states(ours[key], theirs[key], f"{path}.{key}")
    elif isinstance(ours, list | tuple):
        assert len(ours) == len(theirs), path
        for index, pair in enumerate(zip(ours, theirs, strict=True)):
            assert_equal_states(*pair, f"{path}[{index}]")
    elif isinstance(ours, torch.Tensor):
        assert ours.dtype == theirs.dtype and torch.equal(ours, theirs), path
    else:
        assert ours == theirs, path


def saved(model, opt, topo):
    file = io.BytesIO()
    torch.save([part.state_dict() for part in (model, opt, topo)], file)
    file.seek(0)
    return file


@pytest.mark.parametrize("name", MODELS)
def test_train_save_load_continue(name):
    """C1, C3: the loaded run, started from other weights and positions, goes on bit for bit."""
    _, layers, example = MODELS[name]
    model, opt, topo = build(name)
    assert len(list(smet.sparse_layers(model))) == layers
    if example:
        keys = model.state_dict().keys()
        assert example + ".values" in keys and example + ".mask" in keys and example + ".weight" not in keys
    before = topo.hash()
    losses = train(name, model, opt, topo, 0, STEPS)
    assert topo.updates == STEPS // INTERVAL
    assert topo.hash() != before
    assert sum(losses[-5:]) < sum(losses[:5])

    file = saved(model, opt, topo)
    other_model, other_opt, other_topo = build(name, seed=9)
    assert other_topo.hash() != topo.hash()
    states = torch.load(file, weights_only=True)
    for part, state in zip((other_model, other_opt, other_topo), states, strict=True):
        part.load_state_dict(state)
    assert other_topo.hash() == topo.hash()

    continued = train(name, model, opt, topo, STEPS, STEPS + 11)
    resumed = train(name, other_model, other_opt, other_topo, STEPS, STEPS + 11)
    assert continued == resumed
    assert topo.updates == other_topo.updates == 6
    assert_equal_states(model.state_dict(), other_model.state_dict())
    assert_equal_states(opt.state_dict()["state"], other_opt.state_dict()["state"])
    assert_equal_states(topo.state_dict(), other_topo.state_dict())


@pytest.mark.parametrize("name", MODELS)
def test_densified_model_computes_the_same(name):
    """Conv1D layers come back as Conv1D: the dense model of the same class loads the state."""
    model, opt, topo = build(name)
    train(name, model, opt, topo, 0, 6)
    expected = model(**batch(name, 99)).loss
    smet.densify_(model)
    torch.testing.assert_close(model(**batch(name, 99)).loss, expected, rtol=1e-5, atol=1e-6)
    fresh = MODELS[name][0]()
    fresh.load_state_dict(model.state_dict())
    assert [type(m) for m in fresh.modules()] == [type(m) for m in model.modules()]


def test_conv1d_keeps_its_weights():
    from transformers.pytorch_utils import Conv1D

    dense = gpt2()
    weights = {k: v.detach().clone() for k, v in dense.named_parameters()}
    smet.sparsify_(dense, 1.0)
    layer = dense.transformer.h[0].attn.c_attn
    assert (layer.origin, layer.out_features, layer.in_features) == ("conv1d", 96, 32)
    assert torch.equal(layer.dense_weight(), weights["transformer.h.0.attn.c_attn.weight"].t())
    smet.densify_(dense)
    assert type(dense.transformer.h[0].attn.c_attn) is Conv1D
    for key, value in dense.named_parameters():
        assert torch.equal(value, weights[key]), key


def test_tied_head_of_a_real_model_is_refused_when_asked_for():
    """S12: GPT-2 ties lm_head to wte."""
    with pytest.raises(ValueError, match=r"'lm_head' is shared with 'transformer.wte.weight'"):
        smet.sparsify_(gpt2(), include="lm_head", skip=())


def t5():
    config = transformers.T5Config(
        vocab_size=VOCAB,
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        decoder_start_token_id=0,
        pad_token_id=0,
    )
    return transformers.T5ForConditionalGeneration(config)


def test_a_model_that_reads_weights_is_told_which_layer_to_skip():
    """T5's feed-forward looks at wo.weight.dtype; following the message's advice makes it train."""
    model = t5()
    smet.sparsify_(model, 0.3)
    tokens = torch.arange(12).reshape(2, 6)
    with pytest.raises(
        AttributeError, match=r"'encoder.block.0.layer.1.DenseReluDense.wo'.*'weight'"
    ) as told:
        model(input_ids=tokens, labels=tokens)
    advice = re.search(r"skip=(\(.*\))\)$", str(told.value))[1]
    assert advice == "(*smet.SKIP, '*.wo')"

    model = t5()
    table = smet.sparsify_(model, 0.3, skip=eval(advice, {"smet": smet}))
    assert {name.rpartition(".")[2] for name, _, _ in table.kept} == {"wo", "lm_head"}
    opt = smet.CompactAdamW(model, lr=1e-2)
    losses = []
    for _ in range(5):
        loss = model(input_ids=tokens, labels=tokens).loss
        opt.zero_grad()
        loss.backward()
        opt.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_no_weight_on_a_layer_without_a_name():
    layer = smet.SparseLinear(4, 4)
    assert not hasattr(layer, "weight")
    with pytest.raises(AttributeError, match=r"layer '' is sparse .*dense_weight\(\)"):
        _ = layer.weight
    with pytest.raises(AttributeError, match="has no attribute 'wieght'"):
        _ = layer.wieght


@pytest.mark.parametrize("density", [0, -0.25, 1.01, float("nan")])
def test_bad_density_changes_nothing(density):
    """S13."""
    model = llama()
    with pytest.raises(ValueError, match="density is"):
        smet.sparsify_(model, density)
    assert not list(smet.sparse_layers(model))


def test_density_one_trains():
    """S13."""
    model, opt, topo = build("llama", density=1.0)
    losses = train("llama", model, opt, topo, 0, 10)
    assert topo.updates == 2
    assert losses[-1] < losses[0]


def test_deep_copied_model_trains_on_its_own():
    model, opt, topo = build("llama")
    train("llama", model, opt, topo, 0, 3)
    twin = copy.deepcopy(model)
    before = copy.deepcopy(model.state_dict())
    twin_opt = smet.CompactAdamW(twin, lr=3e-3)
    twin_topo = smet.TopologyScheduler(twin, twin_opt, interval=INTERVAL, total_steps=40, seed=1)
    train("llama", twin, twin_opt, twin_topo, 0, 6)
    assert_equal_states(model.state_dict(), before)
    assert twin_topo.updates == 1
    assert "cohort" in twin_opt.state[twin.model.layers[0].mlp.up_proj.values]
    assert twin_topo.hash() != topo.hash()


def test_meta_device_model_equals_one_that_was_built():
    """C21: a model that never existed densely starts at the same positions and values."""
    torch.manual_seed(0)
    built = llama()
    smet.sparsify_(built, 0.3, init_std=0.02, seed=4)
    with torch.device("meta"):
        model = llama()
    smet.sparsify_(model, 0.3, init_std=0.02, seed=4)
    model.to_empty(device="cpu")
    model.init_weights()  # the dense rest, by transformers
    ours, theirs = dict(smet.sparse_layers(model)), dict(smet.sparse_layers(built))
    assert ours.keys() == theirs.keys()
    for name, layer in ours.items():
        for key in ("values", "mask", "rank"):
            assert torch.equal(getattr(layer, key), getattr(theirs[name], key)), name
    opt = smet.CompactAdamW(model, lr=3e-3)
    topo = smet.TopologyScheduler(model, opt, interval=INTERVAL, total_steps=40)
    losses = train("llama", model, opt, topo, 0, STEPS)
    assert losses[-1] < losses[0]


def test_estimate_of_a_configuration_equals_the_report():
    config = llama().config
    table = smet.estimate(config, 0.3)
    model, opt, topo = build("llama")
    train("llama", model, opt, topo, 0, 1)
    measured = smet.report(model, opt)
    measured.by_kind.pop("other")
    assert {k: v for k, v in table.by_kind.items() if k != "other"} == measured.by_kind
    assert smet.estimate(config.to_dict(), 0.3).by_kind == table.by_kind


def test_estimate_of_a_size_equals_the_model_of_transformers():
    size = smet.llama_sizes.LLAMA_SIZES["9m"]
    config = transformers.LlamaConfig(
        vocab_size=size.vocab,
        hidden_size=size.hidden,
        intermediate_size=size.intermediate,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
    )
    assert smet.estimate(config).by_kind == smet.estimate("9m").by_kind


def test_names_do_not_change_when_wrapped():
    """Names, positions and the topology after an update are those of the bare model under DDP and compile."""
    model, opt, topo = build("llama")
    names = [name for name, _ in smet.sparse_layers(model)]
    compiled = torch.compile(model)
    assert [name for name, _ in smet.sparse_layers(compiled)] == names
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        twin, _, _ = build("llama")
        wrapped = torch.nn.parallel.DistributedDataParallel(twin)
        assert [name for name, _ in smet.sparse_layers(wrapped)] == names
        twin_opt = smet.CompactAdamW(wrapped, lr=3e-3, warmup=INTERVAL)
        twin_topo = smet.TopologyScheduler(
            wrapped, twin_opt, interval=INTERVAL, fraction=0.3, total_steps=40, stop=1.0, seed=1
        )
        assert train("llama", model, opt, topo, 0, 6) == train("llama", wrapped, twin_opt, twin_topo, 0, 6)
        assert twin_topo.hash() == topo.hash()
        with pytest.raises(ValueError, match=r"DistributedDataParallel.*sparsify_ first"):
            smet.sparsify_(torch.nn.parallel.DistributedDataParallel(llama()))
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_c20_a_dense_checkpoint_of_transformers_gives_the_same_logits(name, tmp_path):
    """densify_ and save_pretrained: transformers alone reads it; sums run in another order, no more."""
    model, opt, topo = build(name)
    train(name, model, opt, topo, 0, INTERVAL + 1)
    model.eval()
    tokens = torch.arange(24).reshape(2, 12) % VOCAB
    with torch.no_grad():
        sparse = model(tokens).logits
        dense = copy.deepcopy(model)
        smet.densify_(dense)
        dense.save_pretrained(tmp_path)
        loaded = type(dense).from_pretrained(tmp_path).eval()
        assert not list(smet.sparse_layers(loaded))
        assert torch.equal(loaded(tokens).logits, dense(tokens).logits)
        torch.testing.assert_close(loaded(tokens).logits, sparse, rtol=1e-5, atol=1e-6)
