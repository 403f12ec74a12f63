# SPDX-License-Identifier: BSD-3-Clause
"""C20: `smet export`: dense transformers checkpoints and CSR files, from runs and from checkpoints."""

import json
import shutil
import weakref

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

import smet
from smet.cli import main
from smet.export import ExportError, csr, export_csr, export_hf, hf
from smet.train.config import PretrainConfig
from smet.train.generate import load_run
from smet.train.run import pretrain

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.usefixtures("one_thread")
SIZES = {"vocab_size": 280, "max_position_embeddings": 64}
LLAMA = {
    "model_type": "llama",
    "hidden_size": 40,
    "intermediate_size": 72,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    **SIZES,
}
GPT2 = {"model_type": "gpt2", "n_embd": 32, "n_head": 2, "n_layer": 1, "n_positions": 64, "vocab_size": 280}
IDS = torch.arange(60).view(2, 30)


def train(folder, model, **options):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(model))
    (folder / "text.txt").write_text("".join(f"{i} and {i * i} make {i + i * i}\n" for i in range(3000)))
    config = PretrainConfig(
        **{
            "model": str(folder / "config.json"),
            "data": str(folder / "text.txt"),
            "out": str(folder / "run"),
        },
        **{"steps": 20, "seq": 16, "batch": 4, "interval": 5, "save_every": 10, "eval_every": 20},
        **{"eval_bytes": 2000, "sample_tokens": 0, "picture": False, **options},
    )
    pretrain(config)
    return folder / "run"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train(tmp_path_factory.mktemp("llama") / "made", LLAMA)


@pytest.fixture(scope="module")
def conv1d_run(tmp_path_factory):
    return train(tmp_path_factory.mktemp("gpt2") / "made", GPT2)


def load(folder):
    return transformers.AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).eval()


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


@pytest.mark.parametrize("kind", ["run", "conv1d_run"])
def test_c20_export_dense_hf_then_transformers_logits_equal(kind, request, tmp_path):
    folder = request.getfixturevalue(kind)
    dense = load(export_hf(folder, tmp_path / "hf"))
    sparse, _ = load_run(folder)
    assert sum(1 for _ in smet.sparse_layers(sparse)) >= 4
    torch.testing.assert_close(logits(dense), logits(sparse), rtol=1e-5, atol=1e-5)
    smet.densify_(sparse)
    assert torch.equal(logits(dense), logits(sparse))
    here, there = sparse.state_dict(), dense.state_dict()
    assert list(here) == list(there)
    assert all(torch.equal(here[name], there[name]) for name in here)


def test_exported_tokenizer_and_configuration(run, tmp_path):
    folder = export_hf(run, tmp_path / "hf")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    _, ours = load_run(run)
    assert tokenizer("3 and 9 make 12")["input_ids"] == ours.encode("3 and 9 make 12").ids
    assert tokenizer.eos_token == "<|endoftext|>"
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"] and config["dtype"] == "float32"


def test_checkpoint_folders_and_steps(run, tmp_path):
    step = run / "checkpoints" / "step-00000020"
    whole = load_file(export_hf(run, tmp_path / "run") / "model.safetensors")
    for number, source in enumerate((run / "checkpoints", step)):
        found = load_file(export_hf(source, tmp_path / str(number)) / "model.safetensors")
        assert list(found) == list(whole)
        assert all(torch.equal(found[name], whole[name]) for name in whole)
    early = load_file(
        export_hf(run / "checkpoints" / "step-00000010", tmp_path / "early") / "model.safetensors"
    )
    assert not torch.equal(early["lm_head.weight"], whole["lm_head.weight"])


def test_a_run_that_was_killed_is_exported_from_its_last_checkpoint(run, tmp_path):
    killed = shutil.copytree(run, tmp_path / "killed")
    summary = json.loads((killed / "summary.json").read_text())
    (killed / "summary.json").write_text(json.dumps({**summary, "steps": 7}))  # weights.pt of an earlier part
    weights = torch.load(killed / "weights.pt", weights_only=True)
    torch.save({name: torch.zeros_like(tensor) for name, tensor in weights.items()}, killed / "weights.pt")
    found = load_file(export_hf(killed, tmp_path / "hf") / "model.safetensors")
    assert found["lm_head.weight"].abs().sum() > 0
    (killed / "weights.pt").unlink()
    again = load_file(export_hf(killed, tmp_path / "again") / "model.safetensors")
    assert all(torch.equal(found[name], again[name]) for name in found)


def test_no_optimizer_state_is_needed(run, tmp_path):
    bare = shutil.copytree(run / "checkpoints" / "step-00000020", tmp_path / "bare")
    (bare / "optimizer.safetensors").unlink()
    export_csr(bare, tmp_path / "csr")
    export_hf(bare, tmp_path / "hf", config=run / "model")
    model, _ = load_run(run)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    smet.load_checkpoint(bare, model.eval())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    with pytest.raises(smet.CheckpointError, match=r"optimizer\.safetensors"):
        smet.load_checkpoint(bare, model, smet.CompactAdamW(model))


def test_one_dense_layer_at_a_time(run, tmp_path, monkeypatch):
    made, dense = [], hf._dense

    def watched(*arguments):
        assert not any(tensor() is not None for tensor in made)
        weight = dense(*arguments)
        made.append(weakref.ref(weight))
        return weight

    monkeypatch.setattr(hf, "_dense", watched)
    folder = export_hf(run, tmp_path / "hf", max_shard_size=100)  # a file for each tensor
    assert len(made) == 14
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) == len(index["weight_map"])
    monkeypatch.undo()
    assert torch.equal(logits(load(folder)), logits(load(export_hf(run, tmp_path / "one"))))


@pytest.mark.parametrize("kind", ["run", "conv1d_run"])
@pytest.mark.parametrize("part", ["", "checkpoints"])
def test_csr_holds_the_layers(kind, part, request, tmp_path, monkeypatch):
    monkeypatch.setattr(csr, "_POSITIONS_AT_ONCE", 200)  # several pieces
    folder = request.getfixturevalue(kind)
    model, _ = load_run(folder)
    with safe_open(export_csr(folder / part, tmp_path / "csr") / "model.safetensors", "pt") as file:
        shapes = json.loads(file.metadata()["shapes"])
        layers = dict(smet.sparse_layers(model))
        assert set(shapes) == set(layers)
        for name, layer in layers.items():
            crow, col = file.get_tensor(f"{name}.crow_indices"), file.get_tensor(f"{name}.col_indices")
            assert crow.dtype == col.dtype == torch.int32
            values = file.get_tensor(f"{name}.values")
            matrix = torch.sparse_csr_tensor(crow, col, values, shapes[name], check_invariants=True)
            assert torch.equal(matrix.to_dense(), layer.dense_weight())
        others = set(file.keys()) - {
            f"{n}.{p}" for n in layers for p in ("values", "crow_indices", "col_indices")
        }
        state = model.state_dict()
        assert others and all(torch.equal(file.get_tensor(name), state[name]) for name in others)


def test_csr_of_a_model_without_configuration(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(70, 9), torch.nn.Linear(9, 70))
    smet.sparsify_(model, 0.3)
    path = smet.save_checkpoint(tmp_path / "checkpoints", model, step=3)
    file = load_file(export_csr(path, tmp_path / "csr") / "model.safetensors")
    assert torch.equal(file["1.bias"], model[1].bias)
    parts = [file[f"0.{part}"] for part in ("crow_indices", "col_indices", "values")]
    matrix = torch.sparse_csr_tensor(*parts, (9, 70), check_invariants=True)
    assert torch.equal(matrix.to_dense(), model[0].dense_weight())
    with pytest.raises(ExportError, match="give the model's transformers configuration"):
        export_hf(path, tmp_path / "hf")


def test_refusals_leave_nothing_behind(run, tmp_path):
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "file").touch()
    other = tmp_path / "other.json"
    other.write_text(json.dumps({**LLAMA, "intermediate_size": 80}))
    deeper = tmp_path / "deeper.json"
    deeper.write_text(json.dumps({**LLAMA, "num_hidden_layers": 3}))
    broken = shutil.copytree(run, tmp_path / "broken")
    shutil.rmtree(broken / "checkpoints")
    (broken / "weights.pt").write_bytes(b"PK\3\4 no archive")
    cases = [
        (tmp_path / "none", {}, "is no folder"),
        (taken, {}, "holds neither weights.pt nor a checkpoint"),
        (broken, {}, "weights.pt cannot be read"),
        (run, {"config": tmp_path / "none.json"}, "no such file"),
        (run, {"config": other}, r"72 x 40|80 x 40|is \[72"),
        (run, {"config": deeper}, "has no tensor 'model.layers.2"),
        (run, {"max_shard_size": "much"}, "max_shard_size is 'much'"),
    ]
    before = sorted(tmp_path.iterdir())
    for source, options, message in cases:
        with pytest.raises(ExportError, match=message):
            export_hf(source, tmp_path / "out", **options)
        assert sorted(tmp_path.iterdir()) == before
    with pytest.raises(ExportError, match="is there already"):
        export_hf(run, taken)
    assert [path.name for path in taken.iterdir()] == ["file"]


def test_a_flipped_mask_bit_is_found(run, tmp_path):
    damaged = shutil.copytree(run, tmp_path / "damaged")
    shutil.rmtree(damaged / "checkpoints")
    weights = torch.load(damaged / "weights.pt", weights_only=True)
    weights["model.layers.0.mlp.up_proj.mask"][0, 0] ^= 1
    torch.save(weights, damaged / "weights.pt")
    for export in (export_hf, export_csr):
        with pytest.raises(
            ExportError, match=r"mask of layer 'model\.layers\.0\.mlp\.up_proj' has \d+ active"
        ):
            export(damaged, tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_command(run, tmp_path, capsys):
    assert main(["export", "--run", str(run), "--to", "hf", "--out", str(tmp_path / "hf")]) == 0
    assert "model.safetensors" in capsys.readouterr().out
    assert main(["export", "--run", str(run), "--to", "csr", "--out", str(tmp_path / "csr")]) == 0
    assert main(["export", "--run", str(run), "--out", str(tmp_path / "hf")]) == 2
    assert "is there already" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["export", "--run", str(run), "--to", "onnx", "--out", str(tmp_path / "x")])
    assert "expected hf or csr" in capsys.readouterr().err
