# SPDX-License-Identifier: BSD-3-Clause
"""jsonargparse with short errors, suggestions for mistyped flags, and flags made from a dataclass."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import re
import sys
from typing import Any, NoReturn, get_args, get_type_hints

from jsonargparse import ActionYesNo, ArgumentParser, DefaultHelpFormatter

from smet.train.config import PretrainConfig

_UNKNOWN = re.compile(r"unrecognized arguments?: (.*)", re.IGNORECASE | re.DOTALL)
_CHOICE = re.compile(r"invalid choice: '([^']*)'")
_NO_COMMAND = re.compile(r'expected "(command|bench\.table)"')
_BAD_KEY = re.compile(r"does not accept option '([\w.]+)'")
_BAD_VALUE = re.compile(r'Parser key "([\w.]+)"(?: element \d+)?:.*(?:Got|Given) value: ([^\n]*)', re.DOTALL)


class _Help(DefaultHelpFormatter):
    """Help without Python's types; defaults only where there is one to show."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        if not isinstance(action, ActionYesNo) and action.default not in (None, argparse.SUPPRESS):
            default = action.default
            text += f" ({' '.join(map(str, default)) if isinstance(default, list) else default})"
        return text


class Parser(ArgumentParser):
    """ArgumentParser whose errors are one line on stderr and exit code 2."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        options: dict[str, Any] = {
            "print_config": "--print-config",
            "allow_abbrev": False,
            "formatter_class": _Help,
        }
        super().__init__(*args, **options, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Say what is wrong and what may have been meant."""
        print(f"{self.prog}: {self._explain(message)}", file=sys.stderr)
        sys.exit(2)

    def _explain(self, message: str) -> str:
        if found := _UNKNOWN.search(message):
            flag = found[1].split()[0].split("=")[0]
            return (
                f"there is no {flag}{suggestion(flag, self._option_string_actions)}; see {self.prog} --help"
            )
        if found := _CHOICE.search(message):
            names = list(getattr(self._subcommands_action, "choices", None) or ())
            return (
                f"there is no command '{found[1]}'{suggestion(found[1], names)}; there are {', '.join(names)}"
            )
        if _NO_COMMAND.search(message):
            return f"a command is missing; see {self.prog} --help"
        if found := _BAD_KEY.search(message):
            known = (field.name for field in dataclasses.fields(PretrainConfig))
            return f"--config: there is no option '{found[1]}'{suggestion(found[1], known)}"
        if found := _BAD_VALUE.search(message):
            flag = "--" + found[1].split(".")[-1].replace("_", "-")
            return f"{flag} is {found[2].strip()}; {_expected(self, flag)}"
        return " ".join(message.split())


def _metavar(hint: Any) -> str:
    """'{uniform,erk}' for a choice, 'N' for an integer, 'X' for a number, 'NAME' for text."""
    kinds = [kind for kind in (get_args(hint) or (hint,)) if kind is not type(None)]
    choices = [
        choice for kind in kinds for choice in get_args(kind) or ([kind] if isinstance(kind, str) else [])
    ]
    if choices:
        return "{" + ",".join(choices) + "}"
    return {int: "N", float: "X"}.get(kinds[0], "NAME")


def _expected(parser: ArgumentParser, flag: str) -> str:
    """'; expected a number' and the like, from the flag's metavar."""
    action = parser._option_string_actions.get(flag)
    metavar = str(getattr(action, "metavar", None) or "")
    if metavar.startswith("{"):
        return "expected " + " or ".join(metavar.strip("{}").split(","))
    return {"N": "expected an integer", "X": "expected a number"}.get(metavar, "that is not possible here")


def suggestion(given: str, known: Any) -> str:
    """'; did you mean --density?', or nothing."""
    near = difflib.get_close_matches(given, list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""


def add_dataclass_flags(parser: Parser, kind: type[Any]) -> None:
    """One flag and one configuration key for each field of the dataclass `kind` (fields made by `option`)."""
    hints = get_type_hints(kind)
    groups: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        group = field.metadata["group"]
        if group not in groups:
            groups[group] = parser.add_argument_group(group)
        flag = "--" + field.name.replace("_", "-")
        options: dict[str, Any] = {"default": field.default, "help": field.metadata["help"]}
        hint = hints[field.name]
        if hint in (bool, bool | None):
            options["action"] = ActionYesNo(yes_prefix="", no_prefix="no-")
        else:
            options["type"] = hint
            options["metavar"] = field.metadata["metavar"] or _metavar(hint)
        groups[group].add_argument(flag, **options)
