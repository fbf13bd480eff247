"""Evaluation: the figures against literal counts, the rows every table carries, leaks, other sizes, stored scores."""

import csv
import json
import shutil
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from filelock import FileLock

from textmask.data.loaders import SplitData, open_split
from textmask.data.manifest import Row
from textmask.data.shuffled_text import shuffled_prompts
from textmask.errors import CheckpointError, DataError
from textmask.evaluation import evaluate as module
from textmask.evaluation import scoring
from textmask.evaluation.baselines import find_neighbors
from textmask.evaluation.evaluate import EvaluationOptions, evaluate
from textmask.evaluation.protocol import provenance_lines
from textmask.evaluation.summary import EvaluationSummary, read_summary
from textmask.inference.predict_split import predict_split, resize_probability
from textmask.io.files import file_sha256, read_json, write_json
from textmask.methods.base import Method
from textmask.methods.registry import get_method
from textmask.metrics.surface import surface_distances
from textmask.runs.checkpoint import load_run, read_tensors, write_tensors
from textmask.runs.folder import write_names
from textmask.runs.layout import WEIGHTS
from textmask.text.grammar import parse
from textmask.training.loop import train
from textmask.types import Output

LEFT, RIGHT = "lower left lung", "upper right lung"


class Bright(Method):
    """Marks what is brighter than the middle; more of it when the sentence names zones. Remembers what it was given."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, image, text):
        self.seen += list(zip(text.prompts, text.zones.tolist(), strict=True))
        cut = 0.55 - 0.1 * (text.zones.sum(1) > 0).float()
        return Output((image.mean(1, keepdim=True) - cut[:, None, None, None]) * 50)


@pytest.fixture(scope="module")
def trained(phantom_manifest, tmp_path_factory):
    """Run folders of the three baselines, trained for a moment, and the decoded cache."""
    root = tmp_path_factory.mktemp("trained")
    for name in ("text_prior", "unet", "statement_unet"):
        recipe = get_method(name).recipe().smoke()
        train(
            recipe, phantom_manifest, root / "runs" / name, cache_dir=root / "cache", progress=False
        )
    return root


@pytest.fixture
def bench(trained, phantom_manifest, tmp_path):
    """A copy that a test may change, and `evaluate` with few resamples on it."""
    shutil.copytree(trained / "runs", tmp_path / "runs")

    def go(name="text_prior", split="test", manifest=phantom_manifest, **options):
        options = {"n_bootstrap": 50, "cache_dir": trained / "cache", **options}
        return evaluate(tmp_path / "runs" / name, manifest, split, EvaluationOptions(**options))

    go.runs, go.cache, go.manifest = tmp_path / "runs", trained / "cache", phantom_manifest
    return go


@pytest.fixture
def bright(bench, monkeypatch):
    """`evaluate` of `Bright` in the clothes of text_prior (which reads the sentence)."""
    method = Bright()

    def load(path, device):
        run = load_run(path, device)
        return replace(run, method=method) if run.recipe.method == "text_prior" else run

    monkeypatch.setattr(module, "load_run", load)
    bench.method = method
    return bench


def per_image(bench, name="text_prior", split="test"):
    with (bench.runs / name / "evaluation" / split / "per_image.csv").open(
        newline="", encoding="utf-8"
    ) as stream:
        return list(csv.DictReader(stream))


def stored_summary(bench, split="test"):
    path = bench.runs / "text_prior" / "evaluation" / split / "summary.json"
    return read_summary(path, EvaluationSummary)


def split_data(prompts):
    """A split of which only the sentences matter."""
    n = len(prompts)
    return SplitData(
        rows=tuple(Row(f"{i}.png", f"m{i}.png", text, "test") for i, text in enumerate(prompts)),
        images=np.zeros((n, 1, 4, 4), np.uint8),
        masks=np.zeros((n, 4, 4), np.uint8),
        has_mask=np.ones(n, bool),
        prompts=tuple(prompts),
        statements=tuple(parse(text) for text in prompts),
        keys=tuple(f"{i}.png" for i in range(n)),
        native_sizes=np.full((n, 2), 4),
    )


def literal(predictions, truths):
    """Per-image and pooled Dice and IoU, pixel by pixel."""
    dice, iou, total = [], [], [0, 0, 0]
    for p, t in zip(predictions, truths, strict=True):
        both = sum(1 for a, b in zip(p.ravel(), t.ravel(), strict=True) if a and b)
        either = sum(1 for a, b in zip(p.ravel(), t.ravel(), strict=True) if a or b)
        dice.append(2 * both / (both + either) if either else 1.0)
        iou.append(both / either if either else 1.0)
        total = [total[0] + both, total[1] + int(p.sum()), total[2] + int(t.sum())]
    pooled = 2 * total[0] / (total[1] + total[2])
    return np.array(dice), np.array(iou), pooled


def expected(data, cut, threshold=0.5):
    grey = np.asarray(data.images).mean(1) / 255
    return (1 / (1 + np.exp(-(grey - cut) * 50))).astype(np.float32) > threshold


def test_figures_equal_literal_counts(bright):
    summary = bright()
    data = open_split(bright.manifest, "test", (32, 32), bright.cache)
    for name, cut in (("text_prior", 0.45), ("text_prior, empty text", 0.55)):
        found = expected(data, cut)
        dice, iou, pooled = literal(found, data.masks)
        row = summary.rows[name]
        assert row.dice_per_image.estimate == pytest.approx(dice.mean(), abs=2e-3)
        assert row.iou_per_image.estimate == pytest.approx(iou.mean(), abs=2e-3)
        assert row.dice_pooled.estimate == pytest.approx(pooled, abs=2e-3)
        assert row.iou_pooled.estimate == pytest.approx(pooled / (2 - pooled), abs=2e-3)
        distances = surface_distances(found, data.masks)
        assert row.hd95_pooled_px.estimate == pytest.approx(distances.hd95_pooled.mean(), abs=0.2)
        assert row.assd_px.estimate == pytest.approx(distances.assd.mean(), abs=0.1)
        assert row.dice_per_image.low <= row.dice_per_image.estimate <= row.dice_per_image.high
        listed = [
            float(line["dice_per_image"]) for line in per_image(bright) if line["row"] == name
        ]
        assert listed == pytest.approx(dice, abs=2e-2)
    model, empty = (
        summary.rows[name].dice_pooled.estimate for name in ("text_prior", "text_prior, empty text")
    )
    difference = next(d for d in summary.differences if d.minus == "text_prior, empty text")
    assert difference.dice_pooled.estimate == pytest.approx(model - empty)
    assert model != pytest.approx(
        empty, abs=1e-3
    )  # or the text would have made no difference to this test


def test_the_model_is_given_the_sentences_the_table_names(bright):
    bright(surface=False)
    data = open_split(bright.manifest, "test", (32, 32), bright.cache)
    n = len(data)
    own, shuffled, empty = (bright.method.seen[i * n : (i + 1) * n] for i in range(3))
    assert [prompt for prompt, _ in own] == list(data.prompts)
    assert [prompt for prompt, _ in shuffled] == shuffled_prompts(data, 0)[0] != list(data.prompts)
    assert all(tuple(zones) == parse(prompt).bits() for prompt, zones in shuffled)
    assert all(prompt == "" and not any(zones) for prompt, zones in empty)
    texts = {
        kind: [r["text"] for r in per_image(bright) if r["row"] == kind]
        for kind in bright_rows(bright)
    }
    assert texts["text_prior, shuffled text"] == [prompt for prompt, _ in shuffled]
    assert set(texts["text_prior, empty text"]) == {""}
    assert texts["unet"] == texts["text_prior"] == list(data.prompts)


def bright_rows(bench):
    return list(dict.fromkeys(line["row"] for line in per_image(bench)))


@pytest.mark.parametrize(
    ("prompts", "same"),
    [
        ([LEFT] * 5 + [RIGHT] * 5, 0),
        ([LEFT] * 3 + [RIGHT] * 3 + ["middle left lung", "all right lung"], 0),
        ([LEFT] * 7 + [RIGHT] * 3, 4),
        ([LEFT] * 4, 4),
        (["One small polyp."] * 3 + ["Two polyps."] * 3, 0),
    ],
)
@pytest.mark.parametrize("seed", range(6))
def test_shuffling_leaves_as_few_equal_claims_as_the_data_allow(prompts, same, seed):
    """With m of n sentences of one claim at least max(0, 2m - n) positions keep it."""
    data = split_data(prompts)
    shuffled, count = shuffled_prompts(data, seed)
    assert sorted(shuffled) == sorted(prompts)
    assert count == same == sum(a == b for a, b in zip(shuffled, prompts, strict=True))
    assert (shuffled, count) == shuffled_prompts(data, seed)


def test_typing_variants_of_one_claim_count_as_the_same_and_seeds_differ():
    data = split_data([LEFT, "Lower  left lung.", RIGHT, "Upper right lung"] * 4)
    shuffled, same = shuffled_prompts(data, 0)
    assert same == 0
    assert all(
        parse(a).zones != parse(b).zones for a, b in zip(shuffled, data.prompts, strict=True)
    )
    assert len({tuple(shuffled_prompts(data, seed)[0]) for seed in range(8)}) > 4


def test_summary_on_disk_is_strict_json_and_equals_the_answer(bench):
    summary = bench()
    folder = bench.runs / "text_prior" / "evaluation" / "test"
    text = (folder / "summary.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail) == summary.model_dump(mode="json")
    assert stored_summary(bench) == summary
    assert list(summary.rows) == [
        "text_prior",
        "text_prior, shuffled text",
        "text_prior, empty text",
        "unet",
        "statement_unet",
    ]
    table = (folder / "table.md").read_text()
    for words in (
        "threshold 0.5",
        "both masks empty: one",
        "n = 8",
        "chosen by being the last epoch",
        "pooled directed",
        "seed 0",
    ):
        assert words in table
    assert summary.protocol.weights_sha256[:12] in table
    assert summary.protocol.data_hash == bench.manifest.hash()
    assert f"{summary.protocol.shuffled_same_claim} of 8" in table
    with pytest.raises(CheckpointError, match="textmask evaluate"):
        stored_summary(bench, "valid")


def test_same_seed_same_summary(bench):
    assert bench() == bench()


def test_an_untrained_baseline_is_named_with_its_command(bench):
    shutil.rmtree(bench.runs / "unet")
    (bench.runs / "statement_unet" / "result.json").unlink()  # still training
    summary = bench()
    assert "unet" not in summary.rows
    hint = "not trained; textmask train unet DATA --preset lite --out runs/unet"
    assert summary.missing_rows["unet"] == hint
    assert str(bench.runs.parent) not in summary.model_dump_json()
    assert "statement_unet" in summary.missing_rows
    assert (
        "not trained"
        in (bench.runs / "text_prior" / "evaluation" / "test" / "table.md").read_text()
    )


def test_a_method_that_reads_no_text_says_so_instead_of_repeating_itself(bench):
    summary = bench("unet")
    assert list(summary.rows) == ["unet", "text_prior", "statement_unet"]
    reasons = [summary.missing_rows[f"unet, {kind} text"] for kind in ("shuffled", "empty")]
    assert all("does not read the prompt" in reason for reason in reasons)
    assert not any("shuffled" in line for line in provenance_lines(summary))


def test_a_neighbour_that_another_process_evaluates_is_scored_but_not_written(bench):
    folder = bench.runs / "unet" / "evaluation" / "test"
    folder.parent.mkdir(parents=True)
    with FileLock(folder.parent / ".test.lock"):
        summary = bench("text_prior")
        assert "unet" in summary.rows
        assert not folder.exists()
    bench("text_prior")
    assert (folder / "scores.npz").is_file()


def test_neighbours_need_the_same_data_and_the_likest_is_taken(bench, trained):
    shutil.copytree(bench.runs / "unet", bench.runs / "a_unet_of_few")
    few = bench.runs / "a_unet_of_few" / "data.json"
    few.write_text(json.dumps(json.loads(few.read_text()) | {"labelled_rows": {"segment": 2}}))
    other = bench.runs / "statement_unet" / "data.json"
    other.write_text(json.dumps(json.loads(other.read_text()) | {"hash": "another"}))
    (bench.runs / "notes.txt").write_text("no run")
    run = load_run(bench.runs / "text_prior")
    assert {name: path.name for name, path in find_neighbors(run).items()} == {"unet": "unet"}
    given = [
        bench.runs / "a_unet_of_few",
        trained / "runs" / "text_prior",
        bench.runs / "unet",
        bench.runs / "unet",
    ]
    found = find_neighbors(run, given)
    assert list(found) == ["unet", "text_prior (text_prior)", "unet (unet)"]
    assert find_neighbors(run, [run.path]).keys() == {"unet"}  # never beside itself
    with pytest.raises(CheckpointError, match="run folder"):
        find_neighbors(run, [bench.runs / "gone"])


def test_a_run_of_the_same_method_beside_is_another_row(bench):
    shutil.copytree(bench.runs / "text_prior", bench.runs / "again")
    summary = bench(beside=[bench.runs / "again"])
    assert summary.rows["text_prior (again)"].dice_pooled == summary.rows["text_prior"].dice_pooled
    assert len(summary.rows) == 6


def moved(manifest, source, split):
    """The manifest with the rows of `source` in a split of another name."""
    return replace(
        manifest,
        rows=tuple(replace(r, split=split) if r.split == source else r for r in manifest.rows),
    )


def test_pictures_that_were_trained_on_are_refused(bench, monkeypatch):
    monkeypatch.setattr(module, "open_split", lambda *_: pytest.fail("decoded before the check"))
    with pytest.raises(DataError, match=r"24 images of split 'holdout' were trained on"):
        bench(split="holdout", manifest=moved(bench.manifest, "train", "holdout"))


def test_a_run_beside_that_was_trained_on_the_split_is_refused(bench):
    keys = [row.image for row in bench.manifest.rows_of("test")]
    run = bench.runs / "unet"
    write_json(
        run / "data.json",
        {**read_json(run / "data.json"), "names": write_names(run, {"train": keys})},
    )
    with pytest.raises(DataError, match=r"8 images .* were trained on by .*unet"):
        bench()


def test_the_train_split_itself_and_the_valid_split_are_allowed_and_marked(bench):
    assert bench(split="train", surface=False).protocol.n == 24
    on_valid = bench("unet", split="valid", surface=False).protocol
    assert "flatters" in on_valid.chosen_by
    on_test = bench("unet", surface=False).protocol
    assert on_test.chosen_by == "valid dice_per_image"
    assert on_test.hd95 == "not computed"


def test_a_split_without_masks_is_refused_before_anything_is_decoded(bench):
    rows = tuple(
        replace(r, mask=None, labelled=False) if r.split == "test" else r
        for r in bench.manifest.rows
    )
    with pytest.raises(DataError, match="8 images of split 'test' have no mask"):
        bench(manifest=replace(bench.manifest, rows=rows))


def test_a_baseline_of_another_size_is_scored_against_the_same_masks(bench, trained):
    recipe = get_method("text_prior").recipe().smoke().model_copy(update={"image_size": (48, 40)})
    train(
        recipe, bench.manifest, bench.runs / "larger", cache_dir=trained / "cache", progress=False
    )
    summary = bench(beside=[bench.runs / "larger"])
    row = summary.rows["text_prior (larger)"]
    assert row.size == (48, 40)
    data, sized = (
        open_split(bench.manifest, "test", size, bench.cache) for size in ((32, 32), (48, 40))
    )
    run = load_run(bench.runs / "larger")
    found = [
        resize_probability(p, (32, 32)) > 0.5 for p in predict_split(run.method, sized, run.recipe)
    ]
    dice, _, pooled = literal(found, data.masks)
    assert row.dice_per_image.estimate == pytest.approx(dice.mean())
    assert row.dice_pooled.estimate == pytest.approx(pooled)


def test_native_scoring_resizes_probabilities_to_each_mask(bright):
    summary = bright(native=True)
    data = open_split(bright.manifest, "test", (32, 32), bright.cache)
    full = open_split(bright.manifest, "test", (64, 64), bright.cache)
    probabilities = predict_split(Bright(), data, load_run(bright.runs / "text_prior").recipe)
    found = [cv2.resize(p.astype(np.float32), (64, 64)) > 0.5 for p in probabilities]
    dice, _, pooled = literal(found, full.masks)
    row = summary.rows["text_prior"]
    assert row.dice_per_image.estimate == pytest.approx(dice.mean())
    assert row.dice_pooled.estimate == pytest.approx(pooled)
    assert summary.protocol.size == ("each mask's own size",)
    true = sum(int(line["true"]) for line in per_image(bright) if line["row"] == "text_prior")
    assert true == int(full.masks.sum())


def predicted_rows(bench, **options):
    """Names of the rows that were predicted, not read."""
    names = []
    bench(surface=False, progress=lambda name, done, total: names.append(name), **options)
    return list(dict.fromkeys(names))


def test_scores_of_neighbours_are_stored_until_weights_or_code_change(bench, monkeypatch):
    monkeypatch.setattr(scoring, "git_commit", lambda: "abc")
    own = ["text_prior", "text_prior, shuffled text", "text_prior, empty text"]
    assert predicted_rows(bench) == [*own, "unet", "statement_unet"]
    first = stored_summary(bench)
    assert predicted_rows(bench) == own
    assert stored_summary(bench) == first
    assert predicted_rows(bench, native=True) == [*own, "unet", "statement_unet"]
    assert predicted_rows(bench, native=True) == own
    stored = bench.runs / "unet" / "evaluation" / "test" / "scores.npz"
    stored.write_bytes(stored.read_bytes()[:100])
    assert predicted_rows(bench, native=True) == [*own, "unet"]
    tensors, metadata = read_tensors(bench.runs / "unet" / WEIGHTS)
    write_tensors(
        bench.runs / "unet" / WEIGHTS,
        {name: value * 2 for name, value in tensors.items()},
        metadata,
    )
    result = bench.runs / "unet" / "result.json"
    told = json.loads(result.read_text())
    told["weights_sha256"] = file_sha256(bench.runs / "unet" / WEIGHTS)
    result.write_text(json.dumps(told))
    assert predicted_rows(bench, native=True) == [*own, "unet"]
    for commit, expected_rows in (
        ("abd", ["unet", "statement_unet"]),
        ("abd+changes", ["unet", "statement_unet"]),
    ):
        monkeypatch.setattr(scoring, "git_commit", lambda commit=commit: commit)
        assert predicted_rows(bench, native=True) == [*own, *expected_rows]
    assert predicted_rows(bench, native=True) == [
        *own,
        "unet",
        "statement_unet",
    ]  # edits have no name


def test_nothing_to_score_is_an_error_not_a_figure(bench):
    recipe = bench.runs / "text_prior" / "recipe.json"
    recipe.write_text(
        json.dumps(json.loads(recipe.read_text()) | {"empty_policy": "skip", "threshold": 0.999999})
    )
    black = bench.manifest.root / "black.png"
    cv2.imwrite(str(black), np.zeros((64, 64), np.uint8))
    rows = tuple(
        replace(r, mask="black.png") if r.split == "test" else r for r in bench.manifest.rows
    )
    with pytest.raises(DataError, match="nothing to score"):
        bench(manifest=replace(bench.manifest, rows=rows))


def test_one_patient_has_no_interval(bench):
    rows = tuple(replace(r, group="p1") if r.split == "test" else r for r in bench.manifest.rows)
    summary = bench(manifest=replace(bench.manifest, rows=rows))
    assert summary.protocol.n_groups == 1
    assert summary.rows["unet"].dice_per_image.low is None
    assert "nan" not in (bench.runs / "text_prior" / "evaluation" / "test" / "table.md").read_text()


def test_cases_are_the_best_the_median_and_the_worst(bright):
    bright(surface=False)
    folder = bright.runs / "text_prior" / "evaluation" / "test" / "cases"
    cases = json.loads((folder / "cases.json").read_text())["cases"]
    dice = sorted(
        (float(r["dice_per_image"]) for r in per_image(bright) if r["row"] == "text_prior"),
        reverse=True,
    )
    found = {
        kind: [c["dice_per_image"] for c in cases if c["kind"] == kind]
        for kind in ("best", "median", "worst")
    }
    assert found["best"] == pytest.approx(dice[:4], abs=1e-6)
    assert found["median"] == pytest.approx(dice[2:6], abs=1e-6)
    assert found["worst"] == pytest.approx(dice[::-1][:4], abs=1e-6)
    assert dice[0] > dice[-1]
    for case in cases:
        picture = cv2.imread(str(folder / case["file"]))
        assert picture.shape[1] >= 3 * 32


def test_a_cell_that_a_spreadsheet_would_run_is_escaped(bench):
    rows = list(bench.manifest.rows)
    first = next(i for i, row in enumerate(rows) if row.split == "test")
    rows[first] = replace(
        rows[first], text='=HYPERLINK("http://x","lower left lung")', group="@SUM(1)"
    )
    bench(manifest=replace(bench.manifest, rows=tuple(rows)), surface=False)
    lines = [
        line
        for line in per_image(bench)
        if line["image"] == rows[first].image and line["row"] == "text_prior"
    ]
    assert lines[0]["text"].startswith("'=")
    assert lines[0]["group"] == "'@SUM(1)"


def test_a_folder_that_cannot_be_written_is_a_clear_error(bench, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="file: cannot be written"):
        bench(out=tmp_path / "file" / "below", surface=False)
    assert bench(out=tmp_path / "elsewhere", surface=False).protocol.n == 8
    assert (tmp_path / "elsewhere" / "summary.json").exists()
    assert not (bench.runs / "text_prior" / "evaluation").exists()


class Failing(Method):
    def forward(self, image, text):
        raise RuntimeError("out of memory")


def test_predict_split_equals_one_forward_and_restores_the_mode(trained, phantom_manifest):
    run = load_run(trained / "runs" / "unet")
    data = open_split(phantom_manifest, "test", (32, 32), trained / "cache")
    run.method.train()
    seen = []
    found = predict_split(
        run.method, data, run.recipe, batch_size=3, progress=lambda *step: seen.append(step)
    )
    assert run.method.training
    assert seen == [(3, 8), (6, 8), (8, 8)]
    assert found.dtype == np.float16
    assert found.shape == (8, 32, 32)
    run.method.eval()
    image = torch.from_numpy(np.array(data.images)).float().div(255).expand(-1, 3, -1, -1)
    with torch.no_grad():
        whole = run.method(image, None).probability[:, 0].numpy()
    assert np.abs(found.astype(np.float32) - whole).max() < 1e-3  # half precision of the answer
    bf16 = predict_split(run.method, data, run.recipe.model_copy(update={"precision": "bf16"}))
    assert 0 < np.abs(bf16.astype(np.float32) - whole).max() < 0.05
    with pytest.raises(DataError, match="got 2 prompts for 8 images"):
        predict_split(run.method, data, run.recipe, prompts=["a", "b"])
    failing = Failing()
    with pytest.raises(RuntimeError, match="out of memory"):
        predict_split(failing, data, run.recipe)
    assert failing.training


def test_every_row_says_how_far_its_mask_obeys_its_sentence_beside_ceiling_and_floor(bench):
    summary = bench(zones="phantom")
    bounds = summary.agreement_bounds
    for name in ("all", "one_sided"):
        ceiling, floor = bounds.ceiling.subsets[name], bounds.floor.subsets[name]
        assert ceiling.side.f1.estimate >= floor.side.f1.estimate
        assert ceiling.n == floor.n
    for row in summary.rows.values():
        for score in row.agreement.all.places.values():
            value, precision, recall = score.f1.estimate, score.precision, score.recall
            assert 0 <= value <= 1
            if precision:
                assert value == pytest.approx(2 * precision * recall / (precision + recall))
    table = (bench.runs / "text_prior" / "evaluation" / "test" / "table.md").read_text("utf-8")
    assert "true masks (ceiling)" in table
    assert "masks of other images (floor)" in table
