# SPDX-License-Identifier: BSD-3-Clause
"""Run the tests that carry a case id and print, for each promise, its cases and how they went.

A test carries the ids in its name (test_c13_...) or docstring (C13).
Usage: promises.py [--long] [pytest options]
"""

import re
import sys
from collections import defaultdict

import pytest

PROMISES = {
    "1. Same seed, world size, threads and device: a bit-identical run": "T8 T11 N3 C12 D2",
    "2. Stop anywhere and resume: bit-identical to not stopping": "C1 C2 C3 C4 C5 C10 C12 C17 L4 L7 O10",
    "3. The topology is a function of (seed, layer name, update number, weights)": (
        "T1 T2 T4 T5 T7 T8 T11 T12 D1 D2 D3 D4 D6 D10"
    ),
    "4. Nothing is skipped silently": "G1 G2 G3 G4 G5 G6 G7 G10 D5",
    "5. A checkpoint is complete and checksummed, or it is rejected by name": (
        "C6 C7 C8 C9 C11 C13 C14 C15 C16 C19 X1 X2 X3 X5 X6 X7 X8 X10 D8 D9"
    ),
    "6. Loading never executes code": "C3 X3 X4",
    "7. Memory is the stated formula, within 2 %": "P1 C11",
    "8. The fp32 step is within a stated number of ulp of a float64 reference": "N1 N2 N5 N6 N7 N9 N13",
}
_NAME = re.compile(r"(?<=_)([cdgjlnopstx]\d+)(?=_|$|\[)", re.IGNORECASE)
_TEXT = re.compile(r"\b([CDGJLNOPSTX]\d+)\b")


class Cases:
    """A pytest plugin: chooses the tests with ids of a promise and counts their outcomes by id."""

    def __init__(self, wanted):
        self.wanted = wanted
        self.ids = {}
        self.outcomes = defaultdict(lambda: defaultdict(int))

    def pytest_collection_modifyitems(self, config, items):
        """Keep the tests with ids."""
        chosen, others = [], []
        for item in items:
            found = {match.upper() for match in _NAME.findall(item.originalname)}
            found |= set(_TEXT.findall(item.function.__doc__ or ""))
            self.ids[item.nodeid] = found & self.wanted
            (chosen if found & self.wanted else others).append(item)
        items[:] = chosen
        config.hook.pytest_deselected(items=others)

    def pytest_runtest_logreport(self, report):
        """Count."""
        if report.when == "call" or report.outcome != "passed":
            for case in self.ids[report.nodeid]:
                self.outcomes[case][report.outcome] += 1

    def result(self, case):
        """'C1 12', 'C1 FAILED', 'C18 (no test)'."""
        found = self.outcomes[case]
        if found["failed"]:
            return f"{case} FAILED {found['failed']} of {sum(found.values())}"
        return f"{case} {found['passed']}" if found["passed"] else f"{case} (no test)"


def main(arguments):
    """Exit code 0 when every case of every promise has a test and all passed."""
    wanted = {case for cases in PROMISES.values() for case in cases.split()}
    cases = Cases(wanted)
    marks = ["-m", "long or not long"] if "--long" in arguments else []
    code = pytest.main([*marks, *(a for a in arguments if a != "--long")], plugins=[cases])
    print("\npromise (case, tests passed)")
    kept = True
    for promise, named in PROMISES.items():
        results = [cases.result(case) for case in named.split()]
        whole = not any("FAILED" in result or "no test" in result for result in results)
        kept = kept and whole
        print(f"{'kept  ' if whole else 'BROKEN'}  {promise}\n        {', '.join(results)}")
    return 0 if kept and code == 0 else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
