# SPDX-License-Identifier: BSD-3-Clause
"""The detrended jump against series whose jump is known by construction."""

import numpy as np
import pytest

from smet.train.spikes import jump, paired_jumps, quiet_spikes, spike, spikes


def series(slope: float, height: float, update: int, steps: int) -> list[float]:
    """A line; `height` is added from the second step after `update` on."""
    return [5.0 + slope * s + (height if s >= update + 2 else 0.0) for s in range(1, steps + 1)]


def test_jump_by_hand():
    # Update after step 12: before = steps 3..12, after = steps 14..23 (step 13 sees only the prune).
    losses = [float(s) for s in range(1, 24)]
    assert jump(losses, 12) == np.mean(range(14, 24)) - np.mean(range(3, 13)) == 11.0


@pytest.mark.parametrize("slope", [0.0, -0.01, 0.02])
@pytest.mark.parametrize("height", [0.0, 0.5, -0.25])
def test_spike_takes_the_trend_away(slope, height):
    assert spike(series(slope, height, 100, 150), 100, window=100) == pytest.approx(height, abs=1e-12)


def test_the_step_that_sees_only_the_prune_does_not_count():
    losses = series(0.0, 0.0, 40, 60)
    losses[40] += 100.0  # step 41
    assert spike(losses, 40, 40) == pytest.approx(0.0, abs=1e-12)
    losses[41] += 1.0  # step 42, one of the ten
    assert spike(losses, 40, 40) == pytest.approx(0.1, abs=1e-12)


def test_the_trend_is_that_of_the_window():
    # Steep before the window, flat in it: only the window's slope may count.
    losses = [10.0 - 0.1 * s for s in range(60)] + [4.0] * 60
    assert spike(losses, 100, window=40) == pytest.approx(0.0, abs=1e-12)
    assert spike(losses, 100, window=100) > 0.3


def test_updates_too_close_to_the_ends_have_no_spike():
    losses = series(-0.01, 0.0, 50, 61)
    assert spike(losses, 50, 50) is not None
    assert spike(losses[:-1], 50, 50) is None
    assert spike(losses, 9, 50) is None  # fewer than ten steps before
    assert spike(losses, 19, 50) is None  # ten, but too few for a trend


def test_spikes_mean_largest_error():
    losses = series(0.0, 0.3, 40, 150)
    losses = [loss + (0.1 if s >= 82 else 0.0) for s, loss in enumerate(losses, 1)]
    found = spikes(losses, [40, 80, 145], window=30)
    assert found.values == pytest.approx((0.3, 0.1))
    assert found.mean == pytest.approx(0.2)
    assert found.largest == pytest.approx(0.3)
    assert found.error == pytest.approx(0.1)  # sample deviation .1414 over sqrt(2)
    empty = spikes(losses, [], 30)
    assert (empty.mean, empty.largest, empty.error) == (None, None, None)


def test_quiet_spikes_look_half_an_interval_away():
    losses = series(-0.01, 0.4, 40, 100)
    assert quiet_spikes(losses, [40], window=20).values == pytest.approx(
        spikes(losses, [50], window=20).values
    )


def test_paired_jump_cancels_what_both_runs_share():
    rng = np.random.default_rng(0)
    shared = rng.normal(3.0, 1.0, 120)
    jumped = shared + np.array([0.2 if s >= 62 else 0.0 for s in range(1, 121)])
    assert paired_jumps(list(jumped), list(shared), [60]).values == pytest.approx((0.2,), abs=1e-12)
