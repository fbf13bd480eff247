"""The README's commands run as they stand, in order, in an empty folder."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"
BLOCK = re.compile(r"<!-- test -->\n```(bash|python)\n(.*?)```", re.DOTALL)


@pytest.mark.slow
def test_every_marked_block_of_the_readme_runs(tmp_path):
    blocks = BLOCK.findall(README.read_text("utf-8"))
    assert {language for language, _ in blocks} == {"bash", "python"}
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    env |= {"TEXTMASK_CACHE": str(tmp_path / "cache"), "PYTHONWARNINGS": "default"}
    for language, code in blocks:
        command = (
            ["bash", "-euo", "pipefail", "-c", code]
            if language == "bash"
            else [sys.executable, "-c", code]
        )
        done = subprocess.run(
            command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False, timeout=300
        )
        assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"


def test_every_local_link_of_the_documents_leads_somewhere():
    for page in [README, *README.parent.glob("docs/*.md"), README.parent / "CONTRIBUTING.md"]:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text("utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_result_table_of_the_documents_is_what_its_summaries_say(monkeypatch):
    monkeypatch.syspath_prepend(str(README.parent / "docs"))
    tables = importlib.import_module("tables")
    assert any(tables.BLOCK.search(page.read_text("utf-8")) for page in tables.pages())
    for page in tables.pages():
        text = page.read_text("utf-8")
        assert tables.filled(text) == text, f"{page.name} is out of date: python docs/tables.py"
