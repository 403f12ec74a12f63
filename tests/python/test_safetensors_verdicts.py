# SPDX-License-Identifier: BSD-3-Clause
"""X5, X9: no file that the safetensors library refuses is accepted by the C++ reader; fuzzing it.

Run as a program it prints the table of verdicts.
"""

import json
import random
import struct
import subprocess
import tempfile
from pathlib import Path

import pytest
import safetensors

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "build" / "tests" / "cpp" / "safetensors_verdict"


def file(header, data=b""):
    if not isinstance(header, bytes):
        header = json.dumps(header).encode()
    return struct.pack("<Q", len(header)) + header + data


def tensor(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


GOOD = file({"a": tensor(), "b": tensor("U8", (3, 1), (8, 11))}, bytes(11))
# name -> (content, whether both accept it)
CASES = {
    "good": (GOOD, True),
    "no tensor": (file({}), True),
    "scalar and empty": (
        file({"a": tensor(shape=(), offsets=(0, 4)), "b": tensor(shape=(0, 9), offsets=(4, 4))}, bytes(4)),
        True,
    ),
    "padded": (file(json.dumps({"a": tensor()}).encode() + b"   ", bytes(8)), True),
    "metadata": (file({"__metadata__": {"x": "y"}, "a": tensor()}, bytes(8)), True),
    "any name": (file({'\u00e9"\\\n': tensor()}, bytes(8)), True),
    "empty file": (b"", False),
    "header of 2^63 bytes": (struct.pack("<Q", 2**63) + b"{}", False),
    "header of 200 MB": (struct.pack("<Q", 200_000_000) + b"{}", False),
    "header longer than the file": (struct.pack("<Q", 3) + b"{}", False),
    "overlap": (file({"a": tensor(), "b": tensor("U8", (3,), (5, 8))}, bytes(8)), False),
    "hole": (file({"a": tensor(), "b": tensor("U8", (3,), (9, 12))}, bytes(12)), False),
    "trailing": (file({"a": tensor()}, bytes(9)), False),
    "too short": (file({"a": tensor()}, bytes(7)), False),
    "dtype lies": (file({"a": tensor("F64")}, bytes(8)), False),
    "unknown dtype": (file({"a": tensor("F31")}, bytes(8)), False),
    "negative shape": (file({"a": tensor(shape=(-2,))}, bytes(8)), False),
    "numel overflows": (file({"a": tensor(shape=(2**62, 4), offsets=(0, 0))}), False),
    "size overflows": (file({"a": tensor("F64", (2**61,), (0, 0))}), False),
    "offsets reversed": (file({"a": tensor(offsets=(8, 0))}, bytes(8)), False),
    "offset negative": (file({"a": tensor(offsets=(-8, 0))}, bytes(8)), False),
    "fraction": (file(b'{"a":{"dtype":"F32","shape":[2.0],"data_offsets":[0,8]}}', bytes(8)), False),
    "NaN": (file(b'{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,8]}}', bytes(8)), False),
    "not UTF-8": (file(b'{"\xff":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', bytes(8)), False),
    "no object": (file(b"[]"), False),
    "leading space": (file(b" {}"), False),
    "metadata of numbers": (file({"__metadata__": {"x": 1}}), False),
    "a tensor is null": (file({"a": None}), False),
    "three offsets": (file({"a": tensor(offsets=(0, 4, 8))}, bytes(8)), False),
    "deep": (file(b'{"a":' * 5000 + b"1" + b"}" * 5000), False),
    "rest after the object": (file(b"{} {}"), False),
    "NUL after the object": (file(b"{}\0"), False),
    "NUL and a second object": (
        file(b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}\0{}', bytes(8)),
        False,
    ),
    "twice": (
        file(
            b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
            b"1",
        ),
        False,
    ),
}


def library(content):
    try:
        safetensors.deserialize(content)
    except Exception:  # whatever it raises, it refuses
        return False
    return True


def ours(contents, folder):
    paths = []
    for number, content in enumerate(contents):
        path = folder / f"{number}"
        path.write_bytes(content)
        paths.append(str(path))
    done = subprocess.run(
        [PROGRAM], input="\n".join(paths) + "\n", capture_output=True, text=True, check=True, errors="replace"
    )
    lines = done.stdout.splitlines()
    assert len(lines) == len(contents)
    return [line == "accepted" for line in lines]


def test_x5_verdicts_by_hand(tmp_path):
    accepted = ours([content for content, _ in CASES.values()], tmp_path)
    for (name, (content, expected)), verdict in zip(CASES.items(), accepted, strict=True):
        assert verdict == expected, name
        assert library(content) or not verdict, name


def mutated(rng):
    content = bytearray(GOOD)
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(content))
        kind = rng.randrange(4)
        if kind == 0:
            content[place] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del content[place : place + rng.randint(1, 9)]
        elif kind == 2:
            content[place:place] = rng.choice(
                [b"0", b"9", b"-", b'"', b"{", b"}", b",", b"[", b"\xff", b"e5"]
            )
        else:
            content[place] = rng.randrange(256)
    if rng.random() < 0.8:  # most get a length that fits, or nothing but the length is ever looked at
        end = content.rfind(b"}") + 1
        content[:8] = struct.pack("<Q", max(0, end - 8))
    return bytes(content)


def verdicts(count, folder):
    """(content, whether we accept it, whether the library does) of generated files."""
    rng = random.Random(0)
    corpus = [mutated(rng) for _ in range(count)]
    return list(zip(corpus, ours(corpus, folder), map(library, corpus), strict=True))


@pytest.mark.parametrize("count", [4000, pytest.param(100_000, marks=pytest.mark.long)])
def test_x5_nothing_is_accepted_that_the_library_refuses(tmp_path, count):
    found = verdicts(count, tmp_path)
    assert [content for content, we, they in found if we and not they] == []
    accepted, theirs = sum(we for _, we, _ in found), sum(they for _, _, they in found)
    assert accepted >= count // 80 and theirs >= accepted


@pytest.mark.long
def test_x9_a_minute_of_fuzzing_finds_nothing():
    """Half a minute of it in every run of .ci/run, ten minutes by hand: scripts/fuzz.sh 600."""
    done = subprocess.run([ROOT / "scripts" / "fuzz.sh", "60"], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "stat::number_of_executed_units" in done.stderr


def main():
    word = {True: "accepted", False: "refused"}
    with tempfile.TemporaryDirectory() as folder:
        accepted = ours([content for content, _ in CASES.values()], Path(folder))
        print(f"{'file':30} {'safetensors':12} smet")
        for (name, (content, _)), we in zip(CASES.items(), accepted, strict=True):
            print(f"{name:30} {word[library(content)]:12} {word[we]}")
        found = verdicts(4000, Path(folder))
    for they in (True, False):
        for we in (True, False):
            number = sum((ours_, theirs) == (we, they) for _, ours_, theirs in found)
            print(f"generated: {number:<19} {word[they]:12} {word[we]}")


if __name__ == "__main__":
    main()
