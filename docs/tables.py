"""Fill every `<!-- textmask table [--brief] FILES -->` block of the documents from the committed summaries in results/.

`python docs/tables.py` writes the blocks; a test fails if a block and its summaries differ.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from textmask.studies.tables import summary_tables

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"(<!-- textmask table ([^>]+) -->\n).*?(<!-- end -->)", re.DOTALL)
PAGES = ("README.md", "docs/*.md", "src/textmask/methods/*/README.md")


def pages() -> list[Path]:
    """The documents that may hold blocks."""
    return sorted(page for pattern in PAGES for page in ROOT.glob(pattern))


def filled(text: str) -> str:
    """The text with each block rebuilt; FILES are paths or patterns below the project's root, best first."""

    def fill(block: re.Match[str]) -> str:
        patterns = block[2].removeprefix("--brief ").split()
        files = []
        for pattern in patterns:
            files += sorted(ROOT.glob(pattern))
        table = summary_tables(files, brief=block[2].startswith("--brief"))
        return f"{block[1]}\n{table}\n{block[3]}"

    return BLOCK.sub(fill, text)


def main() -> int:
    """Rewrite the pages that changed and print their names."""
    for page in pages():
        text = page.read_text("utf-8")
        if filled(text) != text:
            page.write_text(filled(text), "utf-8")
            print(page.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
