"""Variants of a split (other sentences, damaged pictures), each predicted once: the mechanism of the studies of a run.

A variant changes what the model is given and never what its masks are scored against. The masks of a finished variant
are kept beside the study, so that the same command goes on where it was stopped.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from textmask.data.loaders import Damage, SplitData, open_split
from textmask.data.manifest import Manifest, Row, interval_groups
from textmask.data.shuffled_text import read_prompts
from textmask.errors import CheckpointError, ConfigError, choose
from textmask.evaluation.protocol import protocol_of, refuse_leaks
from textmask.evaluation.scoring import Scored, Scorer
from textmask.io.files import write_whole
from textmask.methods.registry import get_method
from textmask.metrics.overlap import Bools
from textmask.progress import Progress
from textmask.runs.checkpoint import Run, load_run
from textmask.runs.environment import git_commit
from textmask.runs.layout import STUDIES, output_folder
from textmask.statement import Statement
from textmask.text.zones import ZONE_MAPS

Sentences = Callable[[SplitData], Sequence[str | None]]


@dataclass(frozen=True)
class Perturbation:
    """One way to change what a model is given.

    Attributes:
        kind: what is changed, e.g. "side_swapped".
        severity: how much; 0 where there are no degrees.
        text: the N sentences of a split; None where one cannot be rewritten: that picture is left out.
        image: changes the pictures.
    """

    kind: str
    severity: float = 0.0
    text: Sentences | None = None
    image: Damage | None = None

    @property
    def name(self) -> str:
        """Kind and severity, as a file and a progress bar have them."""
        return f"{self.kind}-{self.severity:g}" if self.severity else self.kind


CLEAN = Perturbation("clean")


@dataclass(frozen=True)
class PerturbedResult:
    """What a model made of a variant.

    Attributes:
        variant: which.
        prompts, statements: the N sentences it was given; the picture's own where that one could not be rewritten.
        changed: N, pictures whose sentence or pixels were changed; the others hold the clean mask.
        masks: N H W.
        scored: against the true masks.
    """

    variant: Perturbation
    prompts: tuple[str, ...]
    statements: tuple[Statement, ...]
    changed: Bools
    masks: Bools
    scored: Scored


def each(kind: str, edit: Callable[[str, np.random.Generator], str | None], seed: int) -> Sentences:
    """Rewrite the sentences of a split one by one, each with a generator of its own picture: the same in any subset."""

    def rewrite(data: SplitData) -> list[str | None]:
        return [
            edit(text, _generator(kind, key, seed))
            for key, text in zip(data.keys, data.prompts, strict=True)
        ]

    return rewrite


def _generator(kind: str, key: str, seed: int) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(f"{kind} {key}".encode())])


def limited(rows: Sequence[Row], limit: int | None, seed: int) -> np.ndarray:
    """Numbers of at most `limit` rows in their order, whole groups only (at least one); fewer are a subset of more.

    Raises:
        ConfigError: `limit` is below 1.
    """
    if limit is None:
        return np.arange(len(rows))
    if limit < 1:
        raise ConfigError(f"--limit is {limit}, expected at least 1 picture.")
    names = [row.group or f"\0{row.image}" for row in rows]  # an unnamed group is one picture
    sizes: dict[str, int] = {}
    for name in names:
        sizes[name] = sizes.get(name, 0) + 1
    order = sorted(sizes, key=lambda name: hashlib.sha256(f"{seed} {name}".encode()).digest())
    total = np.cumsum([sizes[name] for name in order])
    chosen = set(order[: max(1, int(np.searchsorted(total, limit, "right")))])
    return np.array([i for i, name in enumerate(names) if name in chosen], np.int64)


@dataclass(frozen=True)
class RobustnessOptions:
    """What all studies of a run take.

    Attributes:
        out: folder of the study; default `<run>/studies/<study>-<split>`, with `-<limit>` where there is one.
        limit: at most so many pictures, chosen by patient; None is all.
        seed: of the choice of pictures, of all that is drawn and of the bootstrap.
        zones: key of `ZONE_MAPS` by which masks are read; None chooses by the grammar of each sentence.
        n_bootstrap: resamples of an interval.
        cache_dir: of the decoded pictures.
        progress: called with (name of a variant, done, total).
        device: auto, cpu, cuda, cuda:N or mps.
    """

    out: Path | None = None
    limit: int | None = None
    seed: int = 0
    zones: str | None = None
    n_bootstrap: int = 2000
    cache_dir: Path | None = None
    progress: Progress | None = None
    device: str = "auto"


@dataclass(frozen=True)
class RobustnessBench:
    """A run and the pictures that its variants are tried on.

    Attributes:
        run: the run.
        scorer: predicts and scores the (chosen) pictures of the split.
        out: folder of the study.
        options: how it was asked for.
    """

    run: Run
    scorer: Scorer
    out: Path
    options: RobustnessOptions

    @property
    def data(self) -> SplitData:
        """The pictures."""
        return self.scorer.data

    @property
    def groups(self) -> list[str]:
        """Patient of each picture."""
        return interval_groups(self.data.rows)

    def protocol(self) -> dict[str, Any]:
        """The protocol of an evaluation, and what is the study's own."""
        n = self.options.n_bootstrap
        return protocol_of(self.scorer, self.run, self.groups, n) | {
            "interval": f"95 % bootstrap over groups, {n} resamples",
            "run": self.run.path.resolve().name,
            "method": self.run.recipe.method,
            "limit": self.options.limit,
            "study_seed": self.options.seed,
            "study_commit": git_commit(),
            "zones": self.scorer.zones or "by the grammar of each sentence",
        }

    def outcomes(self, variants: Sequence[Perturbation]) -> Iterator[PerturbedResult]:
        """The clean outcome, then that of each variant.

        Raises:
            DataError: the study's folder cannot be written.
        """
        everyone = np.ones(len(self.data), np.bool_)
        masks = self._masks(CLEAN, self.data, None)
        clean = self._outcome(CLEAN, self.data.prompts, everyone, masks)
        yield clean
        for done, variant in enumerate(variants):
            new = self._sentences(variant)
            changed = (
                everyone if new is None else np.array([text is not None for text in new], np.bool_)
            )
            texts = self.data.prompts if new is None else self._filled(new)
            masks = clean.masks.copy()
            if changed.any() and self._can_matter(variant):
                some = self.data if changed.all() else self.data.take(changed)
                given = None if new is None else [text for text in new if text is not None]
                masks[changed] = self._masks(variant, some, given)
            yield self._outcome(variant, texts, changed, masks)
            if self.scorer.progress:
                self.scorer.progress("variants", done + 1, len(variants))

    def _sentences(self, variant: Perturbation) -> list[str | None] | None:
        """New sentences; one that came out as it was is none."""
        if variant.text is None:
            return None
        pairs = zip(variant.text(self.data), self.data.prompts, strict=True)
        return [None if new == own and variant.image is None else new for new, own in pairs]

    def _filled(self, new: Sequence[str | None]) -> tuple[str, ...]:
        return tuple(
            own if text is None else text for text, own in zip(new, self.data.prompts, strict=True)
        )

    def _can_matter(self, variant: Perturbation) -> bool:
        """Whether the method looks at what is changed; where it does not, the mask is the clean one."""
        card = get_method(self.run.recipe.method).card
        return (variant.text is not None and card.uses_text) or (
            variant.image is not None and card.uses_image
        )

    def _outcome(
        self, variant: Perturbation, prompts: tuple[str, ...], changed: Bools, masks: Bools
    ) -> PerturbedResult:
        statements = self.data.statements
        if prompts is not self.data.prompts:
            statements = read_prompts(prompts, self.data.rows)
        scored = self.scorer.score(variant.name, self.run, masks, prompts)
        return PerturbedResult(variant, prompts, statements, changed, masks, scored)

    def _masks(
        self, variant: Perturbation, data: SplitData, prompts: Sequence[str] | None
    ) -> Bools:
        """Masks n H W of the changed pictures, kept from last time or predicted."""
        path = self.out / "predictions" / f"{variant.name}.npz"
        given = None if prompts is None else list(prompts)
        identity = [
            self._key,
            variant.kind,
            variant.severity,
            self.options.seed,
            list(data.keys),
            given,
        ]
        key = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
        shape = (len(data), *data.masks.shape[1:])
        kept = None if self._unnamed_code else _read_stored(path, key, shape)
        if kept is not None:
            return kept
        found = self.scorer.predict(variant.name, self.run, data, prompts, variant.image)
        masks = np.asarray(found > self.run.recipe.threshold, np.bool_)
        stream = io.BytesIO()
        np.savez_compressed(
            stream, key=np.array(key), masks=np.packbits(masks.reshape(len(masks), -1), axis=1)
        )
        write_whole(path, stream.getvalue())
        return masks

    @cached_property
    def _key(self) -> str:
        return self.scorer.key(self.run)

    @cached_property
    def _unnamed_code(self) -> bool:
        return bool(json.loads(self._key)["code"].endswith("+changes"))


def _read_stored(path: Path, key: str, shape: tuple[int, ...]) -> Bools | None:
    try:
        with np.load(io.BytesIO(path.read_bytes())) as file:
            if str(file["key"]) != key:
                return None
            bits = np.unpackbits(file["masks"], axis=1, count=int(np.prod(shape[1:])))
            return np.asarray(bits.reshape(shape), np.bool_)
    except (OSError, ValueError, KeyError, EOFError, zlib.error, zipfile.BadZipFile):
        return None


def open_bench(
    run: Path, manifest: Manifest, split: str, study: str, options: RobustnessOptions
) -> RobustnessBench:
    """Open a run and its pictures for a study.

    Args:
        run: run folder.
        manifest: the table that holds the split.
        split: its name.
        study: name of the study, of which the default folder is made.
        options: the rest.

    Raises:
        ConfigError: no such split or zone map, or a limit below 1.
        DataError: pictures that were trained on or have no mask.
        CheckpointError: not a run folder, or the folder of the study cannot be made.
    """
    if options.zones is not None:
        choose("zone map", options.zones, list(ZONE_MAPS))
    loaded, limit = load_run(run, options.device), options.limit
    rows = manifest.rows_of(split)
    chosen = limited(rows, limit, options.seed)
    refuse_leaks(loaded.path, [rows[i] for i in chosen], split)
    data = open_split(manifest, split, loaded.recipe.image_size, options.cache_dir)
    if len(chosen) < len(data):
        data = data.take(chosen)
    folder = f"{study}-{split}" if limit is None else f"{study}-{split}-{limit}"
    out = output_folder(loaded.path, options.out, STUDIES, folder)
    try:
        (out / "predictions").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(
            f"cannot make the folder {out}: {error}. Give another one with --out."
        ) from error
    scorer = Scorer(
        manifest, split, data, False, False, options.cache_dir, options.progress, options.zones
    )
    return RobustnessBench(loaded, scorer, out, options)
