"""Two small runs that the tests of the report share."""

import shutil
from dataclasses import replace

import pytest

EVIL = '<img src=x onerror="alert(1)"> {{ 7 * 7 }} </details><script>alert(2)</script> left & \ud800 \u202eright lung'
EVIL_NAME = "images/<img src=x onerror=alert(3)>.png"


# a few more steps, so that masks are not empty
FINDS_SOMETHING = "stages.segment.steps_per_epoch=40", "stages.segment.optim.lr=0.02"


@pytest.fixture(scope="session")
def evaluated(phantom_manifest, tmp_path_factory):
    """Two trained runs, evaluated on test, the text model on train too; one prompt and one file name are hostile."""
    from textmask.evaluation.evaluate import EvaluationOptions, evaluate
    from textmask.methods.registry import get_method
    from textmask.training.loop import train

    root = tmp_path_factory.mktemp("evaluated")
    shutil.copytree(phantom_manifest.root, root / "data")
    rows = list(phantom_manifest.rows)
    first = next(i for i, row in enumerate(rows) if row.split == "test")
    (root / "data" / rows[first].image).rename(root / "data" / EVIL_NAME)
    rows[first] = replace(rows[first], text=EVIL, image=EVIL_NAME)
    manifest = replace(phantom_manifest, root=root / "data", rows=tuple(rows), name="<b>films</b>")
    for name in ("unet", "text_prior"):
        recipe = get_method(name).recipe().smoke()
        recipe = recipe.override(*FINDS_SOMETHING) if name == "unet" else recipe
        train(recipe, manifest, root / "runs" / name, cache_dir=root / "cache", progress=False)
    for name, split in (("unet", "test"), ("text_prior", "test"), ("text_prior", "train")):
        options = EvaluationOptions(n_bootstrap=50, cache_dir=root / "cache")
        evaluate(root / "runs" / name, manifest, split, options)
    return root / "runs"
