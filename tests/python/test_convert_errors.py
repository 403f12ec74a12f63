# SPDX-License-Identifier: BSD-3-Clause
"""What sparsify_ refuses, by name, and that a refusal changes nothing."""

import re

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import smet
from small_models import Model, model


def snapshot(module):
    """Names, types, identities and bytes of everything that a conversion might change."""
    modules = [(name, type(m), id(m)) for name, m in module.named_modules()]
    tensors = [
        (name, id(p), p.detach().clone()) for name, p in module.named_parameters(remove_duplicate=False)
    ]
    return modules, tensors


def assert_unchanged(module, before):
    modules, tensors = snapshot(module)
    assert modules == before[0]
    assert [(n, i) for n, i, _ in tensors] == [(n, i) for n, i, _ in before[1]]
    for (name, _, now), (_, _, then) in zip(tensors, before[1], strict=True):
        assert torch.equal(now, then), name


def refused(net, error, message, *args, **kwargs):
    before = snapshot(net)
    with pytest.raises(error, match=message):
        smet.sparsify_(net, *args, **kwargs)
    assert_unchanged(net, before)


@pytest.mark.parametrize(
    ("density", "error"),
    [
        (0, ValueError),
        (-0.1, ValueError),
        (1.5, ValueError),
        (float("nan"), ValueError),
        (float("inf"), ValueError),
        (True, TypeError),
        ("0.25", TypeError),
        (None, TypeError),
        (0.25j, TypeError),
        ([0.25], TypeError),
    ],
)
def test_bad_density(density, error):
    """S13."""
    refused(model(), error, "density is .*; expected .*0 < density <= 1", density)


def test_bad_density_in_a_mapping():
    refused(model(), ValueError, r"density\['q_proj'\] is 0.0", {"up_proj": 0.5, "q_proj": 0.0})
    refused(model(), ValueError, "empty mapping", {})
    refused(model(), ValueError, "matches no layer; there are 'layers.0.q_proj'", {"qkv": 0.5})
    refused(model(), ValueError, "only 'uniform' makes sense", {"q_proj": 0.5}, distribution="erk")


def test_density_one_is_allowed():
    """S13."""
    net = model()
    assert smet.sparsify_(net, 1).density == 1.0


def test_tied_weights_are_refused_by_both_names():
    """S12."""
    net = model()
    net.lm_head.weight = net.embed.weight
    smet.sparsify_(net)  # the tied head is skipped by name
    net = model()
    net.lm_head.weight = net.embed.weight
    refused(
        net, ValueError, "weight of layer 'lm_head' is shared with 'embed.weight'.*skip='lm_head'", skip=()
    )
    net = model()
    net.layers[1].q_proj.weight = net.layers[0].q_proj.weight
    refused(net, ValueError, "'layers.0.q_proj' is shared with 'layers.1.q_proj.weight'")
    net = model()
    net.layers[1].q_proj.weight.data = net.layers[0].q_proj.weight.data
    refused(net, ValueError, "'layers.0.q_proj' is shared with 'layers.1.q_proj.weight'")


def test_unknown_patterns_list_the_candidates():
    refused(
        model(),
        ValueError,
        "include='qproj' matches no linear layer; there are 'layers.0.q_proj'",
        include="qproj",
    )
    refused(
        model(),
        ValueError,
        "'layers.\\*' matches|include='lm_head' matches only layers that skip=",
        include="lm_head",
    )
    refused(model(), ValueError, "re.compile", include=re.compile("nothing"))
    refused(model(), TypeError, "a name pattern is a string", include=[3])
    refused(model(), ValueError, "empty name pattern", skip="")


def test_nothing_left():
    refused(
        model(), ValueError, r"no layer to make sparse is left.*skip='layers'", skip=("layers", "lm_head")
    )
    refused(nn.Sequential(nn.ReLU()), ValueError, "It has no nn.Linear or Conv1D")
    refused(nn.Linear(4, 4), ValueError, "itself one linear layer")


def test_already_sparse():
    net = model()
    smet.sparsify_(net, include="q_proj")
    refused(net, ValueError, "layer 'layers.0.q_proj' is sparse already")
    assert len(smet.sparsify_(net, include="up_proj").layers) == 2


def test_parametrized_and_reparametrized_layers_are_refused():
    net = model()
    nn.utils.parametrizations.weight_norm(net.layers[1].up_proj)
    refused(net, ValueError, r"'layers.1.up_proj' is parametrized \(weight\).*remove_parametrizations")
    assert len(smet.sparsify_(net, skip=("lm_head", "up_proj")).layers) == 4
    net = model()
    prune.random_unstructured(net.layers[0].q_proj, "weight", 0.5)
    refused(net, ValueError, "'layers.0.q_proj' has no parameter 'weight'")


def test_other_obstacles_are_refused_by_name():
    net = model()
    net.layers[0].q_proj.forward = lambda x: x
    refused(net, ValueError, "'layers.0.q_proj' has had its forward replaced")
    net = model()
    net.layers[0].q_proj.weight.register_hook(lambda grad: grad)
    refused(net, ValueError, "'layers.0.q_proj' has hooks on its weight")
    refused(
        nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(2, 2))), ValueError, "'1.0'.*no weight", 0.1
    )
    clash = nn.Module()
    clash.a, clash.module = nn.Linear(4, 4), nn.Module()
    clash.module.a = nn.Linear(4, 4)
    refused(clash, ValueError, "two layers are called 'a'")
    lazy = nn.Sequential(nn.LazyLinear(4))
    with pytest.raises(ValueError, match="'0' is lazy"):
        smet.sparsify_(lazy)


def test_bad_options():
    refused(model(), ValueError, "select is 'largest'", select="largest")
    refused(model(), ValueError, "init_std is -1", init_std=-1)
    refused(model(), ValueError, "init_std is nan", init_std=float("nan"))
    refused(model(), ValueError, "init_scale is 'fanin'", init_scale="fanin")
    refused(model(), ValueError, "unknown distribution 'er'", distribution="er")
    with pytest.raises(TypeError, match=r"expected a model .*got Tensor"):
        smet.sparsify_(torch.ones(3))


def test_meta_model_needs_init_std_and_has_no_magnitudes():
    with torch.device("meta"):
        net = Model()
    with pytest.raises(ValueError, match=r"'layers.0.q_proj' is on the meta device.*init_std"):
        smet.sparsify_(net)
    with pytest.raises(ValueError, match="no magnitudes"):
        smet.sparsify_(net, init_std=0.02, select="magnitude")
    assert not list(smet.sparse_layers(net))


def test_a_wrapped_model_is_refused():
    class DistributedDataParallel(nn.Module):  # told by name, as torch.distributed is not imported
        def __init__(self, module):
            super().__init__()
            self.module = module

    refused(DistributedDataParallel(model()), ValueError, "DistributedDataParallel.*sparsify_ first")
