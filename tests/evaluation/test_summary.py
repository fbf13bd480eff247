"""Result files: every committed one reads, round trips keep what is shown, and a wrong field is named."""

import json
from pathlib import Path

import pytest

from textmask.errors import CheckpointError
from textmask.evaluation.records import Value
from textmask.evaluation.summary import (
    VERSION,
    EvaluationSummary,
    RobustnessSummary,
    StudySummary,
    read_any_summary,
    read_summary,
    write_typed,
)
from textmask.studies.tables import summary_tables

RESULTS = Path(__file__).parents[2] / "results"
FILES = sorted(RESULTS.glob("*.json"))
EVALUATION = RESULTS / "qata-biclip.json"
STUDY = RESULTS / "study-semi_medref-1.json"  # the oldest form: without kind and title
ROBUSTNESS = RESULTS / "robustness-biclip-prompts.json"


def kept(old, new):
    """Whether a value holds everything that an older one held."""
    if isinstance(old, dict):
        return all(key in new and kept(value, new[key]) for key, value in old.items())
    if isinstance(old, list):
        return len(old) == len(new) and all(map(kept, old, new))
    return old == new


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_committed_file_reads_and_loses_nothing(path, tmp_path):
    summary = read_any_summary(path)
    if path.stem.startswith(("ambiguity-", "mix-")):
        assert summary is None
        return
    expected = {"study": StudySummary, "robustness": RobustnessSummary}
    assert type(summary) is expected.get(path.stem.partition("-")[0], EvaluationSummary)

    copy = tmp_path / "copy.json"
    write_typed(copy, summary)
    written = json.loads(copy.read_text("utf-8"))
    assert written["version"] == VERSION
    assert kept(json.loads(path.read_text("utf-8")), written)
    assert read_any_summary(copy) == summary
    assert summary_tables([copy]) == summary_tables([path])


def test_what_older_files_lack_is_filled():
    evaluation = read_summary(EVALUATION, EvaluationSummary)
    assert {found.arm for found in evaluation.differences} == {"biclip"} == {evaluation.model}
    study = read_summary(STUDY, StudySummary)
    assert (study.protocol.kind, study.protocol.title) == ("ablation", "few_labels of semi_medref")


def changed(tmp_path, source, edit):
    content = json.loads(source.read_text("utf-8"))
    edit(content)
    path = tmp_path / "changed.json"
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("source", "edit", "field"),
    [
        (EVALUATION, lambda c: c["protocol"].pop("n"), r"protocol\.n: Field required"),
        (EVALUATION, lambda c: c["protocol"].update(n="2113"), r"protocol\.n: .*'2113'"),
        (EVALUATION, lambda c: c["protocol"].update(n=True), r"protocol\.n: .*True"),
        (
            EVALUATION,
            lambda c: c["rows"]["unet"]["dice_pooled"].update(estimate=float("nan")),
            r"rows\.unet\.dice_pooled\.estimate: Input should be a finite number",
        ),
        (EVALUATION, lambda c: c["rows"]["unet"].pop("dice_pooled"), r"rows\.unet\.dice_pooled"),
        (EVALUATION, lambda c: c.update(rows={}), r"changed\.json .*: rows"),
        (EVALUATION, lambda c: c.update(rows=[]), r"changed\.json .*: rows"),
        (EVALUATION, lambda c: c.update(differences=[3]), r"differences\.0"),
        (EVALUATION, lambda c: c.update(differences=None), r"differences"),
        (STUDY, lambda c: c.pop("protocol"), "protocol: Field required"),
        (STUDY, lambda c: c["arms"][0].update(seeds=3), r"arms\.0\.seeds"),
        (ROBUSTNESS, lambda c: c.update(study="ablation"), r"study: .*'prompts'.*found 'ablation'"),
        (ROBUSTNESS, lambda c: c["rows"][3].update(dice_pooled=0.5), r"rows\.3\.dice_pooled"),
        (ROBUSTNESS, lambda c: c.update(version=VERSION + 1), "Upgrade textmask"),
    ],
)
def test_a_wrong_field_is_one_error_that_names_file_and_field(tmp_path, source, edit, field):
    path = changed(tmp_path, source, edit)
    with pytest.raises(CheckpointError, match=field) as error:
        read_any_summary(path)
    assert "changed.json" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_of_another_kind_or_none_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="summary of `textmask evaluate`, expected one of"):
        read_summary(EVALUATION, StudySummary)
    with pytest.raises(CheckpointError, match=r"does not exist\. Make it with `textmask evaluate`"):
        read_summary(tmp_path / "gone.json", EvaluationSummary)
    (tmp_path / "other.json").write_text('{"x": 1}')
    assert read_any_summary(tmp_path / "other.json") is None
    with pytest.raises(CheckpointError, match=r"other\.json is not a summary"):
        summary_tables([tmp_path / "other.json"])


def test_unknown_keys_of_a_file_are_ignored_and_records_cannot_change(tmp_path):
    path = changed(tmp_path, EVALUATION, lambda c: c["protocol"].update(weather="fine"))
    assert read_summary(path, EvaluationSummary) == read_summary(EVALUATION, EvaluationSummary)
    with pytest.raises(ValueError, match="frozen"):
        Value(estimate=1.0).estimate = 2.0


def test_every_summary_is_a_table_for_pandas(monkeypatch):
    # pandas is optional: what it is given is looked at
    monkeypatch.setattr("textmask.evaluation.summary.data_frame", list)
    study = read_summary(STUDY, StudySummary)
    records = study.to_pandas()
    assert [record["arm"] for record in records] == [arm.arm for arm in study.arms]
    assert records[0]["dice_per_image"] == study.arms[0].dice_per_image.estimate
    assert records[0]["dice_per_image_low"] == study.arms[0].dice_per_image.low
    assert records[0]["n_seeds"] == len(study.arms[0].seeds)

    evaluation = read_summary(EVALUATION, EvaluationSummary)
    assert [record["row"] for record in evaluation.to_pandas()] == list(evaluation.rows)
    robustness = read_summary(ROBUSTNESS, RobustnessSummary)
    assert [record["kind"] for record in robustness.to_pandas()] == [
        r.kind for r in robustness.rows
    ]
