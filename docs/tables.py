"""Fill every `<!-- textmask table [--brief] FILES -->` block of the documents from the committed summaries in results/.

`python docs/tables.py` writes the blocks; a test fails where a block and its summaries differ.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from textmask.evaluation.results_table import results_table
from textmask.studies.grid.summary import study_table as study_table
from textmask.studies.robustness.comparison import robustness_table

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"(<!-- textmask table ([^>]+) -->\n).*?(<!-- end -->)", re.DOTALL)
PAGES = ("README.md", "docs/*.md", "src/textmask/methods/*/README.md")


def pages() -> list[Path]:
    """The documents that may hold blocks."""
    return sorted(page for pattern in PAGES for page in ROOT.glob(pattern))


def filled(text: str) -> str:
    """The text with each block made anew; FILES are paths or patterns below the project's root, best first.

    Files called `study-*.json` are those of `textmask study`, `robustness-*.json` those of its prompts, text noise and
    corruptions, the others those of `textmask evaluate`.
    """

    def fill(block: re.Match[str]) -> str:
        patterns = block[2].removeprefix("--brief ").split()
        files = [path for pattern in patterns for path in sorted(ROOT.glob(pattern))]
        kinds = {path.name.partition("-")[0] for path in files}
        read = [json.loads(path.read_text("utf-8")) for path in files]
        if kinds == {"robustness"}:
            table = robustness_table(read)
        elif kinds == {"study"}:
            table = "\n".join(map(study_table, read))
        else:
            table = results_table(files, block[2].startswith("--brief"))
        return f"{block[1]}\n{table}\n{block[3]}"

    return BLOCK.sub(fill, text)


def main() -> int:
    """Rewrite what changed; says which pages."""
    for page in pages():
        text = page.read_text("utf-8")
        if filled(text) != text:
            page.write_text(filled(text), "utf-8")
            print(page.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
