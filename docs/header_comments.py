# SPDX-License-Identifier: BSD-3-Clause
"""Doxygen's input filter: the plain `//` comments of a public header as documentation comments.

A comment above a declaration belongs to it and to those that follow without a blank line or a comment of
their own, one behind it to it alone, the first one of a file to the file. Lines that are indented by two
spaces and more inside a comment are formulas and code, shown as they stand. No line is added or removed, so
that warnings name the right one.
"""

import re
import sys
from pathlib import Path

_ABOVE = re.compile(r" *//( .*|)$")
_BEHIND = re.compile(r"(.*[^ /].*?) +// (?!NOLINT)(.*)$")
_SPECIAL = re.compile(r"[\\@<>#%&]")


def escaped(text: str) -> str:
    """Text without meaning to Doxygen, but for `code`."""
    parts = text.split("`")
    return "`".join(part if odd % 2 else _SPECIAL.sub(r"\\\g<0>", part) for odd, part in enumerate(parts))


def comment_lines(lines: list[str]) -> list[str]:
    """The texts of one comment, its formulas as verbatim blocks."""
    result: list[str] = []
    verbatim = False
    for line in lines:
        formula = line.startswith("   ") or (verbatim and not line.strip())
        text = line if formula else escaped(line)
        if formula and not verbatim and line.strip():
            if result:
                result[-1] += r" \verbatim"
            else:
                text = r" \verbatim" + text
            verbatim = True
        elif verbatim and not formula:
            text = r" \endverbatim" + text
            verbatim = False
        result.append(text)
    if verbatim:
        result[-1] += r" \endverbatim"
    return result


def _continues(previous: str, comment: str) -> bool:
    """Whether a comment line goes on with what stands behind the declaration above it."""
    indent = [len(line) - len(line.lstrip()) for line in (previous, comment)]
    return _BEHIND.match(previous) is not None and indent[1] > indent[0] + 8


class Filter:
    """One pass over a header's lines."""

    def __init__(self) -> None:
        self.result: list[str] = []
        self.above: str | None = None  # the comment that holds for declarations without one
        self.commented = False  # the last line is a comment
        self.open = False  # inside a declaration of several lines

    def comment(self, texts: list[str], of_file: bool) -> None:
        """A comment of whole lines."""
        body = [r" \file", *comment_lines(texts[1:])] if of_file else comment_lines(texts)
        self.above = None if of_file else " ".join(text.strip() for text in body)
        body[0] = "/**" + body[0]
        body[-1] += " */"
        self.result += body
        self.commented = True

    def code(self, line: str) -> None:
        """A line with code, or an empty one."""
        behind = _BEHIND.match(line)
        code = behind[1].rstrip() if behind else line.rstrip()
        starts = code.strip() and not self.open and not code.lstrip().startswith(("#", "}"))
        if behind:
            line = f"{code}  ///< {escaped(behind[2])}"
        elif starts and self.above is not None and not self.commented:
            line = f"/** {self.above} */ {line}"
        self.open = bool(code) and not code.endswith((";", "}", "{", ":"))
        if not code or code.endswith(("{", ":")):
            self.above = None
        self.result.append(line)
        self.commented = False


def filtered(source: str) -> str:
    """The header as Doxygen should see it."""
    lines, header, i = source.splitlines(), Filter(), 0
    while i < len(lines):
        first = i
        while i < len(lines) and _ABOVE.match(lines[i]):
            i += 1
        texts = [line.strip()[2:] for line in lines[first:i]]
        if not texts:
            header.code(lines[i])
            i += 1
        elif first > 0 and _continues(lines[first - 1], lines[first]):
            header.result += ["///<" + escaped(text) for text in texts]
        else:
            header.comment(texts, of_file=first == 0)
    return "\n".join(header.result) + "\n"


if __name__ == "__main__":
    path = Path(sys.argv[1])
    text = path.read_text(encoding="utf-8")
    print(filtered(text) if path.suffix == ".h" else text, end="")
