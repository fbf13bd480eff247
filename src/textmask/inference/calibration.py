"""Measure what is usual for a run: the words of its training prompts and its confidence in validation masks."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from textmask.data.loaders import SplitData, open_split
from textmask.data.manifest import Manifest
from textmask.data.shuffled_text import shuffled_prompts
from textmask.errors import CheckpointError, ConfigError, DataError
from textmask.inference.likeness import KnownImages
from textmask.inference.predict_split import predict_batches
from textmask.inference.screening import Calibration, confidence
from textmask.io.files import file_sha256, read_json, write_json
from textmask.io.locks import only_replacer
from textmask.runs.checkpoint import Run, load_run
from textmask.runs.layout import CALIBRATION, output_folder, run_path
from textmask.text.edit import UNRELATED
from textmask.text.vocabulary import known_share
from textmask.text.words import clean, split_words

QUANTILES = np.linspace(0, 1, 101)
MIN_CASES = 20  # with fewer, a quantile of one in a hundred means nothing
MIN_ROWS = 2  # training rows that must contain a word: a word of a single row may be a name


def calibrate_run(
    run: Path | str,
    manifest: Manifest,
    split: str = "valid",
    *,
    level: float = 0.01,
    out: Path | None = None,
    cache_dir: Path | None = None,
    device: str = "auto",
    images_only: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Write calibration.json, by which `Predictor` abstains from then on, and return its content.

    There are two signals to abstain by, which every method has. Text: the share of the content words of a prompt that
    are known from the training prompts or from medicine. The limit is half way between the lowest validation prompts
    (quantile `level`) and the best of `text.edit.UNRELATED`. Mask: the mean probability inside the mask, compared with
    its quantile `level` on the split. Prompts are not stored, only words that occur in at least two training rows. What
    the limits would withhold on the split itself, with its own prompts and with those of other images, is stored too.

    The training images are described too (`KnownImages`), so that `Scores` tell how unlike them an image is.

    Args:
        run: folder of a finished run, or `default` for the bundled model, which needs `out`.
        manifest: the data it was trained on.
        split: where its masks are measured; never the split that is reported.
        level: share of the split's masks that may fall below the limit, in (0, 0.5).
        out: folder of calibration.json; None means the run, where `Predictor` finds it.
        cache_dir: folder of the decoded images.
        device: auto, cpu, cuda, cuda:N or mps.
        images_only: predict nothing: describe the training images anew, and keep the rest of the run's calibration.
        progress: called with (done, total).

    Raises:
        ConfigError: `level` is not in (0, 0.5); this machine does not have the device; the bundled model without `out`.
        DataError: fewer than 20 images of the split get a mask, or the file cannot be written.
        CheckpointError: not a run folder.
        BusyError: another process writes the same file.
    """
    if not 0 < level < 0.5:
        raise ConfigError(
            f"level is {level}, expected a number above 0 and below 0.5, such as 0.01."
        )

    # a wrong folder or device is answered before anything is predicted
    path = output_folder(run_path(run), out) / CALIBRATION
    loaded = load_run(run, device)
    size = loaded.recipe.image_size
    data = open_split(manifest, split, size, cache_dir)
    train = open_split(manifest, "train", size, cache_dir)
    with only_replacer(path):
        value = (
            _kept(loaded)
            if images_only
            else _calibrated(loaded, manifest, split, data, level, progress)
        )
        known = KnownImages.of_images(
            *((split.images[i] for i in range(len(split))) for split in (train, data))
        )
        value["known_images"] = None if known is None else known.as_json()
        # atomic: a reader sees the old or the new limits
        write_json(path, value)
    return value


def _kept(loaded: Run) -> dict[str, Any]:
    """The calibration that a run has.

    Raises:
        CheckpointError: there is none, it is damaged, or it was computed for other weights.
    """
    value = read_json(loaded.path / CALIBRATION)
    if Calibration.from_json(value).weights_sha256 != file_sha256(loaded.weights):
        raise CheckpointError(
            f"{loaded.path / CALIBRATION} was computed for different weights. Calibrate without --images-only."
        )
    return value


def _calibrated(
    loaded: Run,
    manifest: Manifest,
    split: str,
    data: SplitData,
    level: float,
    progress: Callable[[int, int], None] | None,
) -> dict[str, Any]:
    """The content of calibration.json."""
    recipe = loaded.recipe

    def step(before: int) -> Callable[[int, int], None]:
        def report(done: int, _: int) -> None:
            if progress:
                progress(before + done, 2 * len(data))

        return report

    # the split with its own prompts, and with those of other images
    own = predict_batches(loaded.method, data, recipe, progress=step(0))
    own_sure = _confidences(own, recipe.threshold)
    others, _ = shuffled_prompts(data, recipe.seed)
    foreign = predict_batches(loaded.method, data, recipe, prompts=others, progress=step(len(data)))
    foreign_sure = _confidences(foreign, recipe.threshold)
    sure = [value for value in own_sure if value is not None]
    if len(sure) < MIN_CASES:
        raise DataError(
            f"{len(sure)} of {len(data)} images of split {split!r} get a mask, expected at least {MIN_CASES}. Use a "
            "larger split (--split), or train longer."
        )

    # the limits
    words = vocabulary([row.text for row in manifest.rows_of("train")])
    needed, best_unrelated = _share_needed(list(data.prompts), words, level)
    quantiles = np.quantile(sure, QUANTILES).tolist()
    found = Calibration(
        frozenset(words), needed, tuple(quantiles), level, file_sha256(loaded.weights)
    )
    return {
        "split": split,
        "n": len(data),
        "masks": len(sure),
        "level": level,
        "share_needed": needed,
        "share_of_unrelated": best_unrelated,
        "confidence_needed": float(np.quantile(sure, level)),
        "confidence_quantiles": quantiles,
        "withheld_own_sentence": _withheld(found, list(data.prompts), own_sure),
        "withheld_other_sentence": _withheld(found, others, foreign_sure),
        "data": manifest.hash(),
        "weights_sha256": found.weights_sha256,
        "vocabulary": words,
    }


def vocabulary(prompts: list[str]) -> list[str]:
    """Words that occur in at least two of the prompts, sorted, without numbers."""
    # each prompt counts a word once
    counts: Counter[str] = Counter()
    for prompt in prompts:
        counts.update(set(split_words(clean(prompt)[0])))
    return sorted(
        word for word, n in counts.items() if n >= MIN_ROWS and re.fullmatch(r"[^\W\d_]+", word)
    )


def _share_needed(prompts: list[str], words: list[str], level: float) -> tuple[float, float]:
    """Half way between the split's lowest and the best unrelated prompt; 0 (nothing is withheld) if these cross."""
    # prompts without content words have no share
    known = frozenset(words)
    shares = [share for text in prompts if (share := known_share(text, known)) is not None]
    best = max(known_share(text, known) or 0.0 for text in UNRELATED)
    lowest = float(np.quantile(shares, level)) if shares else 1.0
    return ((lowest + best) / 2 if lowest > best else 0.0), best


def _confidences(batches: Iterable[np.ndarray], threshold: float) -> list[float | None]:
    """The confidence of each image; None if nothing is marked."""
    found: list[float | None] = []
    for batch in batches:
        for probability in batch:
            found.append(confidence(probability.astype(np.float32), threshold))
    return found


def _withheld(found: Calibration, prompts: list[str], sure: list[float | None]) -> float:
    """Share of the images whose mask the limits would withhold."""
    withheld = []
    for text, value in zip(prompts, sure, strict=True):
        share = known_share(text, found.vocabulary)
        by_text = share is not None and share < found.share
        by_mask = value is not None and found.rank(value) < found.level
        withheld.append(by_text or by_mask)
    return float(np.mean(withheld))
