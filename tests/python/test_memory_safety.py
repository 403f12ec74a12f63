# SPDX-License-Identifier: BSD-3-Clause
"""J1-J9: sanitizers, leaks, threads, interruptions, warnings. The long ones build for minutes."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

import smet
from smet import _C
from topology_helpers import OPS

ROOT = Path(__file__).parents[2]
CPP = ROOT / "build" / "tests" / "cpp"


def run(*command, timeout=3000, **environment):
    done = subprocess.run(
        command, env=os.environ | environment, cwd=ROOT, capture_output=True, text=True, timeout=timeout
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    return done.stdout


# Sanitizers


@pytest.mark.long
def test_j1_cpp_tests_under_the_address_and_undefined_behaviour_sanitizers():
    """J3 too: 10,000 updates with the leak sanitizer looking at what is left."""
    said = run(ROOT / "scripts" / "sanitize.sh", "address")
    assert len(re.findall(r"\[  PASSED  \] \d+ tests", said)) == 6
    assert "random" in said and "gradient" in said


@pytest.mark.long
def test_j2_threaded_kernels_under_the_thread_sanitizer():
    said = run(ROOT / "scripts" / "sanitize.sh", "thread")
    assert re.search(r"\[  PASSED  \] \d+ tests", said)


@pytest.mark.parametrize("updates", [1000, pytest.param(10_000, marks=pytest.mark.long)])
def test_j3_updates_leave_no_memory_behind(updates):
    """Half of them with random growth, half by gradient. 22 bytes lost in each of the 10,000 would show."""
    lines = run(CPP / "updates_run", str(updates)).split("\n")
    for line, grow in zip(lines, ("random", "gradient"), strict=False):
        name, early, late = line.split()
        assert name == grow
        assert int(late) - int(early) < 100_000, line


@pytest.mark.long
def test_j9_kernels_under_valgrind():
    """Memory that nobody wrote is not looked at: what the address sanitizer does not see."""
    valgrind = shutil.which("valgrind")
    assert valgrind, "valgrind is missing; install it: apt-get install valgrind"
    run(
        *(valgrind, "--error-exitcode=9", "--leak-check=full", "--errors-for-leak-kinds=definite"),
        *(CPP / "kernels" / "smet_kernel_tests", "--gtest_filter=" + ":".join(SMOKE)),
        SMET_ISA="avx2",  # valgrind knows no AVX-512
    )


SMOKE = ("SelectKeep.Ref*", "Relayout*", "GradTopk*", "MaskRank*", "MaskHash*", "HasPadBits*")


# Threads, the interpreter's lock and signals


@pytest.mark.parametrize(
    ("program", "tests"), [("smet_executor_tests", "*J6*:*J7*"), ("kernels/smet_kernel_tests", "Philox*")]
)
def test_j6_j7_t10_in_cpp(program, tests):
    """What is thrown on a thread reaches the caller; chunks run at the same time; Philox's known answers."""
    said = run(CPP / program, f"--gtest_filter={tests}")
    assert int(re.search(r"\[  PASSED  \] (\d+) tests", said).group(1)) >= 2


def large_model():
    """Eight layers of half a million active weights: an update takes a tenth of a second."""
    layers = [smet.SparseLinear(1024, 1024, bias=False, density=0.5, name=str(i), seed=i) for i in range(8)]
    model = torch.nn.Sequential(*layers)
    opt = smet.CompactAdamW(model, lr=1e-3)
    topo = smet.TopologyScheduler(model, opt, interval=1, fraction=0.3, total_steps=9000, stop=1.0)
    for layer in layers:
        layer.values.grad = torch.ones_like(layer.values)
    return model, opt, topo


def long_calls(model, opt, topo):
    """Name -> a call that spends its time in one kernel, or one after the other without returning."""
    layer, x = model[0], torch.ones(512, 1024)
    mask, rank = layer.mask, layer.rank
    empty = [torch.zeros(4096, words, dtype=torch.int32) for words in (128, 4)]
    views, values = [topo._view(name) for name in topo._layers], layer.values.detach().clone()
    return {
        "forward": lambda: OPS.sparse_linear(x, layer.values, mask, rank, None),
        "optimizer": lambda: opt.step(),
        "topology": lambda: topo._engine.update(views, None),
        "hash": lambda: _C.topology_hash(10 * views),
        "expand": lambda: OPS.expand(torch.zeros(0), *empty, 4096),
        "mask_rank": lambda: OPS.mask_rank(empty[0], 4096),
        "first positions": lambda: _C.draw_initial_mask(1024, 1024, 500_000, 1, "x"),
        "first values": lambda: _C.fill_initial_values(values, mask, rank, 1024, 1, "x", 0.02),
    }


LONG_CALLS = (
    *("forward", "optimizer", "topology", "hash", "expand", "mask_rank"),
    *("first positions", "first values"),
)


@pytest.fixture(scope="module")
def large():
    return long_calls(*large_model())


@pytest.fixture
def no_forced_switches():
    """A thread that does not let go of the interpreter's lock by itself keeps it."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.parametrize("name", LONG_CALLS)
def test_j5_long_kernels_release_the_interpreter_lock(name, large, one_thread, no_forced_switches):
    """While another thread computes, this one goes on."""
    counted, inside = 0, 0
    started = threading.Event()

    def compute():
        nonlocal inside
        started.set()
        deadline = time.monotonic() + 10
        while inside < 20 and time.monotonic() < deadline:
            begin = counted
            result = large[name]()
            inside += counted - begin
            del result  # torch lets go of the lock here

    thread = threading.Thread(target=compute)
    thread.start()
    started.wait()
    while thread.is_alive():
        counted += 1
        time.sleep(0)
    thread.join()
    assert inside >= 20


def test_j5_ctrl_c_within_a_topology_update_changes_nothing(one_thread):
    """A signal that comes while layers are planned is heeded before the next one, not after the last."""
    interrupted, first, whole = large_model(), large_model(), large_model()
    seconds = []
    for _, opt, _ in (interrupted, first, whole):
        opt.step()  # or no update would be due
    for _, _, topo in (first, whole):  # the first one is slower than what follows
        begin = time.process_time()
        topo.step()
        seconds.append(time.process_time() - begin)
    before = [tensor.clone() for tensor in interrupted[0].state_dict().values()]
    handler = signal.signal(signal.SIGPROF, signal.default_int_handler)
    try:
        # Of processor time, however busy the machine.
        signal.setitimer(signal.ITIMER_PROF, 0.2 * min(seconds))
        with pytest.raises(KeyboardInterrupt) as caught:
            interrupted[2].step()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, handler)
    assert "self._engine.update(" in str(caught.traceback[-1].statement)
    assert (whole[2].updates, interrupted[2].updates, interrupted[2].steps) == (1, 0, 0)
    assert all(map(torch.equal, before, interrupted[0].state_dict().values()))
    interrupted[2].step()
    assert interrupted[2].hash() == whole[2].hash()


# Warnings


def test_j8_every_source_is_compiled_with_warnings_as_errors():
    """-Wall -Wextra -Wconversion -Werror; clang-tidy and clang-format are `make lint`."""
    commands = json.loads((ROOT / "build" / "compile_commands.json").read_text())
    flags, lax = {"-Wall", "-Wextra", "-Wconversion", "-Werror"}, []
    for command in commands:
        source, words = command["file"], set(command["command"].split())
        instrumented = any(word.startswith("-fsanitize=") for word in words)  # leads GCC's warnings astray
        cuda = source.endswith(".cu")  # scripts/cuda_gate.sh compiles them
        if not (instrumented or cuda or flags <= words):
            lax.append(source)
    assert len(commands) > 100 and lax == []
