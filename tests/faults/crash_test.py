# SPDX-License-Identifier: BSD-3-Clause
"""Kills a run at every call that writes a checkpoint, and at random times; then resumes it (C13, C14).

Each attempt is a forked process. After a kill the newest checkpoint must be whole, and be the one before or
the one that was being written; the resumed run must end in the hash of the uninterrupted one. After a disk
that is full from some call on, the save must have raised and left the older checkpoint. Needs LD_PRELOAD of
fault_shim.
"""

import argparse
import ctypes
import errno
import hashlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "python"))

import torch

from checkpoint_helpers import OPERATIONS, STEPS, Run, seed_all, tensors_of
from smet.checkpoint import checkpoint_steps, verify_checkpoint

TOTAL = STEPS * len(OPERATIONS)
SAVE_EVERY, KEEP = 9, 2  # operations: also amid accumulation, and before and after topology updates
SHIM = ctypes.CDLL(None)


def final_hash(run):
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors_of(run).items()):
        digest.update(name.encode() + tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def go_on(root, until=TOTAL, first_save=None):
    """Start, or resume from `root`, and run on, saving; the hash at the end."""
    run = Run()
    seed_all(7)
    if checkpoint_steps(root):
        run.load(root)
    while run.done < until:
        run.advance(min(SAVE_EVERY - run.done % SAVE_EVERY, until - run.done))
        if run.done % SAVE_EVERY == 0 and run.done not in checkpoint_steps(root):
            run.save(root, keep=KEEP)
    return final_hash(run)


def in_fork(action, before=None):
    """Run `action` in a forked process; (exit status, what it printed)."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        status = 1
        try:
            os.write(write, str(action()).encode())
            status = 0
        except BaseException as error:
            os.write(write, f"{type(error).__name__}: {error}".encode()[:4000])
        finally:
            os._exit(status)
    os.close(write)
    if before is not None:
        before(child)
    with os.fdopen(read, "rb") as pipe:
        output = pipe.read().decode()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), output


def armed(root, at, error, until):
    def action():
        SHIM.fault_arm(os.fsencode(root), ctypes.c_long(at), ctypes.c_int(error))
        result = go_on(root, until)
        return result if error else SHIM.fault_calls()

    return action


class Check:
    def __init__(self, folder):
        self.folder, self.kills, self.errors = folder, 0, 0
        status, self.expected = in_fork(lambda: go_on(folder / "whole"))
        assert status == 0, self.expected
        self.start = folder / "start"  # two checkpoints, so that the next save also removes one
        status, said = in_fork(lambda: go_on(self.start, 2 * SAVE_EVERY))
        assert status == 0, said

    def copy(self):
        root = self.folder / "run"
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(self.start, root)
        return root

    def resumes(self, root, allowed):
        """The newest checkpoint is whole and one of `allowed`; the run goes on from it to the right end."""
        newest = checkpoint_steps(root)[-1]
        assert newest in allowed, (newest, allowed)
        verify_checkpoint(root / f"step-{newest:08d}")
        status, said = in_fork(lambda: go_on(root))
        assert status == 0 and said == self.expected, said

    def every_call(self, stride):
        """A kill at each (stride-th) call of one save with its removal of an older checkpoint."""
        root = self.copy()
        status, count = in_fork(armed(root, 0, 0, 3 * SAVE_EVERY))
        assert status == 0, count
        for at in range(1, int(count) + 1, stride):
            root = self.copy()
            status, said = in_fork(armed(root, at, 0, 3 * SAVE_EVERY))
            assert status == -signal.SIGKILL, (at, status, said)
            self.resumes(root, {2 * SAVE_EVERY, 3 * SAVE_EVERY})
            self.kills += 1
        return int(count)

    def full_disk(self, count, stride):
        """From each of these calls on, every write fails: the save raises, the older checkpoints stay."""
        for at in range(1, count + 1, stride):
            root = self.copy()
            status, said = in_fork(armed(root, at, errno.ENOSPC, 3 * SAVE_EVERY))
            newest = checkpoint_steps(root)[-1]
            assert status == 1 and "No space left" in said, (at, status, said)
            self.resumes(root, {2 * SAVE_EVERY, newest})
            self.errors += 1

    def random_times(self, kills, seed):
        """Kills at random moments of a run that is started again and again until it ends."""
        rng = random.Random(seed)
        while kills > 0:
            root = self.folder / "random"
            shutil.rmtree(root, ignore_errors=True)
            root.mkdir()
            while True:
                at = rng.randint(1, 200)
                timed = rng.random() < 0.5
                before = (lambda child: kill_after(child, rng.uniform(0.0, 0.4))) if timed else None
                status, said = in_fork(armed(root, 0 if timed else at, 0, TOTAL), before)
                if status == 0:
                    break
                assert status == -signal.SIGKILL, (status, said)
                for step in checkpoint_steps(root):
                    verify_checkpoint(root / f"step-{step:08d}")
                kills -= 1
                self.kills += 1
            status, said = in_fork(lambda root=root: go_on(root))
            assert status == 0 and said == self.expected, said


def kill_after(child, seconds):
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--random", type=int, default=160, help="kills at random times and calls")
    parser.add_argument("--stride", type=int, default=1, help="only every so many-th call")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    assert hasattr(SHIM, "fault_arm"), "run scripts/crash_test.sh, which preloads the shim"
    Run().advance(5 * len(OPERATIONS))  # what torch and smet import when first used, before the first fork
    started = time.time()
    with tempfile.TemporaryDirectory() as folder:
        check = Check(Path(folder))
        calls = check.every_call(arguments.stride)
        at_calls = check.kills
        check.full_disk(calls, arguments.stride)
        check.random_times(arguments.random, arguments.seed)
        print(
            f"{check.kills} kills ({at_calls}: at the calls of one save; {check.kills - at_calls} at random "
            f"in whole runs), {check.errors} full disks: every checkpoint that had its name was whole, every "
            f"resumed run ended in the hash of the uninterrupted one, {check.expected[:16]} "
            f"({time.time() - started:.0f} s)"
        )


if __name__ == "__main__":
    main()
