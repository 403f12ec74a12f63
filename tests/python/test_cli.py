# SPDX-License-Identifier: BSD-3-Clause
"""The command line: help, suggestions, configuration files, refusals."""

import dataclasses
import subprocess
import sys

import pytest
import yaml

from smet._info import cuda_kernels
from smet.cli import main
from smet.train.config import PretrainConfig
from smet.train.errors import ConfigError
from smet.train.methods import METHODS, resolve


def run(capsys, *argv):
    """(exit code, stdout, stderr) of one command."""
    try:
        code = main(argv)
    except SystemExit as stop:
        code = stop.code
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize("command", ["", "pretrain", "demo", "plot", "bench", "bench step"])
def test_help_loads_no_torch(command):
    argv = [*command.split(), "--help"]
    code = (
        "import sys\nfrom smet.cli import main\n"
        f"try:\n    main({argv})\nexcept SystemExit as stop:\n    assert stop.code == 0, stop.code\n"
        "heavy = {'torch', 'transformers', 'tokenizers', 'matplotlib', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: smet")


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (["pretrain", "--densty", "0.5"], "--density"),
        (["pretrain", "--evaldata", "x"], "--eval-data"),
        (["pretrain", "--step=3"], "--steps"),
        (["demo", "--otu", "x"], "--out"),
        (["pretran"], "pretrain"),
    ],
)
def test_L1_a_mistyped_flag_suggests_the_right_one(capsys, given, meant):
    code, out, err = run(capsys, *given)
    assert code == 2
    assert f"did you mean {meant}?" in err
    assert len(err.splitlines()) == 1
    assert out == ""


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "a command is missing"),
        (["pretrain", "--density", "many"], "--density is many; expected a number"),
        (["pretrain", "--steps", "1.5"], "--steps is 1.5; expected an integer"),
        (["pretrain", "--method", "sset"], "--method is sset; expected smet or dense"),
        (["pretrain", "--adam", "global"], "--adam is global; expected local or plain"),
        (["plot"], "required"),
    ],
)
def test_values_of_the_wrong_kind(capsys, argv, said):
    code, _, err = run(capsys, *argv)
    assert code == 2
    assert said in err


def test_L2_print_config_round_trip(capsys, tmp_path):
    flags = ["--method", "static", "--density", "0.1", "--lr", "0.01", "--no-picture", "--data", "a b.txt"]
    code, printed, _ = run(capsys, "pretrain", *flags, "--print-config")
    assert code == 0
    assert (
        yaml.safe_load(printed)
        == PretrainConfig(method="static", density=0.1, lr=0.01, picture=False, data="a b.txt").to_dict()
    )
    path = tmp_path / "c.yaml"
    path.write_text(printed)
    assert run(capsys, "pretrain", "--config", str(path), "--print-config") == (0, printed, "")


def test_L2_flags_win_over_the_file_whose_keys_win_over_defaults(capsys, tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("lr: 0.5\nsteps: 7\n")
    _, printed, _ = run(capsys, "pretrain", "--config", str(path), "--lr", "0.25", "--print-config")
    config = yaml.safe_load(printed)
    assert (config["lr"], config["steps"], config["batch"]) == (0.25, 7, PretrainConfig().batch)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("densty: 0.5\n", "there is no option 'densty'; did you mean density?"),
        ("steps: many\n", "--steps is many; expected an integer"),
        ("[1, 2]\n", "Unexpected config"),
    ],
)
def test_a_bad_configuration_file(capsys, tmp_path, text, said):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    code, _, err = run(capsys, "pretrain", "--config", str(path))
    assert code == 2
    assert said in err
    assert len(err.splitlines()) == 1
    assert run(capsys, "pretrain", "--config", str(tmp_path / "none.yaml"))[0] == 2


COMBINATIONS = [
    (["--method", "dense", "--density", "0.5"], "--method dense has density 1"),
    (["--method", "dense", "--interval", "10"], "--interval has no meaning with --method dense"),
    (["--method", "dense", "--init-scale", "fan_in"], "--init-scale has no meaning with --method dense"),
    (["--method", "static", "--grow", "random"], "--grow has no meaning with --method static"),
    (["--method", "static", "--warmup", "10"], "--warmup has no meaning with --method static"),
    (["--boost-tau", "10"], "--boost-tau needs a --boost"),
    (["--vocab", "500", "--tokenizer", "t.json"], "--vocab and --tokenizer"),
    (["--stochastic-rounding"], "--stochastic-rounding needs --dtype bfloat16"),
    (["--master-weights"], "--master-weights needs --dtype bfloat16"),
    (
        ["--dtype", "bfloat16", "--master-weights", "--stochastic-rounding"],
        "--master-weights leaves nothing for --stochastic-rounding to round; leave one out",
    ),
    (["--overwrite"], "--overwrite needs --out"),
    (["--method", "dense", "--init", "sparse"], "--init sparse has no meaning with --method dense"),
    (["--fused-backward", "--accumulate", "2"], "--accumulate is 2"),
    (["--fused-backward", "--prune", "magnitude_gradient"], "--prune magnitude_gradient needs gradients"),
    (["--fused-backward", "--on-nonfinite", "skip", "--clip", "0"], "give a --clip above 0"),
    (["--final-fraction", "0.5"], "--final-fraction is 0.5"),
    (["--model", "9mm"], "did you mean 9m?"),
]


@pytest.mark.parametrize(("flags", "said"), COMBINATIONS)
def test_L3_invalid_combinations_are_refused_before_data_is_read(capsys, tmp_path, flags, said):
    missing = tmp_path / "missing.txt"  # would be an error of its own, were it looked at
    code, _, err = run(capsys, "pretrain", "--data", str(missing), *flags)
    assert code == 2
    assert said in err
    assert "missing.txt" not in err


@pytest.mark.parametrize(
    ("device", "said"),
    [
        ("tpu", "--device is 'tpu'; expected auto, cpu, cuda or cuda:N"),
        ("meta", "--device is 'meta'; expected auto, cpu, cuda or cuda:N"),
        pytest.param(
            "cuda", "this smet was built without CUDA kernels",
            marks=pytest.mark.skipif(cuda_kernels() != "not built", reason="built with CUDA"),
        ),
        ("cuda:99", "cuda:99"),
    ],
)  # fmt: skip
def test_L3_a_device_that_is_not_there_is_refused(capsys, tmp_path, device, said):
    code, _, err = run(
        capsys,
        "pretrain",
        "--data",
        str(tmp_path / "missing.txt"),
        "--device",
        device,
        "--out",
        str(tmp_path),
    )
    assert code == 2
    assert said in err
    assert "missing.txt" not in err


def test_L3_held_out_data_needs_data(capsys):
    code, _, err = run(capsys, "pretrain", "--eval-data", "x.txt")
    assert (code, err) == (2, "smet pretrain: --eval-data needs --data\n")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("density", value) for value in (0.0, -0.1, 1.01, float("nan"))),
        *(("fraction", value) for value in (0.0, 1.5)),
        *(("interval", 0), ("stop", 1.5), ("warmup", -1.0), ("boost", -1.0), ("density_scaling", -0.5)),
        *(("steps", 0), ("batch", 0), ("accumulate", 0), ("seq", 1), ("vocab", 256), ("threads", 0)),
        *(("lr", 0.0), ("lr", float("inf")), ("lr_warmup", -0.1), ("lr_final", 2.0), ("clip", -1.0)),
        *(("beta1", 1.0), ("beta2", -0.1), ("weight_decay", -1.0), ("seed", -1), ("max_bytes", 0)),
        *(("eval_every", -1), ("eval_bytes", -1), ("eval_batch", 0), ("print_every", 0)),
    ],
)
def test_values_out_of_range(field, value):
    with pytest.raises(ConfigError, match=f"^--{field.replace('_', '-')} is .*; expected "):
        resolve(PretrainConfig(**{field: value}))


@pytest.mark.parametrize("method", METHODS)
def test_a_resolved_configuration_resolves_to_itself(method):
    resolved = resolve(PretrainConfig(method=method))
    assert resolve(resolved) == resolved


def test_what_methods_mean():
    smet, plain = resolve(PretrainConfig(method="smet", interval=50)), resolve(PretrainConfig(method="set"))
    assert (smet.adam, smet.warmup, smet.density_scaling, smet.grow) == ("local", 50, 0.5, "random")
    assert (plain.adam, plain.warmup, plain.density_scaling, plain.grow) == ("plain", 0, 0.0, "random")
    assert resolve(PretrainConfig(method="rigl")).grow == "gradient"
    assert resolve(PretrainConfig(method="rigl", adam="local")).warmup == 100
    assert resolve(PretrainConfig(method="smet", warmup=0)).warmup == 0
    assert resolve(PretrainConfig(fraction=0.001)).final_fraction == 0.001
    dense = resolve(PretrainConfig(method="dense"))
    assert dense.density == 1.0
    assert dense.interval is None


def test_every_option_is_a_flag_with_help(capsys):
    _, out, _ = run(capsys, "pretrain", "--help")
    for field in dataclasses.fields(PretrainConfig):
        assert f"--{field.name.replace('_', '-')}" in out
        assert field.metadata["help"]


def test_info(capsys):
    import torch

    code, out, _ = run(capsys, "info")
    facts = dict(line.split(maxsplit=1) for line in out.splitlines() if " " in line)
    assert code == 0
    assert facts["torch"] == torch.__version__
    assert int(facts["threads"]) == torch.get_num_threads()


def test_estimate(capsys):
    import smet

    code, out, _ = run(capsys, "estimate", "--model", "60m", "--density", "0.1", "--dtype", "float32")
    assert code == 0
    assert out.startswith(f"{smet.estimate('60m', 0.1, dtype='float32')}\n\npeak ")
    code, out, _ = run(capsys, "estimate", "--model", "60m", "--device", "h100")
    assert code == 0
    assert "lower bounds, not measured" in out and "of 80.0 GB" in out
    assert run(capsys, "estimate", "--device", "h1000")[0] == 2
    code, _, err = run(capsys, "estimate", "--density", "2")
    assert code == 2
    assert "density" in err
    assert run(capsys, "estimate", "--model", "8b")[0] == 2
