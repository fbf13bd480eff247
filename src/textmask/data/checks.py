"""Checks of a data set: leakage between splits, prompts that contradict their masks, files that do not fit."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from itertools import chain

from textmask.data.check_report import SEVERITIES, CheckReport, part_of
from textmask.data.claim_checks import (
    LocatedClaim,
    check_absence,
    check_lateral,
    check_laterality,
    check_sides,
)
from textmask.data.facts import Facts, distinct_images, measure
from textmask.data.manifest import Manifest, Row
from textmask.data.mask_checks import (
    check_coverage,
    check_images,
    check_shared_masks,
    check_tags,
)
from textmask.data.mask_scan import decide_rule
from textmask.data.mask_sizes import may_be_fitted
from textmask.data.name_checks import check_names
from textmask.data.near_identical import near_identical
from textmask.data.published import compare_counts
from textmask.data.splits import READ_SPLITS, unread_splits
from textmask.errors import DataError, DataWarning, PromptWarning
from textmask.progress import Progress
from textmask.statement import Statement
from textmask.text.grammar import parse


def check(
    manifest: Manifest, *, pixels: bool = True, progress: Progress | None = None
) -> CheckReport:
    """Check a data set for leakage, contradictions and unreadable files.

    Args:
        manifest: the data set.
        pixels: also read every image and mask (about 1 ms per 224 x 224 pair).
        progress: called with (task, rows done, rows in total) while pixels are read.
    """
    report = CheckReport(manifest.name or str(manifest.root))
    report.measured.update(
        rows=len(manifest), splits=manifest.splits, declared_laterality=manifest.laterality
    )
    _check_counts(manifest, report)
    if unread := unread_splits(manifest):
        unknown = [row for row in manifest.rows if row.split not in READ_SPLITS]
        report.add("unread-split", "warning", f"{unread[0].upper()}{unread[1:]}", unknown)
    _check_groups(manifest, report)
    statements = _check_prompts(manifest, report)
    if pixels:
        manifest = _check_values(manifest, report, progress)
        facts = measure(manifest, progress)
        _check_files(facts, report, fitted=manifest.resize_masks)
        _check_copies(facts, report)
        _check_masks(facts, report)
        check_images(facts, report)
        check_shared_masks(facts, report)
        check_coverage(facts, report)
        check_tags(facts, report)
        if manifest.classes:
            check_names(manifest, report)

        # what prompts claim, against what their masks show
        claims = []
        for fact in facts:
            if fact.left_share is not None:
                claims.append(LocatedClaim(fact, statements[fact.row.text]))
        convention = check_laterality(manifest, claims, report)
        check_sides(claims, convention, report)
        check_lateral(claims, report)
        check_absence(facts, statements, report)

    report.findings.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    return report


def _check_values(manifest: Manifest, report: CheckReport, progress: Progress | None) -> Manifest:
    """The manifest with its mask rule; without one if the values of the masks do not give it."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", DataWarning)
        try:
            manifest = decide_rule(manifest, progress=progress)
        except DataError as error:
            report.add("mask-values", "error", str(error))
    for warning in caught:
        report.add("mask-noise", "warning", str(warning.message))
    return manifest


def _check_counts(manifest: Manifest, report: CheckReport) -> None:
    counts = compare_counts(manifest)
    if counts is None:
        return
    table = ", ".join(f"{c.split} {c.found}/{c.published}" for c in counts.splits)
    report.measured["published"] = {c.split: c.published for c in counts.splits}
    if counts.equal:
        report.add(
            "counts",
            "note",
            f"counts equal the published {counts.source} split of {counts.data_set}: {table}.",
        )
    else:
        report.add(
            "counts",
            "warning",
            f"counts differ from the published {counts.source} split of {counts.data_set} (found/published): {table}; "
            "figures are not comparable with papers.",
        )


def _check_groups(manifest: Manifest, report: CheckReport) -> None:
    splits_of: dict[str, set[str]] = {}
    for row in manifest.rows:
        if row.group:
            splits_of.setdefault(row.group, set()).add(row.split)

    # a patient in two splits is leakage
    shared = {group for group, splits in splits_of.items() if len(splits) > 1}
    nameless = sum(not row.group for row in manifest.rows)
    report.measured.update(
        groups=len(splits_of), shared_groups=len(shared), rows_without_group=nameless
    )

    if shared:
        rows = [row for row in manifest.rows if row.group in shared]
        report.add(
            "shared-group",
            "error",
            f"{len(shared)} groups (patient, study or video) have rows in several splits: {_per_split(rows, manifest)} "
            "rows. Figures on them are too optimistic; split by group.",
            rows,
        )

    if nameless:
        report.add(
            "no-group",
            "note",
            f"{part_of(nameless, len(manifest))} rows have no group, so patients shared between splits cannot be "
            "detected and intervals treat every image as independent.",
        )


def _per_split(rows: Sequence[Row], manifest: Manifest) -> str:
    counts = Counter(row.split for row in rows)
    return ", ".join(
        f"{split} {counts[split]}/{n}" for split, n in manifest.splits.items() if counts[split]
    )


def _check_prompts(manifest: Manifest, report: CheckReport) -> dict[str, Statement]:
    """Parse every distinct prompt once."""
    statements: dict[str, Statement] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PromptWarning)  # counted below instead
        grammar = manifest.grammar
        for row in manifest.rows:
            if row.text not in statements:
                statements[row.text] = parse(row.text, grammar)

    report.measured["distinct_texts"] = len(statements)

    # sort the rows by what is wrong with their prompt
    empty: list[Row] = []
    unknown: list[Row] = []
    by_code: dict[str, list[Row]] = {}
    for row in manifest.rows:
        statement = statements[row.text]
        if not row.text.strip():
            empty.append(row)
            continue
        if not statement.grammar:
            unknown.append(row)
        for code in statement.warnings:
            by_code.setdefault(code, []).append(row)

    if empty:
        share = part_of(len(empty), len(manifest))
        report.add("no-text", "warning", f"{share} rows have no prompt.", empty)

    if unknown:
        report.add(
            "not-understood",
            "note",
            f"{part_of(len(unknown), len(manifest))} prompts do not fit a known grammar; side and level cannot be "
            f"checked, e.g. {unknown[0].text[:80]!r}.",
            unknown,
        )

    for code, rows in sorted(by_code.items()):
        share = part_of(len(rows), len(manifest))
        report.add(f"text-{code}", "note", f"{share} prompts, e.g. {rows[0].text[:80]!r}.", rows)
    return statements


def _check_files(facts: list[Facts], report: CheckReport, *, fitted: bool) -> None:
    if broken := [fact for fact in facts if fact.errors]:
        report.add(
            "unreadable",
            "error",
            f"{part_of(len(broken), len(facts))} rows cannot be read; the first: {broken[0].errors[0]}",
            [fact.row for fact in broken],
        )

    # a mask of another size cannot be paired with its image pixel by pixel
    unequal = [
        fact for fact in facts if fact.size and fact.mask_size and fact.size != fact.mask_size
    ]
    known = [
        (fact, may_be_fitted(fact.mask_size or (0, 0), fact.size or (0, 0))) for fact in unequal
    ]
    close = [fact for fact, may in known if may]
    if fitted and close:
        report.add(
            "resized-mask",
            "note",
            f"{part_of(len(close), len(facts))} masks are resized to their image (nearest), e.g. {close[0].row.mask}: "
            f"image {close[0].size}, mask {close[0].mask_size} (rows, columns).",
            [fact.row for fact in close],
        )
        unequal = [fact for fact, may in known if not may]
    if unequal:
        first = unequal[0]
        hint = " --resize-masks nearest fits those that differ by a pixel or a common factor."
        report.add(
            "size-mismatch",
            "error",
            f"{part_of(len(unequal), len(facts))} masks have another size than their image, e.g. {first.row.image}: "
            f"image {first.size}, mask {first.mask_size} (rows, columns).{hint if close and not fitted else ''}",
            [fact.row for fact in unequal],
        )

    # mixed sizes and colors are not a mistake, but good to know
    sizes = Counter(f"{fact.size[0]}x{fact.size[1]}" for fact in facts if fact.size)
    gray = sum(fact.gray for fact in facts if fact.size)
    report.measured.update(sizes=dict(sizes.most_common(10)), distinct_sizes=len(sizes))
    report.measured.update(grey=gray, colour=sum(sizes.values()) - gray)

    if 0 < gray < sum(sizes.values()):
        few = gray < sum(sizes.values()) / 2
        report.add(
            "mixed-colour",
            "note",
            f"{gray} images are gray and {sum(sizes.values()) - gray} in color.",
            [fact.row for fact in facts if fact.size and fact.gray == few],
        )


def _check_copies(facts: list[Facts], report: CheckReport) -> None:
    files: dict[str, list[Row]] = {}
    for fact in distinct_images(facts):
        if fact.sha256:
            files.setdefault(fact.sha256, []).append(fact.row)

    # copies in another split are leakage, copies in the same split only count twice
    across: list[Row] = []
    within: list[Row] = []
    for rows in files.values():
        if len(rows) > 1:
            (across if len({row.split for row in rows}) > 1 else within).extend(rows)

    if across:
        message = f"{len(across)} images are byte-identical across splits."
        report.add("identical-image", "error", message, across)

    if within:
        message = f"{len(within)} images are byte-identical within a split."
        report.add("repeated-image", "warning", message, within)

    # pairs that are not reported as identical already
    identical = {row.image for row in across}
    pairs = [(a, b) for a, b in near_identical(facts) if not {a.image, b.image} <= identical]
    report.measured.update(identical_across_splits=len(across), near_identical_pairs=len(pairs))
    if pairs:
        examples = "; ".join(f"{a.image} ~ {b.image}" for a, b in pairs[:3])
        report.add(
            "near-identical-image",
            "warning",
            f"{len(pairs)} pairs of images are nearly identical across splits: {examples}. Look at them.",
            list(chain.from_iterable(pairs)),
        )


def _check_masks(facts: list[Facts], report: CheckReport) -> None:
    masked = [fact for fact in facts if fact.mask_share is not None]
    empty = [fact for fact in masked if not fact.mask_share]
    shares = [fact.mask_share or 0.0 for fact in masked]
    report.measured.update(masks=len(masked), empty_masks=len(empty))
    report.measured["mean_mask_share"] = sum(shares) / len(shares) if shares else None

    # a split without any foreground is almost certainly a mistake
    per_split = Counter(fact.row.split for fact in masked)
    empty_per_split = Counter(fact.row.split for fact in empty)
    whole = [split for split, n in per_split.items() if empty_per_split[split] == n]
    for split in whole:
        report.add(
            "empty-split",
            "error",
            f"all {per_split[split]} masks of {split!r} are empty. Check the mask folder, and that the "
            "foreground is 255 or 1.",
            [fact.row for fact in empty if fact.row.split == split],
        )

    partly = [fact.row for fact in empty if fact.row.split not in whole]
    if partly:
        report.add(
            "empty-mask",
            "warning",
            f"{part_of(len(partly), len(masked))} masks are empty; state which empty-mask policy a figure uses.",
            partly,
        )
