# SPDX-License-Identifier: BSD-3-Clause
"""Make an existing transformers model sparse by magnitude, fine-tune it, and save it dense again.

    python examples/python/finetune_hf.py --model FOLDER_OR_NAME --text FILE --out FOLDER

Without --model a small LLaMA is trained densely first, and stands for the existing one; without --text the
text is Python's own standard library. Nothing is downloaded unless --model names a model of the hub.
"""

import argparse
import math
import tempfile
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, PreTrainedTokenizerFast

import smet


def main() -> None:
    options = parse()
    torch.manual_seed(0)
    path = options.model or make_small_model(options)
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    ids = torch.tensor(tokenizer(read_text(options.text))["input_ids"])
    held_out, train = ids[: len(ids) // 20], ids[len(ids) // 20 :]
    print(f"dense                loss {evaluate(model, held_out, options):.3f}")

    print(smet.sparsify_(model, density=options.density, select="magnitude"))  # keeps the largest |w|
    print(f"largest weights only loss {evaluate(model, held_out, options):.3f}")
    # Weights that stay are trained already: a small learning rate, and newborns warm up to it.
    opt = smet.CompactAdamW(model, lr=options.lr, warmup=options.interval)
    topo = smet.TopologyScheduler(
        model, opt, interval=options.interval, fraction=0.1, total_steps=options.steps, grow="gradient"
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(opt, options.steps)
    fit(model, opt, train, options, options.steps, lambda: (schedule.step(), topo.step()))
    print(f"fine-tuned           loss {evaluate(model, held_out, options):.3f}")
    print(smet.report(model, opt))

    logits = model(held_out[None, : options.seq]).logits
    smet.densify_(model)
    model.save_pretrained(options.out)
    tokenizer.save_pretrained(options.out)
    again = AutoModelForCausalLM.from_pretrained(options.out)(held_out[None, : options.seq]).logits
    print(f"saved dense to {options.out}; logits differ by {(logits - again).abs().max().item():.1e}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="a transformers causal LM: a folder, or a name on the hub")
    parser.add_argument("--text", help="a text file")
    parser.add_argument("--out", default="runs/finetuned", help="where the dense model is saved")
    parser.add_argument("--density", type=float, default=0.25)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--interval", type=int, default=50, help="steps between topology updates")
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seq", type=int, default=128)
    return parser.parse_args()


def read_text(path: str | None) -> str:
    if path is not None:
        return Path(path).read_text(encoding="utf-8")
    return "".join(
        file.read_text(encoding="utf-8") for file in sorted(Path(argparse.__file__).parent.glob("a*.py"))
    )


def fit(model, opt, ids, options, steps, after_step=lambda: None) -> None:
    model.train()
    for _ in range(steps):
        starts = torch.randint(len(ids) - options.seq, (options.batch,)).tolist()
        batch = torch.stack([ids[start : start + options.seq] for start in starts])
        opt.zero_grad()
        model(batch, labels=batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
        after_step()  # the scheduler of the topology comes after the optimizer, before the next zero_grad


@torch.no_grad()
def evaluate(model, ids, options) -> float:
    model.eval()
    rows = ids[: len(ids) // options.seq * options.seq].view(-1, options.seq)[:32]
    losses = [model(part, labels=part).loss.item() * len(part) for part in rows.split(options.batch)]
    return math.fsum(losses) / len(rows)


def make_small_model(options: argparse.Namespace) -> str:
    """A folder with a LLaMA of bytes and its tokenizer, trained densely for a while."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    words.pre_tokenizer, words.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoders.ByteLevel(),
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words)
    config = LlamaConfig(
        vocab_size=len(alphabet),
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=2 * options.seq,
        bos_token_id=None,
        eos_token_id=None,
    )
    model = AutoModelForCausalLM.from_config(config)
    ids = torch.tensor(tokenizer(read_text(options.text))["input_ids"])
    fit(model, torch.optim.AdamW(model.parameters(), lr=3e-3), ids[len(ids) // 20 :], options, options.steps)
    folder = tempfile.mkdtemp(prefix="small-llama-")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


if __name__ == "__main__":
    main()
