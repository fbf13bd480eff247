"""The ledger of claims: its file, its rule, its page, and that the committed page is what both give."""

import io
import json
import shlex
from dataclasses import replace
from pathlib import Path

import click
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from textmask.cli.app import app
from textmask.data.phantom import PhantomConfig, write_phantoms
from textmask.errors import CheckpointError, ConfigError
from textmask.evaluation.records import (
    ArmResult,
    ListRecord,
    SeedFigures,
    StudyDifference,
    Value,
)
from textmask.evaluation.summary import StudyProtocol, StudySummary, write_typed
from textmask.methods.registry import get_method, list_methods
from textmask.runs.data_options import DataOptions
from textmask.runs.read_data import read_data
from textmask.studies.claims.differences import read_image_scores, read_results
from textmask.studies.claims.ledger import ClaimGroup, LedgerEntry, PaperClaim, ledger, read_ledger
from textmask.studies.claims.page import claims_chart, claims_page, page, write_claims
from textmask.studies.claims.verdicts import (
    ClaimResult,
    judge_claims,
    rule,
    tally,
)

ROOT = Path(__file__).parents[3]
SMALL = """
[papers.ssa]
title = "SSA: a paper"
metric = "dice_pooled"
[data]
"QaTa-COV19" = "qata"
[reasons]
"no data" = "The data are not here."
[[groups]]
paper = "ssa"
table = "Table II"
data = "QaTa-COV19"
file = "study-*.json"
study = "table2"
labels = 5.0
commands = ["textmask study ablation ssa DATA --table table2"]
claims = [
  { claim = "row 4 minus row 1: both", a = [91.65, 84.60], b = [90.64, 82.89], arm = "4", minus = "1" },
  { claim = "row 1 minus row 2", a = [90.64, 82.89], b = [90.92, 83.36], arm = "1", minus = "2", blocked = "no data" },
  { claim = "row 4 minus LViT", a = [91.65, 84.60], b = [83.66, 75.11], blocked = "no data" },
]
[[sizes]]
paper = "ssa"
table = "Table I"
claim = "a tiny net"
millions = 1.0
method = "ukan"
"""


def difference(arm, minus, estimate, low, high, **more):
    value = Value(estimate=estimate, low=low, high=high)
    shared = {
        "seeds": (0, 1),
        "n": 9,
        "dice_per_image": value,
        "dice_per_image_by_seed": (),
        "dice_per_image_over_seeds": None,
        "dice_pooled": value,
        "dice_pooled_by_seed": (),
        "dice_pooled_over_seeds": None,
    }
    return StudyDifference(arm=arm, minus=minus, **{**shared, **more})


def study(*differences, labels=0.05, **protocol):
    shared = {
        "kind": "ablation",
        "title": "table2 of ssa",
        "method": "ssa",
        "study": "table2",
        "preset": "lite",
        "settings": (),
        "data": "qata-cov19-v2 (csv)",
        "data_hash": "a",
        "split": "test",
        "size": (8, 8),
        "empty_policy": "one",
        "hd95": "",
        "n_bootstrap": 100,
        "n": 9,
        "n_groups": 9,
        "labelled_fraction": labels,
    }
    return StudySummary(
        protocol=StudyProtocol(**{**shared, **protocol}), arms=(), differences=differences
    )


def altered(entry, **fields):
    return entry.model_copy(update=fields)


GOOD = difference("4", "1", 0.02, 0.005, 0.03, dice_pooled_by_seed=(0.01, 0.03))


def judged(**summaries):
    """Verdicts on the small ledger, of files called study-NAME.json."""
    return judge_claims(
        read_ledger(SMALL), {f"study-{name}.json": summary for name, summary in summaries.items()}
    )


@pytest.mark.parametrize(
    ("claimed", "low", "high", "seeds", "verdict", "extent"),
    [
        (1.0, 0.5, 2.0, (), "direction seen", "inside"),
        (1.0, 1.5, 2.0, (1.6, 1.9), "direction seen", "smaller"),
        (1.0, 0.1, 0.9, (0.2,), "direction seen", "larger"),
        (1.0, 0.1, 0.9, (1.2, -0.1), "not reproduced", "larger"),  # a seed says otherwise
        (1.0, -0.1, 3.0, (), "not reproduced", "inside"),
        (1.0, 0.0, 3.0, (), "not reproduced", "inside"),
        (1.0, -2.0, -0.5, (-1.0,), "contrary", "larger"),
        (-1.0, -2.0, -0.5, (-1.0,), "direction seen", "inside"),
        (-1.0, -0.8, -0.5, (), "direction seen", "larger"),
        (-1.0, 0.5, 2.0, (), "contrary", "larger"),
        (-1.0, 0.5, 2.0, (3.0, -1.0), "not reproduced", "larger"),
    ],
)
def test_the_rule(claimed, low, high, seeds, verdict, extent):
    result = ClaimResult((low + high) / 2, low, high, seeds, None, (0,), 9, "x.json", "qata")
    assert rule(claimed, result) == (verdict, extent)


def test_a_new_file_changes_the_verdict():
    first, second, third = judged()
    assert (first.verdict, second.verdict, third.verdict) == (
        "not yet run",
        "not testable",
        "not testable",
    )
    assert second.why == third.why == "no data"
    first, second, _ = judged(a=study(GOOD, difference("2", "1", -0.01, -0.02, -0.005)))
    assert (first.verdict, first.extent, first.result.file) == (
        "direction seen",
        "inside",
        "study-a.json",
    )
    assert first.short == ("budgets not stored", "2 seeds", "levels not stored")
    assert (first.result.low, first.result.high, first.result.by_seed) == (0.5, 3.0, (1.0, 3.0))
    # the file has row 2 minus row 1; the claim is row 1 minus row 2, and a result outweighs a reason
    assert (second.verdict, second.result.estimate) == ("contrary", 1.0)
    assert (second.result.low, second.result.high) == (0.5, 2.0)


def arm(name, dice, steps=(100, 100, 100)):
    value = Value(estimate=dice, low=dice, high=dice)
    each = (dice,) * 3
    seeds = SeedFigures(
        dice_per_image=each,
        dice_pooled=each,
        iou_per_image=each,
        iou_pooled=each,
        hd95_pooled_px=each,
        assd_px=each,
    )
    return ArmResult(
        dice_per_image=value,
        dice_pooled=value,
        iou_per_image=value,
        iou_pooled=value,
        arm=name,
        title=name,
        method=None,
        settings=(),
        seeds=(0, 1, 2),
        n=9,
        steps=steps,
        seconds=(1.0, 1.0, 1.0),
        by_seed=seeds,
    )


THREE = difference(
    "4", "1", 0.02, 0.005, 0.03, seeds=(0, 1, 2), dice_pooled_by_seed=(0.01, 0.03, 0.02)
)
CLEAR = Value(estimate=0.02, low=0.01, high=0.03)


@pytest.mark.parametrize(
    ("arms", "found", "short"),
    [
        ((arm("4", 0.90), arm("1", 0.88)), THREE, ()),
        ((arm("4", 0.867), arm("1", 0.857)), THREE, ()),
        ((arm("4", 0.90), arm("1", 0.85)), THREE, ("other levels",)),
        ((arm("4", 0.97), arm("1", 0.90)), THREE, ("other levels",)),
        ((arm("4", 0.90), arm("1", 0.88, (100, 100, 99))), THREE, ("unequal budgets",)),
        ((arm("4", 0.90), arm("1", 0.88, None)), THREE, ("budgets not stored",)),
        ((arm("4", 0.90),), THREE, ("budgets not stored", "levels not stored")),
        ((arm("4", 0.90), arm("1", 0.88)), GOOD, ("2 seeds",)),
        (
            (arm("4", 0.90), arm("1", 0.88)),
            altered(GOOD, dice_pooled_over_seeds=CLEAR),
            (),
        ),
        (
            (arm("4", 0.90), arm("1", 0.88)),
            altered(GOOD, seeds=(0,), dice_pooled_by_seed=(0.02,)),
            ("one seed",),
        ),
    ],
)
def test_what_a_direction_lacks_to_be_reproduced(arms, found, short):
    """The paper prints 91.65 and 90.64."""
    summary = altered(study(found), arms=arms)
    verdict = judged(a=summary)[0]
    assert verdict.short == short
    assert verdict.verdict == ("direction seen" if short else "reproduced")


def test_a_stand_in_is_named_and_reproduces_nothing():
    text = SMALL.replace('minus = "1" }', 'minus = "1", stand_in = "another teacher" }')
    summary = altered(study(THREE), arms=(arm("4", 0.90), arm("1", 0.88)))
    first, *_ = judge_claims(read_ledger(text), {"study-a.json": summary})
    assert (first.verdict, first.short) == ("direction seen", ("another teacher",))
    line = page(read_ledger(text), [first], [], "x.png")
    assert "**direction seen** (another teacher), size: inside" in line
    assert "| 90.00, 88.00 | equal | 9, seeds 0, 1, 2 |" in line


def test_distances_are_judged_by_the_scores_of_single_images(tmp_path):
    """Twenty images, each 3 px nearer; one without a distance is left out."""
    summary = json.loads((ROOT / "results" / "qata-ssa-mmi_unet.json").read_text("utf-8"))
    folder = tmp_path / "scores"
    folder.mkdir()
    lines = ["row,image,group,dice_per_image,iou_per_image,intersection,predicted,true,assd_px"]
    for i in range(20):
        for row, distance in (("ssa", 5 + i % 3), ("mmi_unet", "nan" if i == 7 else 8 + i % 3)):
            lines.append(f"{row},{i}.png,,0.5,0.4,1,2,2,{distance}")
    (folder / "evaluated.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "evaluated.json").write_text(json.dumps(summary))

    text = SMALL.replace('study = "table2"\nlabels = 5.0\n', "").replace("study-*", "evaluated")
    text = text.replace(
        'a = [91.65, 84.60], b = [90.64, 82.89], arm = "4", minus = "1"',
        'a = [3.38], b = [9.03], metric = "assd_px", arm = "ssa", minus = "mmi_unet"',
    )
    found = judge_claims(read_ledger(text), read_results(tmp_path), read_image_scores(tmp_path))
    assert found[0].verdict == "direction seen"
    assert found[0].result.estimate == -3.0
    assert judge_claims(read_ledger(text), read_results(tmp_path))[0].verdict == "not yet run"


def test_over_seeds_is_turned_with_the_difference():
    over = Value(estimate=0.01, low=-0.01, high=0.03)
    _, second, _ = judged(
        a=study(difference("2", "1", 0.01, 0.005, 0.02, dice_pooled_over_seeds=over))
    )
    assert second.result.over_seeds == (-3.0, 1.0)


@pytest.mark.parametrize(
    "summary",
    [
        study(GOOD, labels=0.25),
        study(GOOD, labels=None),
        study(GOOD, study="table3"),
        study(difference("4", "1", 0.02, None, None)),
        study(),
    ],
    ids=[
        "other labels",
        "unknown labels",
        "other list",
        "no interval",
        "no such row",
    ],
)
def test_what_is_no_result_of_the_claim(summary):
    assert judged(a=summary)[0].verdict == "not yet run"


def test_a_metric_that_the_file_lacks_is_no_result_of_the_claim():
    text = SMALL.replace(
        'a = [91.65, 84.60], b = [90.64, 82.89], arm = "4"',
        'a = [12.71], b = [31.89], metric = "assd_px", arm = "4"',
    )
    first, *_ = judge_claims(read_ledger(text), {"study-a.json": study(GOOD)})
    assert (first.verdict, first.why) == (
        "not yet run",
        "study-a.json has no paired interval of assd_px",
    )


def test_a_list_of_labelled_images_is_a_share():
    listed = ListRecord(file="few.txt", sha256="", rows=57, train_rows=1140)
    assert judged(a=study(GOOD, labels=None, labelled_list=listed))[0].verdict == "direction seen"
    assert (
        judged(a=study(GOOD, labels=None, labelled_list=altered(listed, rows=5)))[0].verdict
        == "not yet run"
    )


def test_the_papers_data_come_first_then_seeds_then_images():
    worse = difference("4", "1", -0.02, -0.03, -0.01)
    more = altered(worse, seeds=(0, 1, 2))
    first, *_ = judged(
        a=study(more, data="kvasir-seg"), b=study(GOOD), c=study(altered(worse, n=8))
    )
    assert (first.verdict, first.result.file, first.stand_in) == (
        "direction seen",
        "study-b.json",
        False,
    )
    first, *_ = judged(b=study(GOOD), c=study(altered(more, n=5)))
    assert (first.verdict, first.result.file) == ("contrary", "study-c.json")
    first, *_ = judged(a=study(GOOD, data="kvasir-seg"))
    assert (first.verdict, first.stand_in, first.short[0]) == (
        "direction seen",
        True,
        "other data",
    )


def test_summaries_of_evaluate_and_of_changed_inputs(tmp_path):
    value = {"estimate": -0.1, "low": -0.2, "high": -0.05}

    def shortened(name, edit):
        content = json.loads((ROOT / "results" / name).read_text("utf-8"))
        content["protocol"].update(data="qata", n=9, seed=3)
        edit(content)
        return content

    evaluated = shortened(
        "qata-ssa-mmi_unet.json",
        lambda c: c["differences"][0].update(minus="unet", dice_pooled=value),
    )
    changed = shortened("robustness-ssa-corruption.json", lambda c: None)
    changed["rows"] = [
        {"kind": "clean", "severity": 0.0, "n": 9},
        {"kind": "low_dose", "severity": 140.0, "n": 9, "dice_pooled_minus_clean": value},
    ]
    for name, summary in {"evaluated": evaluated, "changed": changed, "other": {"x": 1}}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(summary))
    found = read_results(tmp_path)
    assert sorted(found) == ["changed.json", "evaluated.json"]
    text = SMALL.replace('study = "table2"\nlabels = 5.0\n', "")
    for file, arm, minus, seeds in (
        ("evaluated", "ssa", "unet", (3,)),
        ("changed", "low_dose-140", "clean", (3,)),
    ):
        small = text.replace("study-*.json", f"{file}.json").replace(
            '"4", minus = "1"', f'"{arm}", minus = "{minus}"'
        )
        first, *_ = judge_claims(read_ledger(small), found)
        assert (first.verdict, first.result.seeds, first.result.estimate) == (
            "contrary",
            seeds,
            -10.0,
        )
    with pytest.raises(CheckpointError, match="no such folder"):
        read_results(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("[papers.ssa]", "[papers", "not valid TOML"),
        ('table = "Table II"', 'table = "Table II"\nverdict = "reproduced"', "verdict"),
        ('paper = "ssa"\ntable = "Table II"', 'paper = "asa"\ntable = "Table II"', "unknown paper 'asa'; valid: ssa"),
        ('data = "QaTa-COV19"', 'data = "QaTa"', "unknown data set 'QaTa'"),
        ('84.60], b = [83.66, 75.11], blocked = "no data"', '84.60], b = [83.66, 75.11], blocked = "gone"', "'gone'"),
        ('84.60], b = [83.66, 75.11], blocked = "no data"', "84.60], b = [83.66, 75.11]", "neither a file"),
        ('b = [83.66, 75.11]', "b = [83.66]", "as many"),
        ('b = [83.66, 75.11]', 'b = [83.66, "75.11"]', "valid"),
        ("row 4 minus LViT", "row 4 minus row 1: both", "is listed twice"),
        ('commands = ["textmask study ablation ssa DATA --table table2"]\n', "", "no command"),
        ('minus = "1" }', 'minus = "1", metric = "assd_px" }', "single values"),
    ],
)  # fmt: skip
def test_a_ledger_that_cannot_be_is_refused(old, new, said):
    assert SMALL.count(old) == 1
    with pytest.raises(ConfigError, match=said):
        read_ledger(SMALL.replace(old, new))


def entry(a, b, metric="dice_pooled"):
    claim = PaperClaim(claim="x", a=a, b=b)
    return LedgerEntry(
        ClaimGroup(paper="ssa", table="I", data="x", claims=(claim,)), claim, metric, (), ""
    )


@pytest.mark.parametrize(
    ("a", "b", "protocol"),
    [
        ((91.65, 84.60), (90.64, 82.89), "pooled"),
        ((85.25, 76.97), (79.02, 69.46), "per image"),
        ((90.59, 82.81), (80.42, 70.81), "mixed"),
        ((91.65, 84.60), (84.39, 72.35), "impossible"),
        ((84.60,), (84.58,), "no IoU printed"),
    ],
)
def test_protocol_and_difference_of_a_claim(a, b, protocol):
    assert entry(a, b).protocol == protocol
    assert entry(a, b).difference == pytest.approx(a[0] - b[0], abs=1e-9)
    assert entry((12.71,), (31.89,), "hd95_pooled_px").protocol == "px"


def test_the_ledger_covers_the_papers_and_their_rows_keep_their_protocol():
    entries = ledger().entries()
    assert len(entries) > 150
    assert {found.group.paper for found in entries} == {
        "c2seg",
        "ssa",
        "biclip",
        "dusss",
        "semi_medref",
    }
    of_metric = {"dice_pooled": "pooled", "dice_per_image": "per image"}
    for found in entries:
        if found.protocol in ("pooled", "per image"):
            assert found.protocol == of_metric[found.metric], found.claim.claim


def test_arms_of_the_ledger_exist():
    """A result file of an ablation can only hold arms that its method lists."""
    arms = {name: set() for name in list_methods()}
    for name in arms:
        for listed in get_method(name).ablation_tables.values():
            arms[name] |= {arm.name for arm in listed}
    checked = 0
    for found in ledger().entries():
        for source in found.sources:
            if source.study not in ("", "labels"):
                listed = {
                    arm.name for arm in get_method(found.group.paper).ablation_tables[source.study]
                }
                assert {source.arm, source.minus} <= listed, source
                checked += 1
    assert checked > 50


def test_commands_of_the_ledger_parse():
    """Every command is one of this command line, its options too, and names a list and arms that exist."""
    root = typer.main.get_command(app)
    for line in {command for group in ledger().groups for command in group.commands}:
        words = shlex.split(line)
        assert words.pop(0) == "textmask"
        command, path = root, []
        while isinstance(command, click.Group) or hasattr(command, "commands"):
            path.append(words.pop(0))
            command = command.commands.get(path[-1])
        if command is None:
            assert path in (["study", "labels"], ["study", "corruption"]), line
            continue
        options = command.make_context(" ".join(path), words, resilient_parsing=False).params
        if path == ["study", "ablation"]:
            names = {
                arm.name for arm in get_method(options["method"]).ablation_tables[options["table"]]
            }
            assert set(filter(None, options["arms"].split(","))) <= names, line


def test_the_committed_page_is_what_ledger_and_results_give():
    text = (ROOT / "docs" / "claims.md").read_text("utf-8")
    assert claims_page(ROOT / "results") == text, (
        "docs/claims.md is out of date: textmask study claims"
    )
    assert (ROOT / "docs" / "claims.png").stat().st_size < 100_000


def test_page_and_chart_of_a_small_ledger():
    small = read_ledger(SMALL)
    found = judged(a=study(GOOD, data="kvasir-seg (csv)"))
    text = page(small, found, [], "x.png")
    line = next(line for line in text.splitlines() if line.startswith("| row 4 minus row 1"))
    assert line == (
        "| row 4 minus row 1: both | 91.65 - 90.64 = +1.01 | pooled | **direction seen** (other data, "
        "budgets not stored, 2 seeds, levels not stored), size: inside | +2.00 (+0.50 to +3.00) |  | not stored | "
        "9, seeds 0, 1 | `study-a.json` |"
    )
    assert (
        "- row 4 minus row 1: here on kvasir-seg in place of QaTa-COV19, 5 % of train labelled, preset lite."
        in text
    )
    assert (
        "| row 4 minus LViT | 91.65 - 83.66 = +7.99 | mixed | not testable (no data) |  |  |  |  |  |"
        in text
    )
    assert "| all | 0 | 1 | 0 | 0 | 2 | 0 | 3 |" in text
    assert Image.open(io.BytesIO(claims_chart(found))).format == "PNG"
    assert claims_chart(found) == claims_chart(found)
    other = [replace(found[0], result=replace(found[0].result, estimate=2.5)), *found[1:]]
    assert claims_chart(other) != claims_chart(found)
    assert claims_chart(judged()) == b""
    assert "x.png" not in page(small, judged(), [], "x.png")


def test_the_command_writes_page_and_chart(tmp_path, monkeypatch):
    monkeypatch.setattr("textmask.studies.claims.page.ledger", lambda: read_ledger(SMALL))
    results = tmp_path / "results"
    results.mkdir()
    write_typed(results / "study-a.json", study(GOOD))
    out = tmp_path / "page.md"
    verdicts = write_claims(results, out)
    assert tally(verdicts) == {"direction seen": 1, "not testable": 2, "not reproduced": 1}
    assert "](page.png)" in out.read_text()
    assert (tmp_path / "page.png").exists()
    assert (
        "| a tiny net | Table I | 1 | 6.36 | **not reproduced** | `textmask methods show ukan` |  |"
        in out.read_text()
    )


def commands_of(*path):
    """The distinct commands of the ledger below `textmask PATH`, as words."""
    lines = sorted({command for group in ledger().groups for command in group.commands})
    found = [shlex.split(line)[1:] for line in lines]
    return [words for words in found if words[: len(path)] == list(path)]


def ablation_tables():
    """(method, table) -> up to two arms that a command of the ledger compares.

    The arms of `few_labels` set their own hundreds of steps; their recipes are those of the other tables.
    """
    found = {}
    for words in commands_of("study", "ablation"):
        method, table = words[2], words[words.index("--table") + 1]
        if table == "few_labels":
            continue
        arms = [arm.name for arm in get_method(method).ablation_tables[table]]
        if "--arms" in words and "paper" not in words:
            arms = words[words.index("--arms") + 1].split(",")
        found.setdefault((method, table), arms[:2])
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("table", "arms"), ablation_tables().items(), ids=str)
def test_ablations_of_the_ledger_run_in_their_smallest_form(table, arms, tmp_path):
    counts = {"train": 8, "valid": 2, "test": 2}
    data = write_phantoms(tmp_path / "data", counts, PhantomConfig(size=(32, 32)), seed=0)
    small = ["--preset", "smoke", "--set", "image_size=[32,32]", "--labelled-fraction", "0.5"]
    small += ["--arms", ",".join(arms), "--quiet", "--cache-dir", str(tmp_path / "cache")]
    words = ["study", "ablation", table[0], str(data), "--table", table[1], *small]
    done = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert len(read_results(tmp_path / "out")["study.json"].arms) == len(arms)


def test_data_of_the_ledger_have_the_splits_that_its_studies_need(data_root):
    """With the options of each command: CVC-ClinicDB has no valid split of its own."""
    checked = set()
    for words in commands_of("study"):
        name = words[3]
        if words[1] not in ("ablation", "labels") or not (data_root / name).is_dir():
            continue
        held = float(words[words.index("--hold-out") + 1]) if "--hold-out" in words else 0.0
        options = DataOptions(hold_out=held, merge_valid="--merge-valid" in words)
        if (name, options) in checked:
            continue
        checked.add((name, options))
        manifest = read_data(data_root / name, options)
        assert {"train", "valid", "test"} <= {row.split for row in manifest.rows}, words
    assert {name for name, _ in checked} == {"qata-cov19-v2", "cvc-clinicdb", "monuseg-lvit"}
