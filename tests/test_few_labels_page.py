"""The data set of docs/few-labels.md is what its page says."""

import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

from textmask.layouts.read import read_layout

PAGE = Path(__file__).parents[1] / "docs" / "few-labels.md"


def test_the_table_of_100_images_is_made_by_the_code_of_the_page(data_root, tmp_path):
    kvasir = data_root / "kvasir-seg"
    shutil.copy(kvasir / "texts.csv", tmp_path)
    for folder in ("images", "masks"):
        shutil.copytree(kvasir / folder, tmp_path / folder)
    code = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)[0]
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)

    manifest = read_layout(tmp_path / "table.csv")
    assert Counter(row.split for row in manifest.rows) == {"train": 100, "valid": 30, "test": 200}
    assert len({row.image for row in manifest.rows}) == 330
