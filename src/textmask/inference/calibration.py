"""What is usual for a run: the words of its training sentences and how sure it is of its validation masks."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from textmask.data.loaders import open_split
from textmask.data.manifest import Manifest
from textmask.data.shuffled_text import shuffled_prompts
from textmask.errors import ConfigError, DataError
from textmask.inference.predict_split import predict_split
from textmask.inference.screening import Calibration, confidence
from textmask.io.files import file_sha256, write_json
from textmask.runs.checkpoint import load_run
from textmask.runs.layout import CALIBRATION, output_folder, run_path
from textmask.text.edit import UNRELATED
from textmask.text.vocabulary import known_share
from textmask.text.words import clean, split_words

QUANTILES = np.linspace(0, 1, 101)
MIN_CASES = 20  # below that a quantile of one in a hundred says nothing
MIN_ROWS = 2  # training rows that must have a word: what a single row has may be a name


def calibrate_run(
    run: Path,
    manifest: Manifest,
    split: str = "valid",
    *,
    out: Path | None = None,
    level: float = 0.01,
    cache_dir: Path | None = None,
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Write calibration.json into a run folder and return it; `Predictor` abstains by it from then on.

    Two signals, which any method has. Text: the share of the content words of a sentence that the training sentences
    or medicine know; needed is half way between the lowest validation sentences (quantile `level`) and the best of
    `text.edit.UNRELATED`. Mask: the mean probability within the mask, against its quantile `level` on the split.
    Sentences are not stored, only words that at least two training rows have. What the limits would withhold on the
    split itself, with its own sentences and with those of other pictures, is stored beside them.

    Args:
        run: folder of a finished run.
        manifest: the table it was trained on.
        split: what its masks are taken from; never the one that is reported.
        out: folder for calibration.json; None is the run folder.
        level: share of the split's masks that may fall below the limit.
        cache_dir: of the decoded pictures.
        device: auto, cpu, cuda, cuda:N or mps.
        progress: called with (done, total).

    Raises:
        ConfigError: `level` is not above 0 and below 0.5.
        DataError: fewer than 20 pictures of the split get a mask.
        CheckpointError: no run folder, or it cannot be written.
    """
    if not 0 < level < 0.5:
        raise ConfigError(
            f"level is {level}, expected a number above 0 and below 0.5, such as 0.01."
        )
    folder = output_folder(run_path(run), out)
    loaded = load_run(run, device)
    recipe = loaded.recipe
    data = open_split(manifest, split, recipe.image_size, cache_dir)
    total = 2 * len(data)
    own = predict_split(
        loaded.method,
        data,
        recipe,
        progress=(lambda done, _: progress(done, total)) if progress else None,
    )
    others, _ = shuffled_prompts(data, recipe.seed)
    foreign = predict_split(
        loaded.method,
        data,
        recipe,
        prompts=others,
        progress=(lambda done, _: progress(len(data) + done, total)) if progress else None,
    )
    own_sure, foreign_sure = (
        _confidences(own, recipe.threshold),
        _confidences(foreign, recipe.threshold),
    )
    sure = [value for value in own_sure if value is not None]
    if len(sure) < MIN_CASES:
        raise DataError(
            f"{len(sure)} of {len(data)} pictures of split {split!r} get a mask, expected at least {MIN_CASES}. Take a "
            "larger split (--split), or train longer."
        )
    words = vocabulary([row.text for row in manifest.rows_of("train")])
    needed, best_unrelated = _share_needed(list(data.prompts), words, level)
    quantiles = [float(x) for x in np.quantile(sure, QUANTILES)]
    found = Calibration(
        frozenset(words), needed, tuple(quantiles), level, file_sha256(loaded.weights)
    )
    value = {
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
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / CALIBRATION, value)
    return value


def vocabulary(sentences: list[str]) -> list[str]:
    """Words that at least two of the sentences have, sorted; numbers are none."""
    counts = Counter(word for text in sentences for word in set(split_words(clean(text)[0])))
    return sorted(
        word for word, n in counts.items() if n >= MIN_ROWS and re.fullmatch(r"[^\W\d_]+", word)
    )


def _share_needed(prompts: list[str], words: list[str], level: float) -> tuple[float, float]:
    """Half way between the split's lowest and the best unrelated sentence; 0 (nothing is withheld) if these cross."""
    known = frozenset(words)
    shares = [share for text in prompts if (share := known_share(text, known)) is not None]
    best = max(known_share(text, known) or 0.0 for text in UNRELATED)
    lowest = float(np.quantile(shares, level)) if shares else 1.0
    return ((lowest + best) / 2 if lowest > best else 0.0), best


def _confidences(probabilities: np.ndarray, threshold: float) -> list[float | None]:
    """Of each picture; None where nothing is marked."""
    return [confidence(probability.astype(np.float32), threshold) for probability in probabilities]


def _withheld(found: Calibration, prompts: list[str], sure: list[float | None]) -> float:
    """Share of the pictures whose answer the limits would withhold."""
    shares = [known_share(text, found.vocabulary) for text in prompts]
    by_text = [share is not None and share < found.share for share in shares]
    by_mask = [value is not None and found.rank(value) < found.level for value in sure]
    return float(np.mean([text or mask for text, mask in zip(by_text, by_mask, strict=True)]))
