"""Does the teacher mark anything after the burn-in? Semi-MedRef, lite preset, 5 % of QaTa, 100 steps at 64 x 64.

Pseudo-masks are the pixels whose probability reaches the recipe's `tau`. After a short burn-in the probabilities must
reach it inside lesions, or the unlabelled images teach nothing. Needs TEXTMASK_DATA; takes one to two minutes.
Options: a preset's fields as `field=value`, for example `seed=1`.
"""

import os
import sys
import tempfile
from pathlib import Path

import torch
from timing import Goals

from textmask.data.cache import open_split
from textmask.data.loaders import build_text, to_image
from textmask.methods.registry import get_method
from textmask.nn.decoders import SubPixelHead
from textmask.runs.checkpoint import load_run
from textmask.runs.data_options import DataOptions
from textmask.runs.environment import prepare_cpu
from textmask.runs.read_data import read_data
from textmask.training.loop import train

IMAGES = 256  # of the valid split
SETTINGS = (
    "image_size=[64,64]",
    "stages.burn_in.labelled_fraction=0.05",
    "stages.burn_in.epochs=5",
    "stages.burn_in.steps_per_epoch=20",
    "precision=fp32",
)


def main(settings: tuple[str, ...] = tuple(sys.argv[1:])) -> int:
    prepare_cpu()
    recipe = get_method("semi_medref").recipe().lite().override(*SETTINGS, *settings)
    recipe = recipe.model_copy(update={"stages": (recipe.stage("burn_in"),)})
    manifest = read_data(Path(os.environ["TEXTMASK_DATA"]) / "qata-cov19-v2", DataOptions())

    with tempfile.TemporaryDirectory() as folder:
        train(recipe, manifest, Path(folder) / "run", progress=False)
        method = load_run(Path(folder) / "run").method.eval()

    # what the layer before the last one of the head says, inside and outside of lesions
    heads = [module for module in method.net.modules() if isinstance(module, SubPixelHead)]
    seen: list[torch.Tensor] = []
    heads[0].out.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].mean(dim=1)))

    data = open_split(manifest, "valid", recipe.image_size)
    found = []
    with torch.inference_mode():
        for i in range(0, min(IMAGES, len(data)), 32):
            text = build_text(data.prompts[i : i + 32], data.statements[i : i + 32])
            found.append(method(to_image(data.images[i : i + 32]), text).probability)
    probability, activity = torch.cat(found)[:, 0], torch.cat(seen)
    lesion = torch.from_numpy(data.masks[: len(probability)] > 0)

    for threshold in (0.3, 0.5, recipe.tau):
        marked = probability >= threshold
        dice = 2 * (marked & lesion).sum() / (marked.sum() + lesion.sum())
        print(f"threshold {threshold}: pooled Dice {float(dice):.3f}")
    passing = float((probability[lesion] >= recipe.tau).float().mean())
    empty = float((~(probability >= recipe.tau).flatten(1).any(1)).float().mean())
    quantiles = [float(probability[lesion].quantile(q)) for q in (0.5, 0.9, 1.0)]
    inside, outside = float(activity[lesion].mean()), float(activity[~lesion].mean())
    print("lesion probability: median {:.3f}, 90 % {:.3f}, highest {:.3f}".format(*quantiles))
    print(f"background probability: median {float(probability[~lesion].median()):.4f}")
    print(f"activity before the last layer: {inside:.2f} inside lesions, {outside:.2f} outside")
    print(f"empty pseudo-masks: {empty:.2f} of {len(probability)} images; seed {recipe.seed}")
    goals = Goals()
    goals.at_least("burn_in_lesion_pixels_above_tau", passing, 0.1)
    return goals.finish()


if __name__ == "__main__":
    raise SystemExit(main())
