# SPDX-License-Identifier: BSD-3-Clause
"""Bad input to TopologyScheduler: a clear error, and nothing is changed."""

import math

import pytest
import torch

import smet
from smet import _C
from topology_helpers import everything, small_model

GOOD = {"interval": 10, "total_steps": 100}
OPTIONS = {
    "interval 0": ({"interval": 0}, ValueError, "interval is 0; expected 1 or more"),
    "interval negative": ({"interval": -3}, ValueError, "interval is -3"),
    "interval float": ({"interval": 10.0}, TypeError, r"interval is 10\.0; expected an integer"),
    "interval bool": ({"interval": True}, TypeError, "interval is True; expected an integer"),
    "fraction negative": ({"fraction": -0.1}, ValueError, r"fraction is -0\.1; expected 0 to 1"),
    "fraction above 1": ({"fraction": 1.1}, ValueError, r"fraction is 1\.1; expected 0 to 1"),
    "fraction nan": ({"fraction": math.nan}, ValueError, "fraction is nan; expected 0 to 1"),
    "fraction text": ({"fraction": "0.2"}, TypeError, r"fraction is '0\.2'; expected a number"),
    "final_fraction inf": ({"final_fraction": math.inf}, ValueError, "final_fraction is inf"),
    "final_fraction none": ({"final_fraction": None}, TypeError, "final_fraction is None"),
    "total_steps 0": ({"total_steps": 0}, ValueError, "total_steps is 0; expected the number of optimizer"),
    "total_steps negative": ({"total_steps": -1}, ValueError, "total_steps is -1"),
    "total_steps huge": ({"total_steps": 2**64}, ValueError, "expected an integer below 2"),
    "stop above 1": ({"stop": 1.5}, ValueError, r"stop is 1\.5; expected a fraction of total_steps"),
    "stop negative": ({"stop": -0.5}, ValueError, r"stop is -0\.5"),
    "stop nan": ({"stop": math.nan}, ValueError, "stop is nan"),
    "stop beyond": (
        {"stop": 101},
        ValueError,
        "stop is step 101; expected a step from 0 to total_steps, 100",
    ),
    "stop step negative": ({"stop": -1}, ValueError, "stop is step -1"),
    "stop bool": ({"stop": True}, TypeError, "stop is True; expected a number"),
    "seed negative": ({"seed": -1}, ValueError, "seed is -1"),
    "seed text": ({"seed": "7"}, TypeError, "seed is '7'; expected an integer"),
    "schedule": (
        {"fraction_schedule": "cosin"},
        ValueError,
        "unknown fraction_schedule 'cosin'; known: 'cosine', 'constant', 'linear', 'wsd'",
    ),
    "schedule none": ({"fraction_schedule": None}, TypeError, "fraction_schedule is None; expected a name"),
    "prune": (
        {"prune": "magnitud"},
        ValueError,
        "unknown prune criterion 'magnitud'; known: 'magnitude', 'magnitude_gradient', 'random'",
    ),
    "grow": ({"grow": "rigl"}, ValueError, "unknown grow criterion 'rigl'; known: 'random', 'gradient'"),
    "prune number": ({"prune": 3}, TypeError, "prune is 3; expected a name or a callable"),
    "grow none": ({"grow": None}, TypeError, "grow is None; expected a name or a callable"),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_bad_options(case):
    options, error, message = OPTIONS[case]
    model = small_model()
    opt = smet.CompactAdamW(model)
    before = everything(model, opt)
    with pytest.raises(error, match=message):
        smet.TopologyScheduler(model, opt, **(GOOD | options))
    assert everything(model, opt) == before


def test_total_steps_must_be_given():
    with pytest.raises(TypeError, match="total_steps"):
        smet.TopologyScheduler(small_model())


def test_models_and_optimizers_that_do_not_fit():
    model = small_model()
    with pytest.raises(ValueError, match=r"no sparse layer; call smet\.sparsify_"):
        smet.TopologyScheduler(torch.nn.Linear(3, 3), **GOOD)
    with pytest.raises(TypeError, match=r"model is a list; expected a torch\.nn\.Module"):
        smet.TopologyScheduler([model], **GOOD)
    with pytest.raises(TypeError, match=r"opt is a float; expected a torch\.optim\.Optimizer"):
        smet.TopologyScheduler(model, 0.1, **GOOD)
    with pytest.raises(ValueError, match="does not hold the values of layer '0'"):
        smet.TopologyScheduler(model, smet.CompactAdamW(small_model()), **GOOD)
    with pytest.raises(ValueError, match="does not hold the values of layer '2'"):
        smet.TopologyScheduler(model, torch.optim.SGD([model[0].values], lr=1), **GOOD)
    with pytest.raises(ValueError, match="layer '0' is on the meta device"):
        smet.TopologyScheduler(small_model().to("meta"), **GOOD)
    model[2].values.requires_grad_(False)  # a frozen layer need not be there
    smet.TopologyScheduler(model, torch.optim.SGD([model[0].values], lr=1), **GOOD)


def test_wrapping_does_not_rename_but_two_equal_names_are_refused():
    class Wrapper(torch.nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

    model = small_model()
    plain = smet.TopologyScheduler(model, **GOOD)
    wrapped = smet.TopologyScheduler(Wrapper(model), **GOOD)
    assert wrapped.state_dict()["layers"].keys() == plain.state_dict()["layers"].keys() == {"0", "2"}
    assert wrapped.hash() == plain.hash()
    twice = torch.nn.ModuleDict(
        {"module": torch.nn.ModuleDict({"a": small_model()[0]}), "a": small_model()[0]}
    )
    with pytest.raises(ValueError, match="two sparse layers have the canonical name 'a'"):
        smet.TopologyScheduler(twice, **GOOD)


def test_a_shared_layer_is_one_layer():
    layer = smet.SparseLinear(8, 8, name="0")
    topo = smet.TopologyScheduler(torch.nn.Sequential(layer, layer), **GOOD)
    assert list(topo.state_dict()["layers"]) == ["0"]


def test_a_layer_changed_behind_the_scheduler_is_named():
    model = small_model()
    topo = smet.TopologyScheduler(model, interval=1, total_steps=9)
    other = smet.SparseLinear(33, 70, bias=False, density=0.5, name="0")
    model[0].values, model[0].mask, model[0].rank = other.values, other.mask, other.rank
    with pytest.raises(ValueError, match="layer '0' has 1155 active weights; it had 578"):
        topo.step()
    model = small_model()
    topo = smet.TopologyScheduler(model, interval=1, total_steps=9)
    with torch.no_grad():
        model[2].mask[0, 0] ^= 1  # not what rank and values say
    before = everything(model, torch.optim.SGD(model.parameters()))
    with pytest.raises(ValueError, match="layer '2': mask has"):
        topo.step()
    assert everything(model, torch.optim.SGD(model.parameters())) == before and topo.steps == 0


VIEW_ERRORS = {
    "moment shape": ({"moments": [torch.zeros(3)]}, "optimizer state of layer 'fc' has shape"),
    "gradient shape": ({"grad": torch.zeros(3)}, "gradient of layer 'fc' has shape"),
    "births missing": ({"cohort": torch.zeros(6, dtype=torch.uint8)}, "one of cohort and births"),
    "births shape": (
        {"cohort": torch.zeros(6, dtype=torch.uint8), "births": torch.zeros(255, dtype=torch.int64)},
        "births of layer 'fc' have shape",
    ),
    "mask shape": ({"mask": torch.zeros(4, 2, dtype=torch.int32)}, "layer 'fc': mask has shape"),
}


@pytest.mark.parametrize("case", VIEW_ERRORS)
def test_tensors_that_do_not_fit_together(case):
    """What an optimizer written elsewhere might hand over."""
    change, message = VIEW_ERRORS[case]
    layer = smet.SparseLinear(6, 4, density=0.25, name="fc")
    tensors = {"values": layer.values, "mask": layer.mask, "rank": layer.rank, "cols": 6} | change
    options = {
        "interval": 1,
        "fraction": 0.2,
        "final_fraction": 0.1,
        "fraction_schedule": "constant",
        "stop": 1.0,
        "total_steps": 9,
        "prune": "magnitude",
        "grow": "random",
        "seed": 0,
        "track_explored": False,
    }
    with pytest.raises(ValueError, match=message):
        _C.TopologyEngine(options, [_C.LayerView(name="fc", **tensors)], None)
