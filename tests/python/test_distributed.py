# SPDX-License-Identifier: BSD-3-Clause
"""Two to four gloo processes, plain DistributedDataParallel: one topology, one result, errors on all."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import distributed_worker as worker
import smet

pytestmark = pytest.mark.usefixtures("one_thread")
WORLD = 2


def launch(folder, world, *scenarios):
    """Run distributed_worker.py (all scenarios, or those named) in `world` processes; results by rank."""
    program = str(Path(worker.__file__))
    processes = [
        subprocess.Popen(
            [sys.executable, program, str(rank), str(world), str(folder), *scenarios],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(world)
    ]
    try:
        outputs = [process.communicate(timeout=300)[0] for process in processes]
    finally:
        for process in processes:
            process.send_signal(signal.SIGKILL)
    assert [process.returncode for process in processes] == [0] * world, outputs
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(world)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("distributed")


@pytest.fixture(scope="module")
def ranks(folder):
    return launch(folder, WORLD)


@pytest.fixture
def of(ranks):
    """`of(scenario)`: what each rank returned."""

    def results(scenario):
        found = [rank[scenario] for rank in ranks]
        assert not any("crash" in result for result in found), found
        return found

    return results


def assert_bit_identical(one, two):
    assert one["hash"] == two["hash"]
    assert [
        name for name in one["tensors"] if not torch.equal(one["tensors"][name], two["tensors"][name])
    ] == []


def test_fused_backward_is_refused_before_any_write(of):
    for result in of("fused_backward"):
        assert "before DistributedDataParallel or FSDP average them" in result["error"]
        assert result["unchanged"]


def test_d1_two_ranks_equal_one_with_the_whole_batch(of):
    """fp64: to 1e-12, positions and cohorts exactly. The clipping norm too (D12)."""
    assert_close(of("ddp")[0], worker.run(0, 1))


@pytest.mark.parametrize("rank", [0, 1])
def test_d10_d12_fsdp2_equals_one_process(of, rank):
    """Dense parameters sharded, compact gradients averaged by us: the run, and its norms, of one process."""
    result = of("fsdp2")[rank]
    assert result["sharded"] == ["0.bias", "2.bias", "4.weight", "4.bias"]
    assert_close(result, worker.run(0, 1))
    assert "is sharded over processes; save and load such a model with torch.distributed" in result["refused"]


def test_d10_torch_distributed_checkpoint_saves_and_loads(of):
    """A sharded run that was saved by DCP and loaded into another model ends in the same bits."""
    for result in of("fsdp2"):
        assert result["dcp"] == []


def test_d10_master_weights_are_sharded_saved_and_loaded(of):
    """The halves of sharded bfloat16 parameters lie with them, and go through DCP bit for bit."""
    results = of("fsdp2_master_weights")
    for result in results:
        lows = {name: low for name, low in result["tensors"].items() if name.endswith(" master_low")}
        assert len(lows) == 6 and all(low.any() and low.dtype == torch.int16 for low in lows.values())
        assert result["dcp"] == []
    assert_bit_identical(*results)


def test_d10_sharding_a_sparse_layer_is_refused_with_what_to_do(of):
    for result in of("fsdp2_without_ignored_params"):
        for error in result.values():
            assert "the values of layer '0' are sharded over processes" in error
            assert "ignored_params=smet.sparse_parameters(model)" in error


def assert_close(both, whole):
    assert both["hash"] == whole["hash"]
    for name, tensor in whole["tensors"].items():
        exact = not tensor.is_floating_point()
        torch.testing.assert_close(
            both["tensors"][name], tensor, rtol=0 if exact else 1e-12, atol=0 if exact else 1e-14
        )
    assert both["norms"] == pytest.approx(whole["norms"], rel=1e-12)


@pytest.mark.parametrize("scenario", ["ddp", "ddp_fp32_gradient_growth", "different_torch_seeds"])
def test_d2_d3_ranks_are_bit_identical_after_three_updates(of, scenario):
    """D3: also where the processes' torch seeds differ. D11: n = 101 does not divide evenly."""
    one, two = of(scenario)
    assert_bit_identical(one, two)
    assert one["tensors"]["0.values"].numel() % WORLD


def test_d3_the_topology_does_not_depend_on_torchs_seed(of):
    assert of("different_torch_seeds")[0]["hash"] == of("ddp")[0]["hash"]


@pytest.mark.parametrize("scenario", ["desync", "desync_of_seeds"])
def test_d4_desync_is_detected_with_layer_and_rank_within_one_update(of, scenario):
    layer = "2" if scenario == "desync" else "0"
    for result in of(scenario):
        assert f"layer '{layer}' of rank 1 (rank 0: " in result["error"]
        assert result["error"].startswith("RuntimeError: smet: the topology differs between processes")
        assert result.get("steps", 1) < worker.INTERVAL


def test_d4_a_flipped_bit_of_a_mask_raises_on_all_ranks_with_layer_and_rank(of):
    """On the rank itself its own error; nobody waits for a rank that raised. No update was counted."""
    said = "smet: layer '2': mask has "
    one, two = of("flipped_bit")
    assert one["error"].startswith(f"OtherRankError: rank 1 failed: ValueError: {said}")
    assert two["error"].startswith(f"ValueError: {said}")
    assert two["steps"] == 2 * worker.INTERVAL - 1


def test_d5_g3_all_ranks_raise_together(of):
    for result in of("nan_raise"):
        assert (
            "the gradient of '2.values' holds NaN or infinity; nothing was changed, on any" in result["error"]
        )
        assert result["unchanged"]


def test_d5_g3_all_ranks_skip_together(of):
    one, two = of("nan_skip")
    assert_bit_identical(one, two)
    for result in (one, two):
        assert (result["skipped"], result["steps"]) == (2, worker.STEPS - 2)


def test_d6_positions_are_not_shipped(of):
    for result in of("shipped_bytes"):
        assert result["buffers"] == [] and result["broadcast"] == 0


def test_d6_positions_of_a_model_built_by_hand_are_not_shipped(of):
    for result in of("hand_built"):
        assert result["broadcast"] == 0
        assert result["late"] == 4  # without a scheduler DDP would send all
        assert result["said"].startswith("smet: DistributedDataParallel sends the positions '0.mask' before")


def test_d7_one_all_reduce_per_accumulated_step(of):
    """Three backward passes under no_sync exchange the compact gradients once: n numbers a sparse layer."""
    for result in of("shipped_bytes"):
        assert sum(result["gradients"]) == result["parameters"]


def test_d8_resume_with_another_world_size(of, folder):
    """Saved by two processes, resumed by one: to 1e-12 what the two ended with."""
    model, opt, topo = worker.build(seed=9)
    found = smet.load_checkpoint(folder / "ddp", model, opt, topo)
    assert found.step == 5
    worker.train(model, model, opt, topo, 5, worker.STEPS, 0, 1)
    end = of("checkpoints")[0]["end"]
    for name, tensor in worker.tensors(model, opt).items():
        if tensor.is_floating_point():
            torch.testing.assert_close(end[name], tensor, rtol=1e-12, atol=1e-14)
        else:
            assert torch.equal(end[name], tensor), name


def test_d9_rank_0_writes_and_what_fails_there_fails_everywhere(of):
    one, two = of("checkpoints")
    assert one["path"] == two["path"] and one["extra"] == two["extra"] == {"rank": 0}
    assert one["failure"].startswith(("FileExistsError", "NotADirectoryError"))
    assert two["failure"].startswith("OtherRankError: rank 0 failed: ")
    assert one["load_failure"].startswith("OtherRankError: rank 1 failed: CheckpointError")
    assert "holds no checkpoint" in two["load_failure"]


def test_d2_resume_of_two_ranks_is_bit_exact_generators_included(of):
    for result in of("checkpoints"):
        assert result["resumed"] and result["same_noise"]


@pytest.mark.parametrize("world", [3, pytest.param(4, marks=pytest.mark.long)])
def test_d1_d2_d4_three_and_four_processes(tmp_path, world):
    """Bit-identical to each other, to 1e-12 one process with the whole batch; under FSDP2 (D10) too."""
    every = launch(tmp_path, world, "ddp", "desync", "fsdp2")
    assert len(every) == world
    for result in every:
        assert_bit_identical(every[0]["ddp"], result["ddp"])
        assert f"layer '2' of rank {world - 1} (rank 0: " in result["desync"]["error"]
        assert_close(result["fsdp2"], every[0]["ddp"])
        assert result["fsdp2"]["dcp"] == []
    assert_close(every[0]["ddp"], worker.run(0, 1))
