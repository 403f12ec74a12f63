# SPDX-License-Identifier: BSD-3-Clause
"""Step time and peak memory of examples/cpp/train_llama against `smet pretrain`: whole runs, in turn.

Usage: train_llama.py [--rounds N] [--program PATH] [options of smet pretrain]
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

PROGRAM = Path(__file__).parents[1] / "build" / "examples" / "cpp" / "train_llama" / "train_llama"
_ALLOCATING = 2  # steps at the start of a run that are left out


def run(command, folder):
    """Seconds of the steps of one run, and its peak of resident memory in bytes."""
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    events = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    seconds = [event["seconds"] for event in events if event["event"] == "step"]
    (end,) = (event for event in events if event["event"] == "end")
    return seconds[_ALLOCATING:], end["peak_rss_bytes"]


def main():
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=4, help="runs of either")
    parser.add_argument("--program", type=Path, default=PROGRAM)
    arguments, options = parser.parse_known_args()
    options += ["--eval-every=0", "--eval-bytes=4000", "--save-every=0", "--sample-tokens=0", "--no-picture"]
    pretrain = [sys.executable, "-m", "smet", "pretrain", *options]
    seconds, peaks = {"python": [], "c++": []}, {"python": [], "c++": []}
    with tempfile.TemporaryDirectory() as root:
        ours, theirs = Path(root, "cpp"), Path(root, "python")
        subprocess.run([*pretrain, f"--out={ours}", "--prepare"], check=True, stdout=subprocess.DEVNULL)
        for _ in range(arguments.rounds):
            for name, command, folder in (
                ("python", [*pretrain, f"--out={theirs}", "--overwrite"], theirs),
                ("c++", [arguments.program, ours], ours),
            ):
                steps, peak = run(command, folder)
                seconds[name] += steps
                peaks[name].append(peak)
    print(f"{'':8}{'steps':>7}{'min s':>9}{'median s':>10}{'peak MB':>9}")
    for name, times in seconds.items():
        figures = f"{min(times):9.4f}{statistics.median(times):10.4f}{max(peaks[name]) / 1e6:9.0f}"
        print(f"{name:8}{len(times):7}{figures}")
    ratios = (f(seconds["c++"]) / f(seconds["python"]) for f in (min, statistics.median))
    memory = max(peaks["c++"]) / max(peaks["python"])
    print("c++ / python: min {:.3f}, median {:.3f}, peak memory {:.3f}".format(*ratios, memory))


if __name__ == "__main__":
    main()
