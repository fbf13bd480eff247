"""Reading and augmenting images: the decoded cache and decoding each time, one fused warp and MONAI.

One process, one thread, candidates in turn; both sides give the same images (checked first).
"""

import tempfile
from pathlib import Path

import cv2
import numpy as np
import torch
from monai.transforms import Compose, RandAffined, RandFlipd, RandGaussianNoised
from timing import Goals, interleave

from textmask.config import Augment
from textmask.data.cache import open_split
from textmask.data.manifest import read_manifest
from textmask.data.phantom import PhantomConfig, write_phantoms
from textmask.data.transforms import Photometric, apply_image, apply_mask, make_params, photometric
from textmask.io.images import read_image, resize_image, resize_mask
from textmask.io.masks import read_mask
from textmask.runs.environment import prepare_cpu

SIZE, FILMS, PAIRS = (224, 224), 96, 64
AUGMENT = Augment(rotate_deg=10.0, translate=0.05, scale=(0.9, 1.1), flip=0.5)
NOISE = Photometric(noise_sigma=0.01, noise_p=1.0)


def cache_against_decoding(goals: Goals) -> None:
    """Load 96 random samples (image and mask, uint8) from the memory map, or decode and resize 256 x 256 PNG files."""
    with tempfile.TemporaryDirectory() as folder:
        config = PhantomConfig(size=(256, 256))
        manifest = read_manifest(write_phantoms(Path(folder), {"train": FILMS}, config, seed=0))
        data = open_split(manifest, "train", SIZE, Path(folder) / "cache")
        rows = manifest.rows_of("train")
        order = np.random.default_rng(0).permutation(FILMS)

        def decode():
            pairs = [
                (read_image(manifest.image_path(rows[i])), read_mask(manifest.mask_path(rows[i])))
                for i in order
            ]
            return (
                np.stack([resize_image(image, SIZE) for image, _ in pairs]),
                np.stack([resize_mask(mask, SIZE) for _, mask in pairs]),
            )

        def cached():
            return data.images[order], data.masks[order]

        for ours, theirs in zip(cached(), decode(), strict=True):
            np.testing.assert_array_equal(ours.reshape(theirs.shape), theirs)
        times = interleave({"cached": cached, "decode": decode})
    print(
        f"{FILMS} samples: cache {times['cached'] * 1e3:.2f} ms, decode + resize {times['decode'] * 1e3:.1f} ms"
    )
    goals.at_least("cache_over_decoding", times["decode"] / times["cached"], 80)


def augmentation_against_monai(goals: Goals) -> None:
    """Flip, affine and noise on 64 pairs, as uint8 from the cache to float batches."""
    rng = np.random.default_rng(0)
    images = np.stack(
        [
            cv2.GaussianBlur(rng.integers(0, 256, SIZE, dtype=np.uint8), (9, 9), 3)
            for _ in range(PAIRS)
        ]
    )
    masks = (images > 128).astype(np.uint8)
    prompts = ("lower left lung",) * PAIRS
    keys = ["image", "mask"]
    theirs = Compose(
        [
            RandFlipd(keys, prob=0.5, spatial_axis=1),
            RandAffined(
                *(keys, SIZE, 1.0),
                rotate_range=np.deg2rad(10),
                translate_range=11,
                scale_range=0.1,
                mode=("bilinear", "nearest"),
                padding_mode="zeros",
            ),
            RandGaussianNoised("image", prob=1.0, std=0.01, sample_std=False),
        ]
    )
    pairs = [
        {
            "image": torch.from_numpy(image[None].astype(np.float32) / 255),
            "mask": torch.from_numpy(mask[None]),
        }
        for image, mask in zip(images, masks, strict=True)
    ]

    def fused():
        params = make_params(prompts, AUGMENT, SIZE, rng)
        image = torch.from_numpy(apply_image(images[:, None], params)).float().div_(255)
        noisy = photometric(image, NOISE, torch.Generator().manual_seed(int(rng.integers(2**31))))
        return noisy, torch.from_numpy(apply_mask(masks, params))

    def monai():
        return [theirs(pair) for pair in pairs]

    still = make_params(prompts, Augment(rotate_deg=0, translate=0, scale=(1, 1)), SIZE, rng)
    np.testing.assert_array_equal(apply_image(images[:, None], still)[:, 0], images)
    ours, peer = fused()[0], monai()[0]["image"]
    assert ours.shape[2:] == peer.shape[1:]
    times = interleave({"fused": fused, "monai": monai})
    print(
        f"{PAIRS} pairs: one fused warp {times['fused'] * 1e3:.1f} ms, MONAI {times['monai'] * 1e3:.0f} ms"
    )
    goals.at_least("augmentation_over_monai", times["monai"] / times["fused"], 10)


def main() -> int:
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    prepare_cpu()  # as training does, for both sides
    goals = Goals()
    cache_against_decoding(goals)
    augmentation_against_monai(goals)
    return goals.finish()


if __name__ == "__main__":
    raise SystemExit(main())
