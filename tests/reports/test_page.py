"""The report: one file, nothing fetched, nothing a prompt can smuggle in; and tables from committed summaries."""

import base64
import csv
import hashlib
import json
import re
import shutil
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

from textmask.errors import CheckpointError, DataError
from textmask.evaluation.results_table import results_table
from textmask.evaluation.summary import EvaluationSummary, read_summary
from textmask.plots.overlays import LEGEND
from textmask.reports.page import Section, write_report

VOID = ("img", "meta", "br", "input")


class Page(HTMLParser):
    """Tags with their attributes, and the text between them."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.words, self.open, self.raw = [], [], [], []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        raw = self.open and self.open[-1] in ("script", "style")
        (self.raw if raw else self.words).append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


@pytest.fixture
def runs(evaluated, tmp_path):
    """A copy that a test may change."""
    return shutil.copytree(evaluated, tmp_path / "runs")


@pytest.fixture(scope="module")
def page(evaluated, tmp_path_factory):
    return Page(
        write_report(evaluated / "text_prior", tmp_path_factory.mktemp("page") / "report.html")
    )


def test_one_file_that_fetches_nothing(page):
    images = [attrs["src"] for tag, attrs in page.tags if tag == "img"]
    assert len(images) == 2 * 3 * 4  # two splits: worst, best and median cases
    plots = [
        attrs["aria-label"]
        for tag, attrs in page.tags
        if tag == "svg" and attrs.get("role") == "img"
    ]
    # two splits: forest, agreement, scatter, histogram; the validation scores (it has no loss)
    assert len(plots) == 2 * (1 + 6 + 1 + 1) + 1
    assert len(set(plots)) > 10
    for source in images:
        kind, data = source.split(",", 1)
        assert kind == "data:image/jpeg;base64"
        decoded = cv2.imdecode(
            np.frombuffer(base64.b64decode(data, validate=True), np.uint8), cv2.IMREAD_COLOR
        )
        assert decoded.size
    assert {tag for tag, _ in page.tags}.isdisjoint(
        {"link", "iframe", "object", "form", "base", "image", "use"}
    )
    for tag, attrs in page.tags:
        assert not [
            name for name in attrs if name.startswith("on") or name in ("action", "style", "srcset")
        ], tag
        assert attrs.get("href", "#").startswith("#"), tag
    assert not re.search(r"url\(|@import|https?://|fetch\(|XMLHttp|innerHTML|eval\(", page.source)
    assert page.open == []


def test_only_its_own_script_and_style_may_run(page):
    policy = next(
        attrs["content"]
        for tag, attrs in page.tags
        if attrs.get("http-equiv") == "Content-Security-Policy"
    )
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert rules["img-src"] == "data:"
    for tag, rule in (("style", "style-src"), ("script", "script-src")):
        (text,) = re.findall(f"<{tag}>(.*?)</{tag}>", page.source, re.DOTALL)
        digest = hashlib.sha256(text.encode()).digest()
        assert rules[rule] == f"'sha256-{base64.b64encode(digest).decode()}'"
    kinds = [attrs.get("type") for tag, attrs in page.tags if tag == "script"]
    assert kinds == ["application/json", "application/json", None]


def test_prompts_and_names_are_text_not_markup(page):
    assert "<img src=x" not in page.source
    assert page.source.count("<script>") == 1
    assert "</details><script>" not in page.source
    assert "<b>films</b>" not in page.source
    assert (
        '<img src=x onerror="alert(1)"> {{ 7 * 7 }} </details><script>alert(2)</script> left &'
        in page.text
    )
    assert "<b>films</b>" in page.text


def test_it_says_what_a_reader_must_know(page, evaluated):
    words = page.text
    for name in ("text_prior, shuffled text", "text_prior, empty text", "unet", "statement_unet"):
        assert name in words
    assert "not trained; textmask train statement_unet" in words
    assert "Research use only" in words
    assert '"left" means the left side of the image' in words
    assert "Results on test" in words
    assert "Results on train" in words
    assert "n = 8 in" in words
    assert "HD95 pooled directed distances" in words
    summary = json.loads(
        (evaluated / "text_prior" / "evaluation" / "test" / "summary.json").read_text()
    )
    assert summary["protocol"]["weights_sha256"][:12] in words
    figure = summary["rows"]["text_prior"]["dice_per_image"]
    assert (
        f"{100 * figure['estimate']:.2f} ({100 * figure['low']:.2f} to {100 * figure['high']:.2f})"
        in words
    )
    for kind in ("best", "median", "worst"):
        assert f"The {kind} images of test" in words
    for name, colour in LEGEND.items():
        assert name in words
        assert f"rgb{colour}" in page.source
    assert '"method": "text_prior"' in words  # the recipe
    assert '"git_commit"' in words
    assert "color-scheme: light dark" in page.source


def test_unfinished_and_unevaluated_runs_still_have_a_report(runs):
    run = runs / "unet"
    shutil.rmtree(run / "evaluation")
    assert "Not evaluated yet" in Page(write_report(run)).text
    for name in ("result.json", "environment.json", "log.jsonl"):
        (run / name).unlink()
    assert "This run has not finished" in Page(write_report(run)).text
    assert (run / "report.html").exists()
    with pytest.raises(CheckpointError, match="run folder"):
        write_report(runs / "gone")


def test_extra_sections_come_first_and_are_escaped(runs):
    png = (runs / "unet" / "evaluation" / "test" / "cases" / "best-1.png").read_bytes()
    page = Page(
        write_report(
            runs / "unet", extra=[Section("Two <i>sentences</i>", png, "<u>left</u> & right")]
        )
    )
    assert "Two <i>sentences</i>" in page.text
    assert "<u>left</u> & right" in page.text
    assert (
        page.text.index("Two <i>")
        < page.text.index("What was trained")
        < page.text.rindex("Results on test")
    )


def test_missing_intervals_and_values_do_not_stop_it(runs):
    path = runs / "unet" / "evaluation" / "test" / "summary.json"
    summary = json.loads(path.read_text())
    for row in summary["rows"].values():
        for value in row.values():
            if isinstance(value, dict):
                value |= {"low": None, "high": None}
    summary["rows"]["unet"]["dice_per_image"] = {
        "estimate": 0.1,
        "low": 0.1 + 1e-17,
        "high": 0.1 - 1e-17,
    }
    path.write_text(json.dumps(summary))
    table = path.parent / "per_image.csv"
    lines = list(csv.DictReader(table.read_text().splitlines()))
    lines[0]["dice_per_image"] = "nan"
    with table.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
    assert "10.00" in Page(write_report(runs / "unet")).text


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("summary.json", "{}"),
        ("summary.json", '{"rows": []}'),
        ("summary.json", "no json"),
        ("per_image.csv", "row,image\nunet,a.png\n"),
        ("cases/cases.json", '{"cases": [{"file": "../../../../secret.png", "kind": "best"}]}'),
    ],
)
def test_a_damaged_evaluation_is_a_clear_error(runs, name, content):
    (runs / "unet" / "evaluation" / "test" / name).write_text(content)
    with pytest.raises(CheckpointError, match=r"evaluation/test"):
        write_report(runs / "unet")
    assert not (runs / "unet" / "report.html").exists()


def test_a_case_cannot_name_a_file_elsewhere(runs, tmp_path):
    (tmp_path / "secret.png").write_bytes(b"SECRET")
    folder = runs / "unet" / "evaluation" / "test" / "cases"
    cases = json.loads((folder / "cases.json").read_text())
    cases["cases"][0]["file"] = str(tmp_path / "secret.png")
    (folder / "cases.json").write_text(json.dumps(cases))
    with pytest.raises(CheckpointError, match="Evaluate the run again"):
        write_report(runs / "unet")


def test_a_report_that_cannot_be_written_is_a_clear_error(runs):
    with pytest.raises(DataError, match="cannot be written"):
        write_report(runs / "unet", runs / "gone" / "report.html")


def committed(runs, name, path, split="test", change=None):
    summary = json.loads((runs / name / "evaluation" / split / "summary.json").read_text())
    if change:
        change(summary)
    path.write_text(json.dumps(summary))
    return path


def table_of(paths, brief=False):
    return results_table([read_summary(path, EvaluationSummary) for path in paths], brief)


def tables_of(markdown):
    """First cells of each table: those of the overlaps, then those of the agreement."""
    found = {"overlap": [], "agreement": []}
    kind = "overlap"
    for line in markdown.splitlines():
        if line.startswith("| row |"):
            kind = "agreement" if " F1, " in line else "overlap"
        if line.startswith("|"):
            found[kind].append(line.split(" | ")[0].strip("| "))
    return found


def rows_of(markdown):
    return tables_of(markdown)["overlap"]


def test_results_table_merges_what_is_comparable(runs, tmp_path):
    a, b = (committed(runs, name, tmp_path / f"{name}.json") for name in ("text_prior", "unet"))
    table = table_of([a, b])
    head = rows_of(table)
    assert head[:2] == ["row", "---"]
    assert head[2:6] == [
        "text_prior",
        "text_prior, shuffled text",
        "text_prior, empty text",
        "unet",
    ]
    assert head.count("unet") == 1
    assert head.count("text_prior") == 1
    assert head.count("statement_unet") == 1
    summary = json.loads(a.read_text())
    value = summary["rows"]["text_prior"]["dice_pooled"]
    assert (
        f"{100 * value['estimate']:.2f} ({100 * value['low']:.2f} to {100 * value['high']:.2f})"
        in table
    )
    assert table.count("threshold 0.5, both masks empty: one") == 2  # the protocol of either model
    assert "- text_prior minus unet: dice_per_image" in table
    assert table_of([a, a]) == table_of([a])
    brief = table_of([a, a], brief=True)
    assert rows_of(brief) == rows_of(table_of([a]))
    assert brief.count("\n- ") == 1
    assert tables_of(brief)["agreement"] == []
    agreement = tables_of(table)["agreement"]
    assert agreement[2:6] == head[2:6]
    assert agreement[-2:] == ["true masks (ceiling)", "masks of other images (floor)"]

    def older(summary):  # committed before agreement was measured
        del summary["agreement_bounds"]
        for row in summary["rows"].values():
            del row["agreement"]

    old = table_of([committed(runs, "unet", tmp_path / "old.json", change=older)])
    assert tables_of(old)["agreement"] == []
    assert "unet" in rows_of(old)
    assert "split" in brief.splitlines()[-1]


def test_results_table_keeps_other_protocols_and_other_weights_apart(runs, tmp_path):
    a = committed(runs, "text_prior", tmp_path / "a.json")
    other_split = committed(runs, "text_prior", tmp_path / "b.json", "train")
    assert rows_of(table_of([a, other_split])).count("row") == 2

    def seed(summary):
        for row in summary["rows"].values():
            row |= {"weights_sha256": "f" * 64, "run": "seed|1"}

    other_seed = committed(runs, "text_prior", tmp_path / "c.json", change=seed)
    table = table_of([a, other_seed])
    assert rows_of(table).count("row") == 1
    assert r"text_prior (seed\|1, ffffff)" in table
    (tmp_path / "d.json").write_text("{}")
    with pytest.raises(
        CheckpointError, match=r"d\.json is not a summary, expected one of `textmask evaluate`"
    ):
        table_of([tmp_path / "d.json"])
