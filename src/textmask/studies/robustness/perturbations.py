"""Perturbations of a split (other prompts, damaged images), each predicted once: how robustness studies work.

A perturbation changes what the model is given and never what its masks are scored against. The masks of a finished
perturbation are kept in the study's folder, so that the same command resumes a stopped study.
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

import numpy as np

from textmask.data.loaders import Damage, SplitData, open_split
from textmask.data.manifest import Manifest, Row, interval_groups
from textmask.data.shuffled_text import read_prompts
from textmask.errors import CheckpointError, ConfigError, choose
from textmask.evaluation.protocol import protocol_of, refuse_leaks
from textmask.evaluation.records import CLEAN_KIND
from textmask.evaluation.scoring import Scored, Scorer
from textmask.evaluation.summary import RobustnessProtocol
from textmask.inference.predict_split import in_batches
from textmask.io.files import write_whole
from textmask.methods.registry import get_method
from textmask.metrics.overlap import Bools
from textmask.progress import Progress
from textmask.runs.checkpoint import Run, load_run
from textmask.runs.environment import git_commit
from textmask.runs.layout import STUDIES, output_folder
from textmask.statement import Statement
from textmask.text.zones import ZONE_MAPS

NewPrompts = Callable[[SplitData], Sequence[str | None]]


@dataclass(frozen=True)
class Perturbation:
    """One way to change what a model is given.

    Attributes:
        kind: what is changed, e.g. "side_swapped".
        severity: how much; 0 if there are no degrees.
        prompts: gives the N prompts of a split; None for a prompt that cannot be rewritten: its image is left out.
        image: changes the images.
    """

    kind: str
    severity: float = 0.0
    prompts: NewPrompts | None = None
    image: Damage | None = None

    @property
    def name(self) -> str:
        """Kind and severity, as a file and a progress bar name it."""
        return f"{self.kind}-{self.severity:g}" if self.severity else self.kind


CLEAN = Perturbation(CLEAN_KIND)


@dataclass(frozen=True)
class PerturbedResult:
    """What a model predicted under a perturbation.

    Attributes:
        perturbation: the perturbation.
        prompts, statements: the N prompts it was given; the image's own if that one could not be rewritten.
        changed: N, images whose prompt or pixels were changed; the others hold the clean mask.
        masks: N H W.
        scored: against the true masks.
    """

    perturbation: Perturbation
    prompts: tuple[str, ...]
    statements: tuple[Statement, ...]
    changed: Bools
    masks: Bools
    scored: Scored


def each(
    kind: str, edit: Callable[[str, np.random.Generator], str | None], seed: int
) -> NewPrompts:
    """Rewrite prompts one by one, each with a random generator of its own image: the same result in any subset."""

    def rewrite(data: SplitData) -> list[str | None]:
        rewritten = []
        for key, prompt in zip(data.keys, data.prompts, strict=True):
            rng = np.random.default_rng([seed, zlib.crc32(f"{kind} {key}".encode())])
            rewritten.append(edit(prompt, rng))
        return rewritten

    return rewrite


def limited(rows: Sequence[Row], limit: int | None, seed: int) -> np.ndarray:
    """Numbers of at most `limit` rows in their order, whole groups only (at least one); nested for smaller limits.

    Raises:
        ConfigError: `limit` is below 1.
    """
    if limit is None:
        return np.arange(len(rows))
    if limit < 1:
        raise ConfigError(f"--limit is {limit}, expected at least 1 image.")

    names = [row.group or f"\0{row.image}" for row in rows]  # an unnamed group is one image
    sizes: dict[str, int] = {}
    for name in names:
        sizes[name] = sizes.get(name, 0) + 1

    # the order of groups depends on their names and the seed only
    order = sorted(sizes, key=lambda name: hashlib.sha256(f"{seed} {name}".encode()).digest())
    total = np.cumsum([sizes[name] for name in order])
    chosen = set(order[: max(1, int(np.searchsorted(total, limit, "right")))])
    return np.array([i for i, name in enumerate(names) if name in chosen], np.int64)


@dataclass(frozen=True)
class RobustnessOptions:
    """Options of all robustness studies.

    Attributes:
        out: folder of the study (default: `<run>/studies/<study>-<split>`, plus `-<limit>` if there is a limit).
        limit: maximum number of images, sampled by patient; None is all.
        seed: random seed of image sampling, perturbations and bootstrap.
        zones: key of `ZONE_MAPS` by which masks are read; None chooses by the grammar of each prompt.
        n_bootstrap: resamples of an interval.
        cache_dir: folder of the decoded images.
        progress: called with (name of a perturbation, done, total).
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
    """A run and the images that perturbations are tried on.

    Attributes:
        run: the run.
        scorer: predicts and scores the (sampled) images of the split.
        out: folder of the study.
        options: options of the study.
    """

    run: Run
    scorer: Scorer
    out: Path
    options: RobustnessOptions

    @property
    def data(self) -> SplitData:
        """The images."""
        return self.scorer.data

    @property
    def groups(self) -> list[str]:
        """Patient of each image."""
        return interval_groups(self.data.rows)

    def protocol(self) -> RobustnessProtocol:
        """The protocol of an evaluation, and what is specific to the study."""
        interval = f"95 % bootstrap over groups, {self.options.n_bootstrap} resamples"
        scored = protocol_of(self.scorer, self.run, self.groups, interval)
        return RobustnessProtocol(
            **dict(scored),
            run=self.run.path.resolve().name,
            method=self.run.recipe.method,
            limit=self.options.limit,
            study_seed=self.options.seed,
            study_commit=git_commit(),
            zones=self.scorer.zones or "by the grammar of each sentence",
        )

    def results(self, perturbations: Sequence[Perturbation]) -> Iterator[PerturbedResult]:
        """The clean result, then that of each perturbation.

        Raises:
            DataError: the study's folder cannot be written.
        """
        every = np.ones(len(self.data), np.bool_)
        clean_masks = self._masks(CLEAN, self.data, None)
        yield self._result(CLEAN, self.data.prompts, every, clean_masks)

        for done, perturbation in enumerate(perturbations):
            new = self._new_prompts(perturbation)
            changed, prompts = every, self.data.prompts
            if new is not None:
                changed = np.array([prompt is not None for prompt in new], np.bool_)
                prompts = self._filled(new)

            # a method that does not look at what is changed keeps its clean masks
            masks = clean_masks.copy()
            if changed.any() and self._can_matter(perturbation):
                some = self.data if changed.all() else self.data.take(changed)
                given = None if new is None else [prompt for prompt in new if prompt is not None]
                masks[changed] = self._masks(perturbation, some, given)
            yield self._result(perturbation, prompts, changed, masks)
            if self.scorer.progress:
                self.scorer.progress("perturbations", done + 1, len(perturbations))

    def _new_prompts(self, perturbation: Perturbation) -> list[str | None] | None:
        """New prompts; one that did not change counts as None."""
        if perturbation.prompts is None:
            return None
        found: list[str | None] = []
        for new, own in zip(perturbation.prompts(self.data), self.data.prompts, strict=True):
            same = new == own and perturbation.image is None
            found.append(None if same else new)
        return found

    def _filled(self, new: Sequence[str | None]) -> tuple[str, ...]:
        pairs = zip(new, self.data.prompts, strict=True)
        return tuple(own if prompt is None else prompt for prompt, own in pairs)

    def _can_matter(self, perturbation: Perturbation) -> bool:
        """Whether the method looks at what is changed."""
        card = get_method(self.run.recipe.method).card
        return (perturbation.prompts is not None and card.uses_text) or (
            perturbation.image is not None and card.uses_image
        )

    def _result(
        self, perturbation: Perturbation, prompts: tuple[str, ...], changed: Bools, masks: Bools
    ) -> PerturbedResult:
        statements = self.data.statements
        if prompts is not self.data.prompts:
            statements = read_prompts(prompts, self.data.rows)
        scored = self.scorer.score(perturbation.name, self.run, in_batches(masks), prompts)
        return PerturbedResult(perturbation, prompts, statements, changed, masks, scored)

    def _masks(
        self, perturbation: Perturbation, data: SplitData, prompts: Sequence[str] | None
    ) -> Bools:
        """Masks n H W of the changed images, kept from last time or predicted."""
        path = self.out / "predictions" / f"{perturbation.name}.npz"

        # stored masks are valid only for the same weights, code, images and prompts
        given = None if prompts is None else list(prompts)
        identity = [
            self._key,
            perturbation.kind,
            perturbation.severity,
            self.options.seed,
            list(data.keys),
            given,
        ]
        key = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
        shape = (len(data), *data.masks.shape[1:])
        kept = None if self._unnamed_code else _read_stored(path, key, shape)
        if kept is not None:
            return kept

        # one byte a pixel; the probabilities are never together in memory
        masks = np.empty(shape, np.bool_)
        batches = self.scorer.predict(
            perturbation.name, self.run, data, prompts, perturbation.image
        )
        begin = 0
        for batch in batches:
            masks[begin : begin + len(batch)] = batch > self.run.recipe.threshold
            begin += len(batch)
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
    """Open a run and its images for a study.

    Args:
        run: run folder.
        manifest: the manifest that holds the split.
        split: its name.
        study: name of the study, part of the default folder's name.
        options: the rest.

    Raises:
        ConfigError: no such split or zone map, or a limit below 1.
        DataError: images that were trained on or have no mask.
        CheckpointError: not a run folder, or the folder of the study cannot be created.
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
            f"cannot create the folder {out}: {error}. Give another one with --out."
        ) from error

    scorer = Scorer(
        manifest,
        split,
        data,
        surface=False,
        cache_dir=options.cache_dir,
        progress=options.progress,
        zones=options.zones,
    )
    return RobustnessBench(loaded, scorer, out, options)
