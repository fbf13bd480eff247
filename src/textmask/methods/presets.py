"""Training settings that several methods share."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from textmask.config import Augment, Optim, Ramp, Recipe, Schedule, Stage
from textmask.nn.fields import (
    LITE_BACKBONE,
    LITE_UNET,
    PAPER_BACKBONE,
    SMOKE_BACKBONE,
    SMOKE_UNET,
    BackboneFields,
    UNetFields,
)

# baselines of every result table, for a GPU
BASELINE_STAGE = Stage(
    name="segment",
    epochs=100,
    batch_size=16,
    optim=Optim(lr=1e-4),
    schedule=Schedule(name="cosine"),
    weights={"dice": 0.5, "bce": 0.5},
    patience=20,
)
# printed by TransUNet and Swin-Unet alike; rate and loss are those of each
TRANSFORMER_STAGE = Stage(
    name="segment",
    epochs=150,
    batch_size=24,
    optim=Optim(name="sgd", weight_decay=1e-4),
    schedule=Schedule(name="poly", lr_min=0.0),
)
# where these settings come from, for the cards of both
TRANSFORMER_SOURCES = {
    "image_size": "paper: 224",
    "stages.segment.epochs": "code: 150",
    "stages.segment.batch_size": "paper: 24",
    "stages.segment.optim.name": "paper: SGD",
    "stages.segment.optim.betas": "paper: momentum 0.9 (the first number)",
    "stages.segment.optim.weight_decay": "paper: 1e-4",
    "stages.segment.schedule.name": "code: poly, exponent 0.9",
    "stages.segment.schedule.lr_min": "code: 0",
    "stages.segment.augment.rotate_deg": "paper: random rotation and flip; here small and without flips, which "
    "make the prompt false (code: 20 degrees)",
}
# settings of the released code of GuideDecoder and MMI-UNet, also for the methods built on them
BACKBONE_STAGE = Stage(
    name="segment",
    epochs=100,
    batch_size=32,
    optim=Optim(lr=3e-4),
    schedule=Schedule(name="cosine"),
    weights={"dice": 0.5, "bce": 0.5},
    patience=20,
)
# of an epoch of the burn-in, whatever the number of labels: the released code of Semi-MedRef repeats the labelled
# images until all of QaTa's train split has been drawn, 179 batches of 32
BURN_IN_STEPS = 179
# what all semi-supervised baselines change in their papers' recipes, for their cards
TWO_STREAM_DEVIATIONS = (
    "The network reads the prompt (network=text_guided); the paper's reads only the image, as does network=unet, the "
    "U-Net of DuSSS.",
    "The same for all semi-supervised baselines, so that only the loss on unlabelled images differs: a burn-in with "
    "labels alone, Dice next to the cross-entropy, AdamW, a ramp of the weights on unlabelled images, and strong views "
    "that change brightness and contrast and blur.",
)
IN_NO_TABLE = (
    "Not in the tables of DuSSS and Semi-MedRef: a further baseline at the same budget.",
)
# GuideDecoder and MMI-UNet themselves: zoom of every tenth image, a cosine over 200 epochs of which at most 100 are run
RELEASED_STAGE = BACKBONE_STAGE.model_copy(
    update={
        "schedule": Schedule(name="warm_restarts", period_epochs=200),
        "augment": Augment(p=0.1, rotate_deg=0.0, translate=0.0, scale=(0.95, 1.2)),
    }
)
# where these settings come from, for the cards of both
RELEASED_SOURCES = {
    "image_size": "code: 224",
    "text_encoder": "paper: CXR-BERT, frozen",
    "net.head": "code: 332 185 parameters, does not see the image",
    "net.intensity": "code: each channel of each image",
    "net.head_channels": "code: 24",
    "stages.segment.epochs": "code: at most 100",
    "stages.segment.batch_size": "code: 32",
    "stages.segment.optim.name": "code: AdamW",
    "stages.segment.optim.lr": "code: 3e-4, whatever the configuration says",
    "stages.segment.schedule.*": "code: cosine, T_max 200, to 1e-6",
    "stages.segment.augment.p": "code: 0.1",
    "stages.segment.augment.scale": "code: zoom 0.95 to 1.2, bicubic (here bilinear)",
    "stages.segment.weights.dice": "code: Dice and cross-entropy; with the pinned MONAI the latter is 0",
    "stages.segment.weights.bce": "code: Dice and cross-entropy; with the pinned MONAI the latter is 0",
    "stages.segment.patience": "code: 20, on the validation loss (here on select_on)",
}
# for the CPU presets on EfficientNet-Lite0: its two finest scales are frozen, which saves a quarter of a step, and the
# other scales learn more slowly than the layers after them
LITE0_LR = {
    "net.encoder.conv_stem.*": 0.0,
    "net.encoder.bn0.*": 0.0,
    "net.encoder.blocks.[012].*": 0.0,
    "net.encoder.*": 0.25,
}
# the same for methods whose encoder is not part of a `net`
ENCODER_LR = {pattern.removeprefix("net."): factor for pattern, factor in LITE0_LR.items()}
# their budget: the encoder knows images already, and each step costs more than one of a small U-Net
LITE0_STEPS = 240


def two_stream_stages(
    burn_in: dict[str, float] | None = None,
    views: tuple[str, ...] = ("strong_blur",),
    **unlabelled: float,
) -> tuple[Stage, ...]:
    """The two stages of every semi-supervised baseline: only the loss on unlabelled images differs between them.

    Args:
        burn_in: `lr_scale` of the burn-in, for parts that only unlabelled images train.
        views: of the unlabelled images.
        unlabelled: name of each loss term on unlabelled images -> its weight at the end of the ramp.
    """
    ramps = {name: Ramp(to=to, end_epoch=40, shape="sigmoid") for name, to in unlabelled.items()}
    return (
        Stage(
            name="burn_in",
            epochs=5,
            steps_per_epoch=BURN_IN_STEPS,
            batch_size=32,
            optim=Optim(lr=3e-4),
            schedule=Schedule(name="constant"),
            lr_scale=burn_in or {},
            weights={"dice": 1.0, "bce": 1.0},
            select="last",
        ),
        Stage(
            name="semi",
            epochs=95,
            batch_size=32,
            unlabelled_batch_size=32,
            optim=Optim(lr=3e-4),
            schedule=Schedule(name="cosine"),
            views=views,
            weights={"dice": 1.0, "bce": 1.0, **ramps},
            patience=30,
        ),
    )


class TwoStreamRecipe(Recipe):
    """Fields of the semi-supervised baselines, with equal budgets in every preset.

    Attributes:
        network: `text_guided` is the backbone below, `unet` an image-only U-Net (as the baselines of DuSSS's Table 1).
            With `unet` the CPU preset also needs `stages.*.lr_scale={}`: its patterns name parts of the backbone.
        backbone: the text-guided network, its image encoder and its fields.
        text_encoder: frozen; of the text-guided network.
        unet: the image-only network.
    """

    # networks of the method whose image encoder is pretrained
    networks: ClassVar[tuple[str, ...]] = ("net",)

    network: Literal["text_guided", "unet"] = "text_guided"
    backbone: BackboneFields = PAPER_BACKBONE
    text_encoder: str = "cxr_bert"
    unet: UNetFields = UNetFields()
    stages: tuple[Stage, ...] = two_stream_stages(cons=1.0)

    def lite(self) -> Self:
        """CPU preset: EfficientNet-Lite0, MiniLM; an epoch draws 20 batches of 16 + 16; 20 minutes on two cores."""
        slower = {}
        for network in self.networks:
            for pattern, factor in LITE0_LR.items():
                slower[pattern.replace("net.", f"{network}.", 1)] = factor
        common = {"batch_size": 16, "steps_per_epoch": 20, "augment": Augment()}

        burn_in, semi = self.stages
        burn_in = burn_in.lite(
            epochs=5,
            **common,
            lr_scale={**slower, **burn_in.lr_scale},
            schedule=Schedule(name="constant"),
        )
        weights = dict(semi.weights)
        for name, weight in weights.items():
            if isinstance(weight, Ramp):
                weights[name] = weight.model_copy(update={"end_epoch": 8})
        semi = semi.lite(
            epochs=20,
            **common,
            lr_scale=slower,
            unlabelled_batch_size=16,
            weights=weights,
            validate_every=5,
        )
        nets = {"backbone": LITE_BACKBONE, "text_encoder": "minilm", "unet": LITE_UNET}
        return self.model_copy(update={**nets, "stages": (burn_in, semi)})

    def smoke(self) -> Self:
        """Tiny, for tests."""
        burn_in, semi = super().smoke().stages
        weights = dict(semi.weights)
        for name, weight in weights.items():
            weights[name] = weight.to if isinstance(weight, Ramp) else weight
        semi = semi.model_copy(update={"unlabelled_batch_size": 4, "weights": weights})
        nets = {"backbone": SMOKE_BACKBONE, "text_encoder": "tiny", "unet": SMOKE_UNET}
        return super().smoke().model_copy(update={**nets, "stages": (burn_in, semi)})
