# SPDX-License-Identifier: BSD-3-Clause
"""Data: documents, tokenizers, token files, batches, and every way in which data can be bad."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from smet.train import documents, tokenizer
from smet.train.config import PretrainConfig
from smet.train.data import Batches, load_data
from smet.train.errors import ConfigError, DataError
from smet.train.token_file import check_tokens, open_token_file

WORDS = ("alpha", "beta", "gamma", "delta", "count", "return", "value", "42", "(x)", "na\u00efve")


def text(lines: int, seed: int = 0) -> str:
    rng = np.random.default_rng(seed)
    return "".join(" ".join(rng.choice(WORDS, 8)) + "\n" for _ in range(lines))


def config(**options) -> PretrainConfig:
    return PretrainConfig(**{"vocab": 300, "seq": 16, **options})


# Text


def test_pieces_join_to_the_text_and_are_cut_at_line_ends():
    whole = text(2000) + "x" * 100_000 + "\n" + text(10)
    parts = documents.pieces(whole)
    assert "".join(parts) == whole
    assert max(map(len, parts)) <= 4 * 8192
    assert all(part.startswith("\n") for part in parts[1:5])
    assert documents.pieces("") == []


def test_the_end_of_a_single_document_is_held_out():
    whole = text(2000)
    (train,), (held_out,) = documents.hold_out([("a.txt", documents.pieces(whole))])
    assert "".join(train) + "".join(held_out) == whole
    assert 0.04 < len("".join(held_out)) / len(whole) <= 0.05


def test_documents_are_held_out_by_name_whatever_the_others_are():
    named = [(f"{i}.py", [str(i)]) for i in range(400)]
    train, held_out = documents.hold_out(named)
    assert sorted(train + held_out) == sorted(document for _, document in named)
    assert 5 <= len(held_out) <= 40
    half_train, half_held_out = documents.hold_out(named[::2])
    assert all(document in train for document in half_train)
    assert all(document in held_out for document in half_held_out)
    train, held_out = documents.hold_out(named[:2])
    assert len(train) == len(held_out) == 1


def test_python_sources_without_data():
    corpus = documents.read_corpus(None, None, "text", None)
    assert documents.size(corpus.train) > 1_000_000
    assert documents.size(corpus.held_out) > 10_000
    held_out = {"".join(document) for document in corpus.held_out}
    assert not any("".join(document) in held_out for document in corpus.train if len(document) > 1)


def test_a_folder_is_read_in_order_and_says_what_it_left_out(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / ".git").mkdir()
    for name in ("b.txt", "a.txt", "sub/c.md", ".git/config"):
        (tmp_path / name).write_text(name)
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\0\0")
    corpus = documents.read_corpus(str(tmp_path), None, "text", None)
    assert sorted(map("".join, corpus.train + corpus.held_out)) == ["a.txt", "b.txt", "sub/c.md"]
    assert len(corpus.notes) == 1
    assert "1 files left out" in corpus.notes[0] and "picture.png" in corpus.notes[0]


def test_max_bytes(tmp_path):
    path = tmp_path / "t.txt"
    path.write_text(text(2000))
    corpus = documents.read_corpus(str(path), None, "text", 10_000)
    assert documents.size(corpus.train) == pytest.approx(10_000, rel=0.1)  # counted in characters


def test_eval_data_leaves_all_of_data_to_training(tmp_path):
    (tmp_path / "a.txt").write_text(text(100))
    (tmp_path / "b.txt").write_text(text(50, seed=1))
    corpus = documents.read_corpus(str(tmp_path / "a.txt"), str(tmp_path / "b.txt"), "text", None)
    assert ["".join(document) for document in corpus.train] == [text(100)]
    assert ["".join(document) for document in corpus.held_out] == [text(50, seed=1)]


BAD_TEXT = [
    (None, "no such file"),
    (b"", "is empty"),
    (b" \n\t\n", "is empty"),
    (bytes(range(256)) * 10, "is binary"),
    (b"caf\xe9 " * 100, "is not UTF-8 text (byte 0xe9 at offset 3)"),
    (b"too short", "fewer than one sequence"),
]


@pytest.mark.parametrize(("content", "said"), BAD_TEXT)
def test_bad_text_is_refused_by_name(tmp_path, content, said):
    path = tmp_path / "data.txt"
    if content is not None:
        path.write_bytes(content)
    good = tmp_path / "good.txt"
    good.write_text(text(100))
    with pytest.raises(DataError) as raised:
        load_data(config(data=str(path), eval_data=str(good)), tmp_path)
    assert said in str(raised.value)
    assert raised.value.exit_code == 2


def test_bad_held_out_text_and_empty_folders(tmp_path):
    good, empty = tmp_path / "good.txt", tmp_path / "empty.txt"
    good.write_text(text(100))
    empty.touch()
    with pytest.raises(DataError, match=r"empty\.txt is empty"):
        load_data(config(data=str(good), eval_data=str(empty)), tmp_path)
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="holds no files"):
        load_data(config(data=str(tmp_path / "none")), tmp_path)


# Tokenizers


def test_byte_level_bpe_gives_every_text_back():
    bpe = tokenizer.train_tokenizer(documents.pieces(text(500)), 290)
    assert bpe.get_vocab_size() == 290
    strange = "tabs\t, \u20ac, \U0001f600, nul \x00 and   spaces\n\n"
    assert bpe.decode(bpe.encode(strange).ids) == strange
    again = tokenizer.train_tokenizer(documents.pieces(text(500)), 290)
    assert again.to_str() == bpe.to_str()


def test_the_cache_is_used_for_the_same_text_and_vocabulary_only(tmp_path):
    first = documents.pieces(text(500))
    bpe = tokenizer.cached_tokenizer(first, 300, tmp_path)
    stamp = os.stat(tmp_path / "tokenizer.json").st_mtime_ns
    assert tokenizer.cached_tokenizer(first, 300, tmp_path).to_str() == bpe.to_str()
    assert os.stat(tmp_path / "tokenizer.json").st_mtime_ns == stamp
    assert tokenizer.cached_tokenizer(first, 280, tmp_path).get_vocab_size() == 280
    other = tokenizer.cached_tokenizer(documents.pieces("zebra quokka " * 500), 280, tmp_path)
    assert other.to_str() == tokenizer.load_tokenizer(tmp_path / "tokenizer.json").to_str()
    assert "zebra" in "".join(other.get_vocab())


def test_documents_start_with_end_of_text():
    bpe = tokenizer.train_tokenizer(documents.pieces(text(500)), 300)
    end = bpe.token_to_id(tokenizer.END_OF_TEXT)
    tokens = tokenizer.encode(bpe, [["alpha ", "beta"], ["gamma"]])
    assert tokens.dtype == np.uint16
    assert list(np.flatnonzero(tokens == end)) == [0, len(tokens) - 1 - len(bpe.encode("gamma").ids)]
    assert bpe.decode(tokens.tolist(), skip_special_tokens=True) == "alpha betagamma"


def test_bytes_are_those_of_the_held_out_tokens(tmp_path):
    path, other = tmp_path / "a.txt", tmp_path / "b.txt"
    path.write_text(text(800))
    other.write_text(text(3000, seed=1))
    data = load_data(config(data=str(path), eval_data=str(other), eval_bytes=20_000), tmp_path)
    decoded = data.tokenizer.decode(data.held_out.tolist(), skip_special_tokens=True)
    assert data.held_out_bytes == len(decoded.encode())
    assert 20_000 <= data.held_out_bytes < 40_000
    assert other.read_text().startswith(decoded)


@pytest.mark.parametrize("content", [None, b"", b"{}", b"not json"])
def test_a_bad_tokenizer_file(tmp_path, content):
    (tmp_path / "a.txt").write_text(text(100))
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match="--tokenizer"):
        load_data(config(data=str(tmp_path / "a.txt"), tokenizer=str(path), vocab=None), tmp_path / "run")


def test_a_vocabulary_larger_than_the_models_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text(text(500))
    with pytest.raises(DataError, match="vocabulary is 290, the model's only 280"):
        load_data(config(data=str(tmp_path / "a.txt"), vocab=290), tmp_path, model_vocab=280)
    data = load_data(config(data=str(tmp_path / "a.txt"), vocab=None), tmp_path, model_vocab=280)
    assert data.vocab == 280


# Token files

TOKENS = np.arange(1000) % 251


def llmc(tokens, magic=20240520, version=1, dtype=np.uint16, count=None):
    header = np.zeros(256, np.int32)
    header[:3] = magic, version, len(tokens) if count is None else count
    return header.tobytes() + tokens.astype(dtype).tobytes()


@pytest.mark.parametrize(
    ("content", "dtype", "vocab"),
    [
        (TOKENS.astype(np.uint16).tobytes(), "uint16", None),
        (TOKENS.astype(np.uint32).tobytes(), "uint32", None),
        (llmc(TOKENS), "uint16", 50257),
        (llmc(TOKENS, 20240801, 7, np.uint32), "uint16", 128256),
    ],
)
def test_token_files_of_nanogpt_and_llmc(tmp_path, content, dtype, vocab):
    path = tmp_path / "t.bin"
    path.write_bytes(content)
    found = open_token_file(path, dtype)
    assert isinstance(found.tokens, np.memmap)
    assert np.array_equal(found.tokens, TOKENS)
    assert found.vocab == vocab


BAD_BINS = [
    (None, "no such file"),
    (b"", "is empty"),
    (b"\x01\x00\x02", "no multiple of 2"),
    (llmc(TOKENS, magic=20240521), "unknown magic 20240521"),
    (llmc(TOKENS, version=2), "version 2"),
    (llmc(TOKENS)[:-2], "truncated or damaged"),
    (llmc(TOKENS) + b"\0\0", "truncated or damaged"),
    (llmc(TOKENS, count=-1), "truncated or damaged"),
    (llmc(TOKENS, count=0), "truncated or damaged"),
    (llmc(TOKENS)[:600], "ends inside its header"),
    (llmc(np.append(TOKENS, 400)), "token 400 at position 1000 is not in the vocabulary of 300"),
    (b"<!DOCTYPE html><html>a login page</html>" * 40, "is not in the vocabulary"),
    (TOKENS[:10].astype(np.uint16).tobytes(), "fewer than one sequence"),
]


@pytest.mark.parametrize(("content", "said"), BAD_BINS)
def test_X10_bad_token_files(tmp_path, content, said):
    path = tmp_path / "t.bin"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError) as raised:
        load_data(config(data=str(path)), tmp_path)
    assert said in str(raised.value)
    assert "t.bin" in str(raised.value) or "training data" in str(raised.value)


def test_the_largest_token_is_found_wherever_it_is():
    tokens = np.zeros((1 << 24) + 5, np.uint16)
    tokens[-1] = 7
    with pytest.raises(DataError, match=f"token 7 at position {(1 << 24) + 4}"):
        check_tokens(tokens, 7, "t.bin")
    check_tokens(tokens, 8, "t.bin")


def test_a_token_file_as_data(tmp_path):
    path = tmp_path / "t.bin"
    path.write_bytes(TOKENS.astype(np.uint16).tobytes())
    data = load_data(config(data=str(path), eval_bytes=120), tmp_path)
    assert np.array_equal(data.train, TOKENS[:950])
    assert np.array_equal(data.held_out, TOKENS[950:980])  # 120 / 4 tokens
    assert (data.vocab, data.held_out_bytes, data.tokenizer) == (300, None, None)
    with pytest.raises(ConfigError, match="--vocab"):
        load_data(config(data=str(path), vocab=None), tmp_path)
    (tmp_path / "e.txt").write_text(text(100))
    with pytest.raises(ConfigError, match=r"must be a \.bin too"):
        load_data(config(data=str(path), eval_data=str(tmp_path / "e.txt")), tmp_path)
    with pytest.raises(ConfigError, match=r"must be a \.bin too"):
        load_data(config(data=str(tmp_path / "e.txt"), eval_data=str(path)), tmp_path)


# Batches


def test_batches_depend_on_seed_and_index_alone():
    batches = Batches(np.arange(1000, dtype=np.uint16), seq=10, batch=4, seed=1)
    wanted = [batches[i].clone() for i in (30, 3)]
    np.random.seed(123)
    torch.manual_seed(123)
    again = Batches(np.arange(1000, dtype=np.uint16), seq=10, batch=4, seed=1)
    assert torch.equal(again[30], wanted[0]) and torch.equal(again[3], wanted[1])
    other = Batches(np.arange(1000, dtype=np.uint16), seq=10, batch=4, seed=2)
    assert not torch.equal(other[3], wanted[1])


def test_an_epoch_visits_every_token_once():
    batches = Batches(np.arange(1001, dtype=np.uint16), seq=10, batch=5, seed=0)
    assert batches.windows == 100
    epochs = [torch.cat([batches[i][:, 1:] for i in range(e * 20, e * 20 + 20)]).flatten() for e in (0, 1)]
    for epoch in epochs:
        assert torch.equal(epoch.sort().values, torch.arange(1, 1001))
    assert not torch.equal(*epochs)
    first = batches[0]
    assert first.shape == (5, 11) and first.dtype == torch.int64
    assert torch.equal(first[:, 1:], first[:, :-1] + 1)


# Hugging Face data sets


def test_hugging_face_folders(tmp_path):
    import datasets

    rows = [{"text": text(20, seed)} for seed in range(30)] + [{"text": ""}]
    saved, plain = tmp_path / "saved", tmp_path / "plain"
    splits = {"train": datasets.Dataset.from_list(rows), "validation": datasets.Dataset.from_list(rows[:3])}
    datasets.DatasetDict(splits).save_to_disk(str(saved))
    corpus = documents.read_corpus(f"hf:{saved}", None, "text", None)
    assert [len(corpus.train), len(corpus.held_out)] == [30, 3]
    assert "".join(corpus.train[4]) == rows[4]["text"]
    plain.mkdir()
    splits["train"].to_json(plain / "train.jsonl")
    corpus = documents.read_corpus(f"hf:{plain}", None, "text", None)
    assert len(corpus.train) + len(corpus.held_out) == 30
    assert len(corpus.held_out) >= 1
    with pytest.raises(DataError, match="no column 'content'; choose with --text-column: text"):
        documents.read_corpus(f"hf:{saved}", None, "content", None)


def test_L6_no_network_is_a_clear_error_and_no_hang(tmp_path):
    code = (
        "from smet.train.hugging_face import read_dataset\nfrom smet.train.errors import DataError\n"
        "try:\n    read_dataset('nobody/nothing', 'text')\n"
        "except DataError as error:\n    print(error)\n"
    )
    nowhere = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | nowhere, capture_output=True, text=True, timeout=60
    )
    assert "the hub cannot be reached" in done.stdout, done.stderr
