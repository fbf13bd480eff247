"""`semi_medref`: semi-supervised referring segmentation with augmentations that keep image and prompt consistent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field

from textmask.config import EMA, Augment, Optim, Ramp, Recipe, Schedule, Stage
from textmask.methods.presets import BURN_IN_STEPS, LITE0_LR
from textmask.methods.registry import Arm, Card, MethodSpec
from textmask.nn.fields import LITE_BACKBONE, PAPER_BACKBONE, SMOKE_BACKBONE, BackboneFields

if TYPE_CHECKING:
    from textmask.methods.base import Method

CARD = Card(
    title="Semi-MedRef: teacher and student; mixed images and prompts stay consistent with each other",
    paper="Li et al., Semi-MedRef: Semi-Supervised Medical Referring Image Segmentation with Cross-Modal Alignment",
    published={
        "qata-cov19": {"dice_pooled": 91.39, "iou_pooled": 84.14}
    },  # all labels; 86.39 with 1 % of them
    symbols={
        "f_s, f_t": ("SemiMedRef.net, SemiMedRef.teacher", "networks"),
        "y-hat (Eq. 3), mixed (Eq. 8)": ("Mixed.target", "B 1 H W, 0 or 1"),
        "M (Eq. 6)": ("Mixed.mix_mask", "B 1 H W"),
        "r (Eq. 7)": ("gated", "B"),
        "z_I, z_T": ("image_head, text_head", "B E"),
        "A": ("jaccard_target", "B B"),
        "lambda_u, w_s, w_u": ("weights cons, itcl_l, itcl_u of stage semi", "scalars"),
    },
    limits="Unlabelled images need their prompt. The student also learns the teacher's errors.",
    sources={
        "backbone.name": "paper: MMI-UNet",
        "backbone.image_encoder": "paper: ConvNeXt",
        "text_encoder": "paper: CXR-BERT",
        "image_size": "paper: resized (the size was lost in our copy); code: 224",
        "ema.*": "paper: a moving average; code: the decay",
        "tau": "code: 0.55",
        "text_view": "paper: PosAug",
        "posaug_p": "paper: 0.5",
        "mix": "paper: T-PatchMix",
        "block_px": "code: 16",
        "contrast": "paper: ITCL",
        "contrast_tau": "paper: 0.07",
        "stages.*.batch_size": "paper: 32",
        "stages.*.optim.name": "paper: AdamW",
        "stages.*.optim.lr": "code: 3e-4",
        "stages.semi.schedule.*": "paper: cosine",
        "stages.*.augment.scale": "paper: RandomZoom; code: 0.95 to 1.2",
        "stages.semi.views": "paper: ColorJitter and GaussianBlur",
        "stages.semi.weights.itcl_l": "paper: 0.02",
        "stages.semi.weights.itcl_u": "paper: 0.1",
    },
)
# only a zoom, as in the released code; flips would make the prompt false
ZOOM = Augment(rotate_deg=0.0, translate=0.0, scale=(0.95, 1.2))


class SemiMedRefRecipe(Recipe):
    """Fields of `semi_medref`; the defaults are the released code's, except for its bugs.

    Attributes:
        backbone: the network, its image encoder and its fields.
        text_encoder: frozen; `standardise_text` shifts and scales its text embeddings by those of the training prompts.
        ema: decay of the teacher's average.
        tau: confidence above which the teacher's pixel is lesion; also used by the lesion gate and the mixed target.
        text_view: of the student's unlabelled prompts: PosAug, the paper's baseline `generic`, or none.
        posaug_p, posaug_mode: probability of PosAug; dropout, fuzzing or a mix of both.
        mix: T-PatchMix by position or by probability, as `released`, the paper's baseline `naive` (CutMix), or none.
        block_px, mix_share, mix_p, gate: see `textmask.data.patch_mix.PatchMix`.
        contrast: ITCL or the paper's baseline, CLIP's loss.
        contrast_tau: temperature of the contrast.
        align_width: E, width of the contrast's embeddings.
    """

    method: str = "semi_medref"
    backbone: BackboneFields = PAPER_BACKBONE
    text_encoder: str = "cxr_bert"
    standardise_text: bool = False
    ema: EMA = EMA(start=0.99, end=0.999, ramp_steps=3580)
    tau: float = Field(0.55, gt=0, lt=1)
    text_view: Literal["none", "posaug", "generic"] = "posaug"
    posaug_p: float = Field(0.5, ge=0, le=1)
    posaug_mode: Literal["mix", "dropout", "fuzzing"] = "mix"
    mix: Literal["none", "position", "probability", "released", "naive"] = "position"
    block_px: int = Field(16, ge=1)
    mix_share: float = Field(0.5, ge=0, le=1)
    mix_p: float = Field(0.08, ge=0, le=1)
    gate: Literal["sample", "block"] = "block"
    contrast: Literal["itcl", "clip"] = "itcl"
    contrast_tau: float = Field(0.07, gt=0)
    align_width: int = Field(256, ge=1)
    stages: tuple[Stage, ...] = (
        Stage(
            name="burn_in",
            epochs=5,
            steps_per_epoch=BURN_IN_STEPS,
            batch_size=32,
            optim=Optim(lr=3e-4),
            schedule=Schedule(name="constant"),
            augment=ZOOM,
            lr_scale={"image_head.*": 0.0, "text_head.*": 0.0},
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
            augment=ZOOM,
            views=("strong_blur",),
            weights={
                "dice": 1.0,
                "bce": 1.0,
                "cons": Ramp(to=0.3, end_epoch=15),
                "itcl_l": 0.02,
                "itcl_u": 0.1,
            },
            patience=30,
        ),
    )

    def lite(self) -> Self:
        """CPU preset: EfficientNet-Lite0, MiniLM; an epoch draws 20 batches of 16 + 16; 20 minutes on two cores."""
        burn_in, semi = self.stages
        common = {
            "lr_scale": LITE0_LR,
            "batch_size": 16,
            "steps_per_epoch": 20,
            "augment": Augment(),
        }

        frozen_heads = {**common, "lr_scale": {**LITE0_LR, **burn_in.lr_scale}}
        burn_in = burn_in.lite(epochs=5, **frozen_heads, schedule=Schedule(name="constant"))
        weights = {**semi.weights, "cons": Ramp(to=0.3, end_epoch=5)}
        semi = semi.lite(
            epochs=20, **common, unlabelled_batch_size=16, weights=weights, validate_every=5
        )
        lite = {"backbone": LITE_BACKBONE, "text_encoder": "minilm", "standardise_text": True}
        return self.model_copy(
            update={**lite, "ema": EMA(start=0.99, end=0.99), "stages": (burn_in, semi)}
        )

    def smoke(self) -> Self:
        """Tiny, for tests."""
        net = {"backbone": SMOKE_BACKBONE, "text_encoder": "tiny", "align_width": 8, "block_px": 8}
        burn_in, semi = super().smoke().stages
        semi = semi.model_copy(
            update={
                "unlabelled_batch_size": 4,
                "weights": {**semi.weights, "cons": 0.3},
                "schedule": Schedule(),
            }
        )
        return super().smoke().model_copy(update={**net, "stages": (burn_in, semi)})


SUPERVISED = (
    "stages.semi.weights.cons=0.0",
    "stages.semi.weights.itcl_l=0.0",
    "stages.semi.weights.itcl_u=0.0",
)
NO_ITCL = SUPERVISED[1:]
PLAIN = ("text_view=none", "mix=none")
# the lite presets, cheap enough for many seeds: 260 batches of 16 labelled images each, 128 x 128 pixels
SMALL = ("image_size=[128,128]",)
SHORT = (*SMALL, "stages.semi.epochs=8")
SUPERVISED_ALONE = (
    "stages.segment.epochs=13",
    "stages.segment.steps_per_epoch=20",
    "stages.segment.batch_size=16",
    "stages.segment.validate_every=5",
)
ABLATION_TABLES = {
    # every method of Table 1 that is here, in the paper's order; 1 % is of Table 2
    "table1": (
        *(
            Arm(
                f"{name}-{percent}",
                f"{title}, {percent} % of the labels",
                (f"stages.*.labelled_fraction={percent / 100}", *settings),
                method=name,
            )
            for name, title, settings in (
                ("lavt", "LAVT", ()),
                ("lvit", "LViT", ("stages.*.unlabelled_batch_size=32",)),
                ("guide_decoder", "GuideDecoder", ()),
                ("mmi_unet", "MMI-UNet", ()),
            )
            for percent in (2, 5, 15, 100)
        ),
        *(
            Arm(
                f"labels-{percent}",
                f"{percent} % of the labels",
                (f"stages.*.labelled_fraction={percent / 100}",),
            )
            for percent in (1, 2, 5, 15, 100)
        ),
    ),
    "table2": (
        Arm("baseline", "backbone, labelled pictures only", (*SUPERVISED, *PLAIN)),
        Arm("teacher", "+ T-S EMA", (*NO_ITCL, *PLAIN)),
        Arm("posaug", "+ PosAug", (*NO_ITCL, "mix=none")),
        Arm("mix", "+ T-PatchMix", NO_ITCL),
        Arm("itcl", "+ ITCL: Semi-MedRef", ()),
    ),
    "table3": (
        Arm("teacher", "strong pictures only", (*NO_ITCL, *PLAIN)),
        Arm("text-strong", "TextStrong", (*NO_ITCL, "text_view=generic", "mix=none")),
        Arm("cutmix", "w/ CutMix", (*NO_ITCL, "text_view=none", "mix=naive")),
        Arm("spc", "w/ SPC", method="spc"),
        Arm("v1", "PosAug", (*NO_ITCL, "mix=none")),
        Arm("v2", "T-PatchMix", (*NO_ITCL, "text_view=none")),
        Arm(
            "v2-probability",
            "T-PatchMix by probability",
            (*NO_ITCL, "text_view=none", "mix=probability"),
        ),
        Arm("v2-released", "T-PatchMix as released", (*NO_ITCL, "text_view=none", "mix=released")),
        Arm("v3", "PosAug, T-PatchMix, CLIP loss", ("contrast=clip",)),
        Arm("all", "PosAug, T-PatchMix, ITCL", ()),
    ),
    "few_labels": (
        Arm(
            "supervised",
            "MMI-UNet, labelled pictures only",
            (*SUPERVISED_ALONE, *SMALL),
            method="mmi_unet",
        ),
        Arm("mean_teacher", "Mean Teacher over MMI-UNet", SHORT, method="mean_teacher"),
        Arm("semi_medref", "Semi-MedRef over MMI-UNet", (*SHORT, "block_px=8")),
        Arm(
            "statement_unet",
            "parsed zones, no language model",
            (*SUPERVISED_ALONE, *SMALL),
            method="statement_unet",
        ),
        Arm("unet", "image only", (*SUPERVISED_ALONE, *SMALL), method="unet"),
        Arm("text_prior", "mean mask of the sentence, no image", method="text_prior"),
    ),
}


def build_semi_medref(recipe: SemiMedRefRecipe) -> Method:
    """Build the network; only this imports torch."""
    from textmask.methods.semi_medref.method import SemiMedRef

    return SemiMedRef(recipe)


SPEC = MethodSpec(
    "semi_medref", CARD, SemiMedRefRecipe, build_semi_medref, ablation_tables=ABLATION_TABLES
)
