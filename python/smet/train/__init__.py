# SPDX-License-Identifier: BSD-3-Clause
"""The trainer behind `smet pretrain`: data, models, the loop, its log and its pictures."""
