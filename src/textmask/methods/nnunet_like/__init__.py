"""`nnunet_like`: the plain network and training of nnU-Net with fixed settings, image only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from pydantic import Field

from textmask.config import Augment, Optim, Recipe, Schedule, Stage
from textmask.methods.registry import Card, MethodSpec

if TYPE_CHECKING:
    from textmask.methods.base import Method

CARD = Card(
    title="nnU-Net's plain 2-D network, image only: instance norm, deep supervision, SGD with a polynomial schedule",
    paper="Isensee et al., nnU-Net: a self-configuring method for deep learning-based biomedical image segmentation, "
    "Nature Methods 2021 (baseline)",
    uses_text=False,
    # per image and in pixels: C2Seg, Tables 1 and 2; pooled: SSA, Table I
    published={
        "qata-cov19": {
            "dice_per_image": 80.42,
            "iou_per_image": 70.81,
            "hd95_pooled_px": 28.14,
            "assd_px": 9.86,
            "dice_pooled": 84.39,
            "iou_pooled": 72.35,
        },
        "mosmeddata+": {
            "dice_per_image": 72.59,
            "iou_per_image": 60.36,
            "hd95_pooled_px": 22.75,
            "assd_px": 5.56,
            "dice_pooled": 69.30,
            "iou_pooled": 52.53,
        },
        "cvc-clinicdb": {
            "dice_per_image": 85.69,
            "iou_per_image": 77.72,
            "hd95_pooled_px": 13.48,
            "assd_px": 5.84,
        },
        "kvasir": {
            "dice_per_image": 86.95,
            "iou_per_image": 79.19,
            "hd95_pooled_px": 20.39,
            "assd_px": 5.81,
        },
    },
    symbols={
        "L = w_1 L_1 + w_2 L_2 + ...": (
            "NNUNetLike.supervised",
            "w_k = 2^(1 - k), divided by their sum",
        ),
    },
    limits="Ignores the prompt: segments every lesion that it finds. It does not configure itself: no plans, no "
    "resampling, no ensemble. For nnU-Net itself, score its masks with `evaluate --masks`.",
    sources={
        "widths": "code: 32, doubled up to 512; six scales for images of 224",
        "deep_supervision": "paper: at all but the two coarsest resolutions, weights halved from scale to scale",
        "stages.segment.epochs": "paper: 1000",
        "stages.segment.steps_per_epoch": "paper: 250",
        "stages.segment.optim.name": "paper: SGD with Nesterov momentum",
        "stages.segment.optim.lr": "paper: 0.01",
        "stages.segment.optim.betas": "paper: momentum 0.99 (the first number)",
        "stages.segment.optim.weight_decay": "code: 3e-5",
        "stages.segment.schedule.name": "paper: poly, (1 - epoch / epochs)^0.9 (here by step)",
        "stages.segment.schedule.lr_min": "paper: 0",
        "stages.segment.clip_norm": "code: 12",
        "stages.segment.weights.dice": "paper: the sum of Dice and cross-entropy",
        "stages.segment.weights.bce": "paper: the sum of Dice and cross-entropy",
        "stages.segment.augment.rotate_deg": "paper: rotation, scaling, brightness, contrast, gamma; the ranges are "
        "chosen by us, smaller than there",
        "stages.segment.augment.scale": "paper: 0.7 to 1.4",
        "stages.segment.augment.flip": "paper: mirroring (here 0: a mirrored image makes the prompt false)",
    },
    deviations=(
        "one sigmoid channel instead of a softmax over two",
        "Dice per image, where nnU-Net's 2-D Dice is that of the batch",
        "no noise, blur or simulated low resolution among the augmentations, no mirroring at test time",
        "SSA's printed pair (84.39, 72.35) cannot be of one protocol: Dice 84.39 means a pooled IoU of 73.00",
    ),
)


class NNUNetLikeRecipe(Recipe):
    """Fields of `nnunet_like`.

    Attributes:
        widths: channels per scale, fine to coarse.
        deep_supervision: a loss at all but the two coarsest scales; otherwise at the finest alone.
    """

    needs_text = False

    method: str = "nnunet_like"
    widths: tuple[int, ...] = Field((32, 64, 128, 256, 512, 512), min_length=3)
    deep_supervision: bool = True
    stages: tuple[Stage, ...] = (
        Stage(
            name="segment",
            epochs=1000,
            steps_per_epoch=250,
            batch_size=32,
            optim=Optim(name="nesterov", lr=1e-2, weight_decay=3e-5, betas=(0.99, 0.999)),
            schedule=Schedule(name="poly", lr_min=0.0),
            weights={"dice": 1.0, "bce": 1.0},
            augment=Augment(
                rotate_deg=15.0,
                scale=(0.7, 1.4),
                gamma=(0.7, 1.5),
                brightness=0.1,
                contrast=0.25,
            ),
            clip_norm=12.0,
        ),
    )

    def lite(self) -> Self:
        """1.3 M parameters at full size, AdamW in one cycle: momentum of 0.99 needs more steps than this budget has."""
        stages = (self.stages[0].lite(epochs=8, steps_per_epoch=None, clip_norm=1.0),)
        return self.model_copy(update={"widths": (8, 16, 32, 64, 128, 128), "stages": stages})

    def smoke(self) -> Self:
        """Tiny, for tests."""
        return super().smoke().model_copy(update={"widths": (4, 6, 8, 8)})


def build_nnunet_like(recipe: NNUNetLikeRecipe) -> Method:
    """Build the network; only this imports torch."""
    from textmask.methods.nnunet_like.method import NNUNetLike

    return NNUNetLike(recipe)


SPEC = MethodSpec("nnunet_like", CARD, NNUNetLikeRecipe, build_nnunet_like)
