"""Tables of result files of any kind."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from textmask.errors import CheckpointError
from textmask.evaluation.results_table import results_table
from textmask.evaluation.summary import (
    EvaluationSummary,
    RobustnessSummary,
    StudySummary,
    read_any_summary,
)
from textmask.studies.grid.summary import study_table
from textmask.studies.robustness.comparison import robustness_table


def summary_tables(paths: Sequence[Path], brief: bool = False) -> str:
    """Markdown of summaries: evaluations share a table per protocol, robustness studies one per study.

    Args:
        paths: summaries of `textmask evaluate` or `textmask study`, the most interesting first.
        brief: below a table of evaluations only its protocol.

    Raises:
        CheckpointError: a file is missing, is not a summary, or cannot be compared with the others.
    """
    evaluations, robustness, tables = [], [], []
    for path in paths:
        summary = read_any_summary(path)
        if isinstance(summary, EvaluationSummary):
            evaluations.append(summary)
        elif isinstance(summary, RobustnessSummary):
            robustness.append(summary)
        elif isinstance(summary, StudySummary):
            tables.append(study_table(summary))
        else:
            raise CheckpointError(
                f"{path} is not a summary: it has neither rows nor arms. Expected the summary.json of "
                "`textmask evaluate`, or the summary.json or study.json of `textmask study`."
            )

    if robustness:
        tables.insert(0, robustness_table(robustness))
    if evaluations:
        tables.insert(0, results_table(evaluations, brief))
    return "\n".join(tables)
