# SPDX-License-Identifier: BSD-3-Clause
"""What `smet bench` measures: sparse and dense in turn in one process, as ratios beside their goals."""
