# SPDX-License-Identifier: BSD-3-Clause
"""Names of modules and parameters: what wrappers add is taken off, and patterns choose among them."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable
from typing import Any

_WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})

Pattern = str | re.Pattern[str] | Callable[[str, Any], bool]


def canonical_name(name: str) -> str:
    """`name` without the components that DDP, torch.compile, FSDP and activation checkpointing put in.

    Random choices and checkpoints are keyed by this name, so that wrapping a model changes neither.
    """
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def without_numbers(name: str) -> str:
    """`layers.3.q_proj` -> `layers.*.q_proj`: what layers of equal role share."""
    return ".".join("*" if part.isdigit() else part for part in name.split("."))


class NamePattern:
    """One way to choose layers: substring, glob, regular expression or function.

    A string with one of ``* ? [`` is a glob over the whole name (``*.mlp.*``), any other string a substring
    (``lm_head``); a compiled regular expression is searched for; a function gets (name, module).
    """

    def __init__(self, pattern: Pattern) -> None:
        if not isinstance(pattern, str | re.Pattern) and not callable(pattern):
            raise TypeError(
                f"a name pattern is a string, a compiled regular expression or a function of (name, module); "
                f"got {type(pattern).__name__}"
            )
        if isinstance(pattern, str) and not pattern:
            raise ValueError("an empty name pattern would match every layer; leave it out, or write '*'")
        self.pattern = pattern

    def matches(self, name: str, module: Any) -> bool:
        """Whether the layer `module` of canonical name `name` is chosen."""
        if isinstance(self.pattern, str):
            if any(character in self.pattern for character in "*?["):
                return fnmatch.fnmatchcase(name, self.pattern)
            return self.pattern in name
        if isinstance(self.pattern, re.Pattern):
            return self.pattern.search(name) is not None
        return bool(self.pattern(name, module))

    def __str__(self) -> str:
        if isinstance(self.pattern, str):
            return repr(self.pattern)
        if isinstance(self.pattern, re.Pattern):
            return f"re.compile({self.pattern.pattern!r})"
        return getattr(self.pattern, "__name__", repr(self.pattern))


def name_patterns(patterns: Pattern | Iterable[Pattern]) -> list[NamePattern]:
    """One pattern or several, as a list."""
    if isinstance(patterns, str | re.Pattern) or callable(patterns):
        patterns = [patterns]
    return [NamePattern(pattern) for pattern in patterns]
