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
    "1. Same seed, world size, threads and device: a bit-identical run": "T8 T11 N3 C12 C21 D2",
    "2. Stop anywhere and resume: bit-identical to not stopping": (
        "C1 C2 C3 C4 C5 C8 C10 C12 C17 C18 C19 D2 D8 L4 L7 O10"
    ),
    "3. The topology is a function of (seed, layer name, update number, weights)": (
        "T1 T2 T3 T4 T5 T6 T7 T8 T9 T11 T12 T13 T14 T15 C21 D1 D2 D3 D4 D6 D10"
    ),
    "4. Nothing is skipped silently": "G1 G2 G3 G4 G5 G6 G7 G10 D4 D5 C7 O15",
    "5. A checkpoint is complete and checksummed, or it is rejected by name": (
        "C6 C7 C8 C9 C13 C14 C15 C16 C19 X1 X2 X3 X5 X6 X7 X8 X9 X10 D9"
    ),
    "6. Loading never executes code": "C3 X3 X4 X9",
    "7. Memory is the stated formula, within 2 %": "P1 C11",
    "8. The fp32 step is within a stated number of ulp of a float64 reference": "N1 N2 N5 N6 N7 N9 N11 N13",
}
COUNTS = {"C": 21, "D": 12, "G": 10, "J": 9, "L": 8, "N": 13, "O": 16, "P": 2, "S": 14, "T": 15, "X": 10}
_NAME = re.compile(r"(?<=_)([cdgjlnopstx]\d+)(?=_|$|\[)", re.IGNORECASE)
_TEXT = re.compile(r"\b([CDGJLNOPSTX]\d+)\b")


class Cases:
    """A pytest plugin: chooses the tests with an id and counts their outcomes by id."""

    def __init__(self, wanted):
        self.wanted = wanted
        self.ids = {}
        self.quick = set()  # ids with a test that is not long
        self.outcomes = defaultdict(lambda: defaultdict(int))

    @pytest.hookimpl(tryfirst=True)  # before pytest leaves out the long ones
    def pytest_collection_modifyitems(self, config, items):
        """Keep the tests with ids."""
        chosen, others = [], []
        for item in items:
            found = {match.upper() for match in _NAME.findall(item.originalname)}
            found |= set(_TEXT.findall(item.function.__doc__ or ""))
            self.ids[item.nodeid] = found & self.wanted
            if item.get_closest_marker("long") is None:
                self.quick |= found
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
        if not found and case not in self.quick and any(case in ids for ids in self.ids.values()):
            return f"{case} (--long)"
        if found["failed"]:
            return f"{case} FAILED {found['failed']} of {sum(found.values())}"
        return f"{case} {found['passed']}" if found["passed"] else f"{case} (no test)"


def main(arguments):
    """Exit code 0 when every case of every promise has a test and all that ran passed."""
    cases = Cases({f"{letter}{i}" for letter, count in COUNTS.items() for i in range(1, count + 1)})
    marks = ["-m", "long or not long"] if "--long" in arguments else []
    code = pytest.main([*marks, *(a for a in arguments if a != "--long")], plugins=[cases])
    print("\npromise (case, tests passed)")
    kept, left = True, set(cases.wanted)
    for promise, named in PROMISES.items():
        results = [cases.result(case) for case in named.split()]
        whole = not any("FAILED" in result or "no test" in result for result in results)
        kept = kept and whole
        left -= set(named.split())
        print(f"{'kept  ' if whole else 'BROKEN'}  {promise}\n        {', '.join(results)}")
    others = sorted(left, key=lambda case: (case[0], int(case[1:])))
    print(f"        Cases of no promise\n        {', '.join(map(cases.result, others))}")
    return 0 if kept and code == 0 else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
