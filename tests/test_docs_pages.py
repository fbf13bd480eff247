"""The pages in docs/: every command exists with its options, and the code of the pages runs as it stands."""

import importlib.util
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

import textmask
from textmask.cli.app import app

DOCS = Path(__file__).parents[1] / "docs"
BLOCK = re.compile(r"```(bash|python)\n(.*?)```", re.DOTALL)
RNG = np.random.default_rng(0)
# these need a cluster
SKIPPED = ("--engine ray",)


def blocks(page, language):
    return [
        code for kind, code in BLOCK.findall((DOCS / page).read_text("utf-8")) if kind == language
    ]


def commands(page):
    """The words of each textmask command in the bash blocks of a page."""
    lines = "\n".join(blocks(page, "bash")).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.startswith("textmask ")]


@pytest.mark.parametrize("page", sorted(path.name for path in DOCS.glob("*.md")))
def test_every_command_of_a_page_parses(page):
    for words in commands(page):
        command, rest = typer.main.get_command(app), words[1:]
        while hasattr(command, "commands"):
            command, rest = command.commands[rest[0]], rest[1:]
        command.make_context(words[1], rest)  # raises if an option or argument is wrong


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path)


def square(top=4):
    mask = np.zeros((24, 24), np.uint8)
    mask[top : top + 8, 5:15] = 255
    return mask


def run_python(code, **names):
    """Run a block; without pandas, without the calls that need it."""
    if importlib.util.find_spec("pandas") is None:
        code = code.replace(", found.to_pandas()", "").replace(".to_pandas()", "")
    names["textmask"] = textmask
    exec(compile(code, "block", "exec"), names)
    return names


@pytest.fixture
def images(tmp_path, monkeypatch):
    """The files that docs/predict.md and docs/laterality.md name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TEXTMASK_CACHE", str(tmp_path / "cache"))
    for name in ("chest", "a", "b", "images/c", "images/below/d"):
        save(tmp_path / f"{name}.png", RNG.integers(0, 250, (48, 40)))
    (tmp_path / "jobs.csv").write_text("image,text,laterality\nchest.png,lower left lung,image\n")
    (tmp_path / "report.txt").write_text("Patchy opacity in the right lower lobe. No effusion.")
    return tmp_path


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::textmask.errors.TextMaskWarning")
@pytest.mark.parametrize("page", ["predict.md", "laterality.md", "default-model.md"])
def test_the_commands_that_predict_run(page, images):
    done = 0
    for words in commands(page):
        line = shlex.join(words)
        if words[1] != "predict" or "chest.dcm" in words or any(one in line for one in SKIPPED):
            continue
        known = {"RUN": "default", "runs/biclip": "default"}
        known["$(cat report.txt)"] = (images / "report.txt").read_text()
        typed = [known.get(word, word) for word in words[1:]]
        result = CliRunner().invoke(app, [*typed, "--overwrite"])
        assert result.exit_code == 0, (line, result.output)
        done += 1
    assert done >= 2


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::textmask.errors.TextMaskWarning")
def test_the_python_of_the_predict_page_runs(images):
    notebook, training, threads = blocks("predict.md", "python")
    found = run_python(notebook)["found"]
    assert found.mask.shape == (48, 40)

    mine = [
        (RNG.integers(0, 200, (24, 24)).astype(np.uint8), square(i), split)
        for i, split in enumerate(["train"] * 4 + ["valid"] * 3 + ["test"] * 3)
    ]
    assert 'preset="lite", epochs=20' in training
    quick = training.replace('preset="lite", epochs=20', 'preset="smoke", progress=False')
    summary = run_python(quick, mine=mine)["summary"]
    assert summary.protocol.n == 3
    found = run_python(threads.replace("runs/biclip", "default"))["found"]
    assert found.mask.shape == (48, 40)


@pytest.mark.slow
def test_the_python_of_the_laterality_page_runs(images):
    (code,) = blocks("laterality.md", "python")
    found = run_python(code.replace("runs/biclip", "default"))["found"]
    assert found.asked.conversion


@pytest.mark.filterwarnings("ignore::textmask.errors.DataWarning")
def test_the_python_of_the_data_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for i in range(27):
        save(tmp_path / f"BM-Seg/image/{i}.png", RNG.integers(0, 250, (24, 24)))
        save(tmp_path / f"BM-Seg/lesion mask/{i}.png", square(i % 9))
    (code,) = blocks("data.md", "python")
    assert run_python(code)["manifest"].splits == {"train": 20, "test": 7}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::textmask.errors.TextMaskWarning")
def test_the_commands_of_the_data_page_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = ["image,split"]
    for i, split in enumerate(["train"] * 6 + ["valid"] * 3 + ["test"] * 3):
        save(tmp_path / f"DATA/images/{i}.png", RNG.integers(0, 200, (24, 24)))
        save(tmp_path / f"DATA/masks/{i}.png", np.where(square(i % 9), 1 + i % 2, 0))
        lines.append(f"images/{i}.png,{split}")
    (tmp_path / "DATA/list.csv").write_text("\n".join(lines))
    (tmp_path / "DATA/classes.csv").write_text("value,name\n1,liver\n2,spleen\n")
    convert, train, evaluate, *on_table = commands("data.md")
    runs = [[*train, "--preset", "smoke"], evaluate, convert]
    for i, words in enumerate(on_table):
        small = ["DATA/table.csv" if word == "data/table.csv" else word for word in words]
        runs.append([*small, "--preset", "smoke", "--out", f"runs/{i}"])
    for words in runs:
        result = CliRunner().invoke(app, words[1:])
        assert result.exit_code == 0, (words, result.output)


def test_nothing_is_promised_about_reports_of_vulnerabilities_without_an_address():
    root = DOCS.parent
    fields = re.findall(r"^([a-z-]+):", (root / "CITATION.cff").read_text("utf-8"), re.MULTILINE)
    text = " ".join((root / "SECURITY.md").read_text("utf-8").split())
    assert "`contact`" in text
    assert not re.search(r"https?://|\S+@\S+\.\w+", text)  # the address has one place
    if not {"contact", "repository-code"} <= set(fields):
        assert "nothing is promised" in text
        assert not re.search(r"within (a|\d+) (day|week|month)", text)
