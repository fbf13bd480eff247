"""A report of several runs: what may stand in one table, pairs on the same images, single figures, studies."""

import csv
import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest

from textmask.errors import CheckpointError
from textmask.metrics.statistics import holm, paired_permutation
from textmask.plots.svg import (
    WIDTH,
    Curve,
    histogram_svg,
    intervals_svg,
    lines_svg,
    nice_ticks,
    scatter_svg,
)
from textmask.reports.groups import (
    MOST_IN_PAIRS,
    grouped,
    merged,
    own_differences,
    paired_differences,
)
from textmask.reports.page import write_report
from textmask.reports.plots import MOST_IMAGES, single_figures
from textmask.reports.robustness import read_studies, robustness_cells, study_plots
from textmask.reports.runs import read_runs

N = 6
PROTOCOL = {
    "data": "films",
    "data_hash": "a" * 64,
    "split": "test",
    "n": N,
    "n_groups": N,
    "size": [8, 8],
    "threshold": 0.5,
    "empty_policy": "one",
    "hd95": "not computed",
    "interval": "95 %",
    "chosen_by": "valid dice_per_image",
    "git_commit": "abc",
    "shuffled_seed": 0,
    "shuffled_same_claim": 1,
}
COUNTS = ("intersection", "predicted", "true")
EVIL = '</script><img src=x onerror="alert(1)">'


def value(estimate, spread=0.05):
    return {"estimate": estimate, "low": estimate - spread, "high": estimate + spread}


def make_run(root, name, method="unet", dice=0.5, seed=0, **protocol):
    """A run folder with one evaluation, written by hand: no model, only the files that a report reads."""
    run = root / name
    folder = run / "evaluation" / "test"
    folder.mkdir(parents=True)
    texts = [f"upper left lung {i % 3}" for i in range(N)]
    rng = np.random.default_rng(seed)
    true = np.arange(10, 10 + N)
    both = rng.integers(1, 10, N)
    predicted = true + seed
    found = PROTOCOL | {"seed": seed} | protocol
    metrics = {
        m: value(dice) for m in ("dice_per_image", "dice_pooled", "iou_per_image", "iou_pooled")
    }
    row = metrics | {
        "run": name,
        "sentences": "own",
        "weights_sha256": f"{name}-weights",
        "threshold": 0.5,
    }
    row |= {"size": [8, 8], "seed": seed, "labelled_rows": 4}
    shuffled = row | {"sentences": "shuffled"}
    beside = row | {"run": "other", "weights_sha256": "other-weights"}
    rows = {"text_prior": beside, method: row, f"{method}, shuffled text": shuffled}
    rows = {
        name: rows[name] for name in sorted(rows, key=lambda name: name == "text_prior" != method)
    }
    minus = [
        {"minus": other, "dice_per_image": value(0.1), "dice_per_image_p": 0.01}
        | {"dice_pooled": value(0.1), "dice_pooled_p": 0.02}
        for other in list(rows)[1:]
    ]
    summary = {
        "protocol": found,
        "rows": rows,
        "missing_rows": {"statement_unet": "not trained"},
        "differences": minus,
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    with (folder / "per_image.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(
            ["row", "image", "group", "text", "dice_per_image", "iou_per_image", *COUNTS]
        )
        for i in range(N):
            score = 2 * both[i] / (predicted[i] + true[i])
            writer.writerow(
                [
                    method,
                    f"film-{i}.png",
                    f"p{i}",
                    texts[i],
                    score,
                    score,
                    both[i],
                    predicted[i],
                    true[i],
                ]
            )
    recipe, data = (
        {"method": method, "seed": seed},
        {"name": "films", "laterality": "image", "labelled_rows": {"a": 4}},
    )
    (run / "recipe.json").write_text(json.dumps(recipe))
    (run / "data.json").write_text(json.dumps(data))
    log = [{"epoch": i, "loss": 1 / (i + 1), "valid/dice_per_image": i / 3} for i in range(3)]
    (run / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    return run


def change(run, edit, name="summary.json"):
    path = run / "evaluation" / "test" / name
    summary = json.loads(path.read_text())
    edit(summary)
    path.write_text(json.dumps(summary))


def figures_of(source):
    return json.loads(
        re.search(r'<script type="application/json" class="figures">(.*?)</script>', source)[1]
    )


def test_runs_of_one_protocol_share_a_table(tmp_path):
    runs = [make_run(tmp_path, name, name, seed=i) for i, name in enumerate(("unet", "ssa"))]
    source = write_report(runs).read_text()
    assert (tmp_path / "report.html").exists()  # beside the first
    assert source.count("Results on test</h2>") == 1
    (group,) = grouped(read_runs(runs))
    assert list(merged(group).rows) == [
        "unet",
        "unet, shuffled text",
        "text_prior",
        "ssa",
        "ssa, shuffled text",
    ]
    own = [(d.arm, d.minus) for d in own_differences(group)]
    expected = [
        ("unet", "unet, shuffled text"),
        ("unet", "text_prior"),
        ("ssa", "ssa, shuffled text"),
    ]
    assert own == [*expected, ("ssa", "text_prior")]
    assert "Seed</dt><dd>unet: 0; ssa: 1</dd>" in source
    figures = figures_of(source)
    assert [run["label"] for run in figures["runs"]] == ["unet", "ssa"]
    assert figures["area"][0] == round(100 * 10 / 64, 4)
    assert (
        source.count('<circle class="pt"') == 2 * N
    )  # run against run, and against the size of the lesion


def test_runs_of_one_method_are_named_by_their_folders(tmp_path):
    runs = [make_run(tmp_path, name) for name in ("seed0", "seed1")]
    again = [make_run(tmp_path / "b", "seed0")]
    assert [run.label for run in read_runs(runs)] == ["seed0", "seed1"]
    assert [run.label for run in read_runs([*runs, runs[0]])] == ["seed0", "seed1"]
    assert [run.label for run in read_runs([runs[0], *again])] == [
        f"{tmp_path.name}/seed0",
        "b/seed0",
    ]
    (group,) = grouped(read_runs(runs))
    assert list(merged(group).rows)[:2] == ["seed0", "seed0, shuffled text"]


def test_names_of_runs_and_data_are_text(tmp_path):
    names = ("<img src=x onerror=alert(1)>", '"><script>alert(2)<')
    runs = [make_run(tmp_path, name, data=EVIL) for name in names]
    for run in runs:
        study(run, "<b>x", graded(0.8))
        (run / "data.json").write_text(json.dumps({"name": EVIL}))
    source = write_report(runs, tmp_path / "page.html").read_text()
    assert not re.search(r"<img src=x|<script>alert|<b>x|</script><img", source)
    assert "&lt;img src=x onerror=alert(1)&gt;" in source
    assert [run["label"] for run in figures_of(source)["runs"]] == list(names)


def test_a_run_that_another_is_compared_with_appears_once(tmp_path):
    a, b = make_run(tmp_path, "ssa", "ssa"), make_run(tmp_path, "text_prior", "text_prior")
    change(
        a, lambda summary: summary["rows"]["text_prior"].update(weights_sha256="text_prior-weights")
    )
    (group,) = grouped(read_runs([a, b]))
    assert list(merged(group).rows) == [
        "ssa",
        "ssa, shuffled text",
        "text_prior",
        "text_prior, shuffled text",
    ]
    assert ("ssa", "text_prior") not in [(d.arm, d.minus) for d in own_differences(group)]
    change(a, lambda summary: summary["rows"]["text_prior"].update(weights_sha256="x" * 64))
    rows = merged(grouped(read_runs([a, b]))[0]).rows
    assert rows["text_prior"].run == "text_prior"  # the given run keeps its name
    assert rows["text_prior (other, xxxxxx)"].run == "other"


@pytest.mark.parametrize(
    ("protocol", "said"),
    [
        ({"data_hash": "b" * 64}, "another data:"),
        ({"size": [4, 4]}, "another size:"),
        ({"empty_policy": "skip"}, "empty"),
    ],
)
def test_other_protocols_are_shown_apart_and_say_why(tmp_path, protocol, said):
    runs = [make_run(tmp_path, "unet"), make_run(tmp_path, "ssa", "ssa", **protocol)]
    assert len(grouped(read_runs(runs))) == 2
    source = write_report(runs, tmp_path / "page.html").read_text()
    assert source.count("Not comparable with") == 2
    assert said in source
    assert "Runs against each other" not in source
    assert "Results on test: unet</h2>" in source


def test_pairs_are_those_of_the_same_images(tmp_path):
    runs = [make_run(tmp_path, f"m{i}", f"m{i}", seed=i) for i in range(3)]
    (group,) = grouped(read_runs(runs))
    found, notes = paired_differences(group, n=50, permutations=64)
    assert [(d.arm, d.minus) for d in found] == [("m0", "m1"), ("m0", "m2"), ("m1", "m2")]
    assert not notes
    dice = [member.evaluated.per_image.dice for member in group.members]
    assert found[0].dice_per_image.estimate == pytest.approx(float((dice[0] - dice[1]).mean()))
    raw = [paired_permutation(dice[a], dice[b], n=64) for a, b in ((0, 1), (0, 2), (1, 2))]
    assert [d.dice_per_image_p for d in found] == pytest.approx(holm(raw))
    path = runs[1] / "evaluation" / "test" / "per_image.csv"
    path.write_text(path.read_text().replace("film-0.png", "film-x.png"))
    (group,) = grouped(read_runs(runs))
    found, notes = paired_differences(group, n=50, permutations=64)
    assert [(d.arm, d.minus) for d in found] == [("m0", "m2")]
    assert len(notes) == 2
    assert [run["label"] for run in single_figures(group)["runs"]] == ["m0", "m2"]


def test_masks_that_differ_and_images_without_a_score_are_not_paired(tmp_path):
    runs = [make_run(tmp_path, f"m{i}", f"m{i}", seed=i) for i in range(2)]
    (group,) = grouped(read_runs(runs))
    a, b = group.members
    nothing = replace(b.evaluated.per_image, dice=np.full(N, np.nan))
    empty = replace(
        group, members=(a, replace(b, evaluated=replace(b.evaluated, per_image=nothing)))
    )
    assert paired_differences(empty)[1] == [
        "m0 and m1 are not paired: no image has a score in both."
    ]
    counts = replace(b.evaluated.per_image.counts, true=b.evaluated.per_image.counts.true + 1)
    moved = replace(b.evaluated, per_image=replace(b.evaluated.per_image, counts=counts))
    assert (
        "true masks differ"
        in paired_differences(replace(group, members=(a, replace(b, evaluated=moved))))[1][0]
    )


def test_many_runs_are_each_compared_with_the_first(tmp_path):
    runs = [make_run(tmp_path, f"m{i}", f"m{i}") for i in range(MOST_IN_PAIRS + 1)]
    (group,) = grouped(read_runs(runs))
    found, notes = paired_differences(group, n=10, permutations=10)
    assert len(found) == MOST_IN_PAIRS
    assert {d.arm for d in found} == {"m0"}
    assert "the first only" in notes[0]


def test_a_page_holds_a_bounded_number_of_single_images(tmp_path):
    (group,) = grouped(read_runs([make_run(tmp_path, "unet")]))
    (member,) = group.members
    n = 2 * MOST_IMAGES + 1
    old = member.evaluated.per_image
    wide = {name: np.resize(getattr(old.counts, name), n) for name in COUNTS}
    names = tuple(f"{i}.png" for i in range(n))
    big = replace(
        old,
        images=names,
        prompts=("upper left",) * n,
        groups=names,
        dice=np.resize(old.dice, n),
        counts=type(old.counts)(**wide),
    )
    found = single_figures(
        replace(
            group, members=(replace(member, evaluated=replace(member.evaluated, per_image=big)),)
        )
    )
    assert (
        len(found["images"]) == MOST_IMAGES == len(found["area"]) == len(found["runs"][0]["dice"])
    )
    assert found["n"] == n
    assert (found["images"][0], found["images"][-1]) == (names[0], names[-1])
    assert found["texts"] == ["upper left"]


def test_a_table_of_another_split_is_refused(tmp_path):
    run = make_run(tmp_path, "unet")
    change(run, lambda summary: summary["protocol"].update(n=N + 1))
    with pytest.raises(CheckpointError, match=f"has {N} images of unet, its summary {N + 1}"):
        write_report(run)
    with pytest.raises(CheckpointError, match="no run given"):
        write_report([])


def study(run, name, summary):
    folder = run / "studies" / name
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def row_of(kind, severity=0.0, score=None, **more):
    row = {"kind": kind, "severity": severity, "n": N, **more}
    return row if score is None else {**row, "dice_per_image": value(score)}


def robustness(*rows, study="corruption", **protocol):
    own = {"run": "x", "method": "unet", "limit": None, "study_seed": 0, "seed": 0}
    words = {"study_commit": "abc", "zones": "phantom"}
    return {"study": study, "protocol": PROTOCOL | own | words | protocol, "rows": list(rows)}


def graded(base, kind="blur"):
    scores = [row_of(kind, s, base - s / 20) for s in (5, 3, 7)]
    return robustness(row_of("clean", 0.0, base), *scores)


def test_studies_of_several_runs_share_a_plot(tmp_path):
    runs = [make_run(tmp_path, name, name) for name in ("unet", "ssa")]
    for run, base in zip(runs, (0.9, 0.8), strict=True):
        study(run, "corruption-test", graded(base))
    prompts = robustness(
        row_of("clean", 0.0, 0.5), row_of("empty", 0.0, 0.2), study="prompts", data=EVIL
    )
    folder = study(runs[0], "prompts-test", prompts)
    (folder / "table.md").write_text(f"| kind |\n{EVIL}")
    found = read_studies(read_runs(runs))
    assert list(found) == ["corruption-test", "prompts-test"]
    ((caption, svg),) = study_plots("corruption-test", found["corruption-test"])
    assert caption == "blur"
    assert svg.count('class="line') == 4  # two lines and their samples
    assert svg.count("<circle") == 2 * 4  # the unchanged input and three severities
    head, lines = robustness_cells(found["corruption-test"])
    assert head == ["run", "kind", "severity", "dice_per_image", "n"]
    assert ["ssa", "blur", "7", "45.00 (40.00 to 50.00)", "6"] in lines
    ((caption, _),) = study_plots("prompts-test", found["prompts-test"])
    assert caption == "unet"  # kinds without grades: one plot per run
    source = write_report(runs).read_text()
    assert "<img src=x" not in source
    assert "Table of the study of unet" in source
    assert "ssa: data films, split test, n 6, seed 0" in source


@pytest.mark.parametrize(
    "rows",
    [
        [row_of("clean", 0.0, 0.7), row_of("empty", note="no prompt could be rewritten")],
        [row_of(EVIL, 0.0, 0.5, iou_to_clean={"n": 3, "mean": value(0.4), "median": 0.5})],
    ],
)
def test_conditions_without_figures_and_hostile_names_are_shown(tmp_path, rows):
    run = make_run(tmp_path, "unet")
    study(run, "x", robustness(*rows))
    (studies,) = read_studies(read_runs([run])).values()
    assert study_plots("x", studies)
    source = write_report(run).read_text()
    assert "<img src=x" not in source


def test_a_study_without_figures_shows_its_own_chart(tmp_path):
    run = make_run(tmp_path, "unet")
    folder = study(run, "odd", robustness())
    (folder / "plot.png").write_bytes(b"PNG")
    assert 'src="data:image/png;base64,UE5H"' in write_report(run).read_text()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"rows": 3}, "protocol: Field required"),
        ({"x": 1}, "not a summary"),
        (robustness() | {"rows": {"empty": {}}}, "rows: .*array"),
        (robustness("no row"), r"rows\.0: "),
        (robustness(row_of("clean", "strong")), r"rows\.0\.severity: .*'strong'"),
        (robustness(row_of("clean", 0.0, dice_per_image=0.7)), r"rows\.0\.dice_per_image"),
        (robustness() | {"study": "features"}, "study: "),
    ],
)
def test_a_study_of_another_form_is_an_error_that_names_file_and_field(tmp_path, content, said):
    run = make_run(tmp_path, "unet")
    study(run, "odd", content)
    with pytest.raises(CheckpointError, match=rf"studies/odd/summary\.json.*{said}"):
        write_report(run)


def contrast(a, b):
    """WCAG's ratio of two #rrggbb colours."""

    def light(colour):
        channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        r, g, b = (c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    high, low = sorted((light(a), light(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_words_and_lines_can_be_told_from_their_ground(tmp_path):
    source = write_report(make_run(tmp_path, "unet")).read_text()
    schemes = [
        dict(re.findall(r"--(\w[\w-]*): (#\w{6});", block))
        for block in re.findall(r":root \{(.*?)\}", source, re.S)
    ]
    light, dark, paper = (
        {"bg": "#ffffff", "ink": "#000000", "link": "#000000"} | scheme for scheme in schemes
    )
    for colours in (light, dark, paper):
        for word in ("ink", "soft", "link"):
            for ground in ("bg", "panel", "warn"):
                assert contrast(colours[word], colours[ground]) >= 4.5, (word, ground)
        for line in (*(f"s{i}" for i in range(7)), "mark"):
            assert contrast(colours[line], colours["bg"]) >= 3, line


def test_headers_captions_and_names_for_those_who_listen(tmp_path):
    source = write_report([make_run(tmp_path, name, name) for name in ("unet", "ssa")]).read_text()
    assert len(re.findall(r"<table\b", source)) == len(re.findall(r"<caption>", source))
    assert all("scope=" in tag for tag in re.findall(r"<th\b[^>]*>", source))
    assert all('aria-sort="none"' in tag for tag in re.findall(r'<th scope="col"[^>]*>', source))
    assert all(
        "aria-label=" in tag or "aria-hidden=" in tag for tag in re.findall(r"<svg\b[^>]*>", source)
    )
    assert '<html lang="en">' in source
    assert '<label for="filter">' in source
    ids = re.findall(r' id="([^"]+)"', source)
    assert len(ids) == len(set(ids))
    assert {link[1:] for link in re.findall(r'href="(#[^"]+)"', source)} <= set(ids)


def test_plots_escape_their_words_and_leave_gaps(tmp_path):
    nan = float("nan")
    line = Curve(
        EVIL, [1, 2, 3, 4], [0.1, nan, 0.3, 0.2], [0.0, nan, 0.2, nan], [0.2, nan, 0.4, nan]
    )
    for svg in (
        intervals_svg([(EVIL, 0.5, 0.4, 0.6)], EVIL, EVIL, [(EVIL, 0.45)]),
        lines_svg([line, Curve(EVIL, [1], [0.1])], EVIL, EVIL, EVIL),
        scatter_svg([0.1, nan], [0.2, 0.3], EVIL, EVIL, EVIL),
        histogram_svg([0.1, nan], EVIL, EVIL),
    ):
        assert "<img" not in svg
        assert "</script>" not in svg
        assert "nan" not in svg
    drawn = lines_svg([line], "x", "y", "t")
    assert re.search(r'd="M[^L"]+M[^L"]+L[^L"]+"', drawn)  # a point, a gap, two points
    assert drawn.count('class="ci') == 2
    assert scatter_svg([0.1, nan], [0.2, 0.3], "x", "y", "t").count(" hidden") == 1
    assert "n = 1, 1 without a value" in histogram_svg([0.1, nan], "x", "t")


def test_plots_place_what_they_draw():
    svg = intervals_svg([("a", 0.25, 0.2, 0.3), ("b", 0.75, 0.7, 0.8)], "x", "t", span=[0.0, 1.0])
    left, right = (float(x) for x in re.findall(r'<circle[^>]* cx="([\d.]+)"', svg))
    assert 0 < left < right < WIDTH
    a, b = (
        float(x)
        for x in re.findall(
            r'<circle[^>]* cx="([\d.]+)"', scatter_svg([1, 4], [0, 1], "x", "y", "t")
        )
    )
    assert (b - 54) / (a - 54) == pytest.approx(2, rel=0.02)  # drawn by square roots
    assert nice_ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1]
    assert nice_ticks(0.03, 0.07) == [0.03, 0.04, 0.05, 0.06, 0.07]
    for bad in (
        lambda: intervals_svg([], "x", "t"),
        lambda: lines_svg([Curve("a", [1], [float("nan")])], "x", "y", "t"),
    ):
        with pytest.raises(Exception, match="expected at least one"):
            bad()


def test_what_a_run_lacks_is_left_out(tmp_path):
    run = make_run(tmp_path, "unet")
    shutil.rmtree(run / "evaluation")
    (run / "log.jsonl").unlink()
    source = write_report([run, make_run(tmp_path, "ssa", "ssa")]).read_text()
    assert "Not evaluated yet: unet." in source
    (run / "log.jsonl").write_text("{")
    with pytest.raises(CheckpointError, match=r"log\.jsonl cannot be read"):
        write_report(run)
