# SPDX-License-Identifier: BSD-3-Clause
"""`make docs`: pages in build/docs, from the headers (Doxygen) and the docstrings (pdoc).

Fails on a warning, and where a public symbol of either language has no documentation; counts them.
"""

import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from xml.etree import ElementTree

from python_symbols import python_symbols

ROOT = Path(__file__).parent.parent
OUT = ROOT / "build" / "docs"
Symbols = dict[str, bool]  # name -> documented


def main() -> int:
    """Make the pages and count; the exit code."""
    if shutil.which("doxygen") is None:
        print("smet: no doxygen; install it: apt-get install doxygen", file=sys.stderr)
        return 1
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    failed = not doxygen() or not pdoc()
    for language, symbols in (("C++", cpp_symbols()), ("Python", python_symbols())):
        missing = [name for name, documented in symbols.items() if not documented]
        print(f"{language}: {len(symbols) - len(missing)} of {len(symbols)} public symbols documented")
        for name in missing:
            print(f"  without documentation: {name}", file=sys.stderr)
        failed = failed or bool(missing) or not symbols
    if not failed:
        print(OUT / "index.html")
    return int(failed)


def doxygen() -> bool:
    """C++ pages and the pages of docs/; False after a warning."""
    settings = (ROOT / "docs" / "Doxyfile").read_text()
    settings += f"OUTPUT_DIRECTORY = {OUT}\n"
    settings += f'INPUT_FILTER = "{sys.executable} {ROOT}/docs/header_comments.py"\n'
    settings += f"PROJECT_NUMBER = {version()}\n"
    return subprocess.run(["doxygen", "-"], input=settings, text=True, cwd=ROOT).returncode == 0


def version() -> str:
    """The package's."""
    import smet

    return smet.__version__


def pdoc() -> bool:
    """Python pages; False after a warning."""
    import pdoc as generator

    import smet

    for name in smet.__all__:  # made on first use
        getattr(smet, name)
    generator.render.configure(docformat="google", show_source=False, footer_text=f"smet {smet.__version__}")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        generator.pdoc("smet", output_directory=OUT / "python")
    for warning in caught:
        print(f"pdoc: {warning.message}", file=sys.stderr)
    return not caught


def cpp_symbols() -> Symbols:
    """Classes, functions, variables, types and macros of include/smet, by Doxygen's reading."""
    symbols: Symbols = {}
    for path in sorted((OUT / "xml").glob("*.xml")):
        for compound in ElementTree.parse(path).getroot().iter("compounddef"):
            kind, name = compound.get("kind"), compound.findtext("compoundname", "")
            if compound.get("prot", "public") != "public":
                continue
            if kind in ("class", "struct"):
                symbols[name] = _described(compound)
            if kind not in ("class", "struct", "namespace", "file"):
                continue
            for member in compound.iter("memberdef"):
                if kind == "file" and member.get("kind") != "define":  # its namespace has it too
                    continue
                if member.get("prot") == "public" and not _given(member):
                    text = f"{name}::{member.findtext('name')}{member.findtext('argsstring') or ''}"
                    symbols[text] = _described(member)
    return symbols


def _described(element: ElementTree.Element) -> bool:
    return any(
        "".join(part.itertext()).strip()
        for tag in ("briefdescription", "detaileddescription")
        if (part := element.find(tag)) is not None
    )


def _given(member: ElementTree.Element) -> bool:
    """Overrides, whose description is their base's, and what is deleted or defaulted."""
    arguments = member.findtext("argsstring") or ""
    return member.find("reimplements") is not None or "override" in arguments or arguments.endswith("=delete")


if __name__ == "__main__":
    sys.exit(main())
