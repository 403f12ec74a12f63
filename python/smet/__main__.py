# SPDX-License-Identifier: BSD-3-Clause
"""`python -m smet` is the command `smet`."""

import sys

from smet.cli import main

sys.exit(main())
