"""The main job on embedded data: synthetic films, a small text-guided model, its baselines, two opposite sentences."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np

from textmask.config import Augment, Recipe
from textmask.data.manifest import Manifest, read_manifest
from textmask.data.phantom import Phantom, PhantomConfig, make_phantom, write_phantoms
from textmask.errors import ConfigError
from textmask.evaluation.evaluate import EvaluationOptions, evaluate
from textmask.inference.predictor import Predictor
from textmask.io.images import write_png
from textmask.methods.registry import get_method
from textmask.plots.overlays import overlay, side_by_side
from textmask.reports.page import Section, write_report
from textmask.runs.checkpoint import DEFAULT_RUN
from textmask.statement import Side
from textmask.text.edit import mirror
from textmask.training.loop import train

MODEL, BASELINES = "statement_unet", ("text_prior", "unet")
FILMS = {"train": 640, "valid": 80, "test": 80}
SIZE = (112, 112)
MARK = ".textmask-demo"


def run_demo(out: Path, *, smoke: bool = False, seed: int = 0) -> Path:
    """Make films, train, evaluate, segment one film by two opposite sentences, and write `out`/report.html.

    Args:
        out: folder to make; what an earlier demo left in it is replaced.
        smoke: everything tiny, for tests.
        seed: of films and training.

    Returns:
        The report.

    Raises:
        ConfigError: `out` holds something that no demo has made.
    """
    _make_folder(out)
    config = PhantomConfig(size=(64, 64) if smoke else SIZE, difficulty=0.3)
    films = {split: n // 20 for split, n in FILMS.items()} if smoke else FILMS
    manifest = read_manifest(write_phantoms(out / "data", films, config, seed))
    for method in (*BASELINES, MODEL):
        train(
            _demo_recipe(method, smoke, seed),
            manifest,
            out / "runs" / method,
            cache_dir=out / "data" / "cache",
        )
    run = out / "runs" / MODEL
    options = EvaluationOptions(zones="phantom", cache_dir=out / "data" / "cache")
    evaluate(run, manifest, "test", options)
    return write_report(
        run, out / "report.html", extra=[_two_sentences(run, manifest, config, out)]
    )


def _make_folder(out: Path) -> None:
    """Empty an earlier demo's folder; nothing that a person may have put there is deleted."""
    if out.exists() and not (out / MARK).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} exists and is no demo folder. Remove it, or give another --out.")
    for name in ("data", "runs"):
        shutil.rmtree(out / name, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    (out / MARK).touch()


def _demo_recipe(method: str, smoke: bool, seed: int) -> Recipe:
    """The CPU preset with fewer, smaller pictures; flips come with mirrored sentences and double the films."""
    base: Recipe = get_method(method).recipe()
    if smoke:
        return base.smoke().override(f"seed={seed}")
    recipe = base.lite().override(f"seed={seed}", f"image_size={list(SIZE)}")
    if recipe.stages[0].optim is None:
        return recipe
    augment = Augment(flip=0.5).model_dump_json()
    return recipe.override("stages.*.epochs=20", f"stages.*.augment={augment}")


def _two_sentences(run: Path, manifest: Manifest, config: PhantomConfig, out: Path) -> Section:
    """One film with opacities in both lungs, asked for by its own sentence and by the opposite one."""
    film = two_sided_film(config)
    opposite = mirror(film.text)
    if opposite is None:
        raise ConfigError(f"the sentence {film.text!r} cannot be mirrored.")
    rows = []
    for model in (run, DEFAULT_RUN):
        opened = Predictor(model).open(film.image)
        answers = [opened.segment(text, abstain=False).mask for text in (film.text, opposite)]
        panels = [film.image, *(overlay(film.image, mask) for mask in answers)]
        rows.append(
            side_by_side(
                [cv2.resize(panel, (336, 336), interpolation=cv2.INTER_NEAREST) for panel in panels]
            )
        )
    write_png(out / "two-sentences.png", rows[0])
    write_png(out / "two-models.png", np.vstack(rows))
    return Section(
        "One film, two opposite sentences",
        (out / "two-models.png").read_bytes(),
        f"Above, the model trained just now on such films: the film; what it marks for {film.text!r}; and for "
        f"{opposite!r}. The film shows opacities in both lungs, so only the sentence says which one is meant. Below, "
        "the model that comes with the package, which was trained on real films and has never seen a synthetic one.",
    )


def two_sided_film(config: PhantomConfig, first_seed: int = 10_000) -> Phantom:
    """The first film after `first_seed` whose sentence names the left only, with unnamed opacities on the right."""
    for seed in range(first_seed, first_seed + 2000):
        film = make_phantom(config, seed)
        others = {lesion.zone[0] for lesion in film.distractors}
        if film.statement.sides == {Side.LEFT} and others == {Side.RIGHT} and mirror(film.text):
            return film
    raise ConfigError(
        "no film with opacities on both sides among 2000; raise the difficulty or distractor_share."
    )
