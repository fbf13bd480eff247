"""Training settings that several methods share."""

from __future__ import annotations

from textmask.config import Augment, Optim, Schedule, Stage

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
