# SPDX-License-Identifier: BSD-3-Clause
"""Projects outside the tree build with smet in three ways, without a CUDA toolkit, and run minimal.cpp."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import smet

ROOT = Path(__file__).parents[2]
CONSUMER = ROOT / "tests" / "consumer"


def without_cuda():
    """The environment, less everything that leads to a CUDA toolkit."""
    environment = {name: value for name, value in os.environ.items() if "CUDA" not in name.upper()}
    folders = environment["PATH"].split(os.pathsep)
    environment["PATH"] = os.pathsep.join(
        folder for folder in folders if not shutil.which("nvcc", path=folder)
    )
    return environment


def cmake(*arguments):
    program = shutil.which("cmake")  # sought before the folders with nvcc go
    command = [program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=without_cuda(), timeout=1800)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def build(source, folder, *options):
    """Configure and build a project; no path of a toolkit may have got into it."""
    own = (ROOT / "build" / "CMakeCache.txt").read_text()
    compiler = re.search(r"^CMAKE_CXX_COMPILER:\w+=(.*)$", own, re.M)[1]  # so that ccache knows the sources
    fixed = [
        f"-DPython_EXECUTABLE={sys.executable}",
        "-DCMAKE_BUILD_TYPE=Release",
        f"-DCMAKE_MAKE_PROGRAM={shutil.which('ninja')}",
        f"-DCMAKE_CXX_COMPILER={compiler}",
    ]
    hidden = ["-DCMAKE_IGNORE_PREFIX_PATH=/usr/local/cuda", "-DCMAKE_DISABLE_FIND_PACKAGE_CUDAToolkit=ON"]
    cmake("-S", source, "-B", folder, "-G", "Ninja", *fixed, *hidden, *options)
    cmake("--build", folder)
    cache = (folder / "CMakeCache.txt").read_text()
    assert not re.search(r"^(?!//).*(nvcc|CMAKE_CUDA_COMPILER|CUDAToolkit_\w*=/)", cache, re.M)


def run(folder):
    """The losses that the program prints fall, and what it is linked to needs no CUDA toolkit."""
    done = subprocess.run(
        [folder / "minimal"], capture_output=True, text=True, env=without_cuda(), timeout=120
    )
    assert done.returncode == 0, done.stderr
    losses = [float(value) for value in re.findall(r"step \d+  loss ([\d.]+)", done.stdout)]
    assert len(losses) == 6 and losses[-1] < losses[0]
    if (folder / "device").exists():
        done = subprocess.run([folder / "device"], capture_output=True, text=True, timeout=120)
        assert done.returncode in (0, 3), done.stdout + done.stderr  # 3: no GPU, or a build without CUDA
        assert done.stdout.startswith("cpu: the loss fell to 0.")


@pytest.fixture(scope="module")
def subdirectory(tmp_path_factory):
    """A project with smet below it, built and installed: (build folder, prefix)."""
    folder, prefix = tmp_path_factory.mktemp("subdirectory"), tmp_path_factory.mktemp("prefix")
    build(CONSUMER / "subdirectory", folder, f"-DCMAKE_INSTALL_PREFIX={prefix}")
    cmake("--install", folder)
    return folder, prefix


@pytest.mark.long  # builds the library again
def test_add_subdirectory(subdirectory):
    run(subdirectory[0])


@pytest.mark.long
def test_install_prefix(subdirectory, tmp_path):
    build(CONSUMER, tmp_path, f"-DCMAKE_PREFIX_PATH={subdirectory[1]}")
    run(tmp_path)


def test_python_package(tmp_path):
    build(CONSUMER, tmp_path, f"-DCMAKE_PREFIX_PATH={smet.cmake_prefix_path}")
    run(tmp_path)


@pytest.mark.long
def test_installed_headers_are_those_of_the_tree(subdirectory):
    def headers(folder):
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    wheel = Path(smet.cmake_prefix_path).parents[1] / "include" / "smet"
    assert (
        headers(subdirectory[1] / "include" / "smet") == headers(ROOT / "include" / "smet") == headers(wheel)
    )


def test_versions_agree():
    macros = re.findall(r"#define SMET_VERSION_\w+ (\d+)", (ROOT / "include/smet/version.h").read_text())
    project = re.search(r"project\(smet VERSION ([\d.]+)", (ROOT / "CMakeLists.txt").read_text())
    package = re.search(r'^version = "([\d.]+)"', (ROOT / "pyproject.toml").read_text(), re.M)
    assert ".".join(macros) == project[1] == package[1] == smet.__version__ == smet._C.version()
