"""Memory over many prompts: sessions that ask one image again and again, as annotation tools do."""

import gc
import sys
from pathlib import Path

import numpy as np
import pytest

import textmask
from textmask.runs.environment import limited_threads

PROMPTS = 500
WARM_UP = 50
BOUND_MIB = 16  # 33 KiB per prompt; a mask of the image that is kept would be 64 KiB, measured are 2 MiB in all
SITES = ("upper left lung", "lower left lung", "upper right lung", "lower right lung", "both lungs")

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def resident_mib() -> float:
    gc.collect()
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no VmRSS")


def prompts(number: int) -> list[str]:
    """All different, so that a cache by prompt would show."""
    return [f"opacity number {i} in the {SITES[i % len(SITES)]}" for i in range(number)]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::textmask.errors.PromptWarning")
def test_500_prompts_on_one_image_keep_memory_flat() -> None:
    """Resident memory after 500 different prompts is at most 16 MiB above that after the first 50."""
    image = np.random.default_rng(0).integers(0, 255, (256, 256), np.uint8)
    with limited_threads(1):
        opened = textmask.load(device="cpu").open(image)
        texts = prompts(WARM_UP + PROMPTS)
        for text in texts[:WARM_UP]:
            opened.segment(text)
        before = resident_mib()
        for text in texts[WARM_UP:]:
            opened.segment(text)
        after = resident_mib()
    assert after - before < BOUND_MIB


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::textmask.errors.PromptWarning")
def test_many_images_do_not_stay_in_memory() -> None:
    """Each image of a loop is released when the next one is opened."""
    predictor = textmask.load(device="cpu")
    images = np.random.default_rng(0).integers(0, 255, (8, 1024, 1024), np.uint8)
    with limited_threads(1):
        for image in images:
            predictor.set_image(image).segment("opacity in the left lung")
        before = resident_mib()
        for i in range(60):
            predictor.segment(images[i % 8] ^ np.uint8(i), f"opacity {i} in the left lung")
        assert resident_mib() - before < BOUND_MIB
