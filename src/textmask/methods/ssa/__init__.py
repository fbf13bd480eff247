"""`ssa`: symmetric optimal transport alignment and composite directional guidance over a text-guided backbone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from textmask.config import Ramp, Recipe, Stage
from textmask.methods.presets import BACKBONE_STAGE, LITE0_LR, LITE0_STEPS
from textmask.methods.registry import Arm, Card, MethodSpec
from textmask.nn.fields import LITE_BACKBONE, PAPER_BACKBONE, SMOKE_BACKBONE, BackboneFields

if TYPE_CHECKING:
    from textmask.methods.base import Method

CARD = Card(
    title="SSA: tokens aligned by optimal transport, the mask guided to the places that the prompt names",
    paper="Liao, Liu and Geng, Spatial-aware Symmetric Alignment for Text-guided Medical Image Segmentation",
    published={
        "qata-cov19": {"dice_pooled": 91.65, "iou_pooled": 84.60},
        "mosmeddata+": {"dice_pooled": 80.37, "iou_pooled": 67.19},
    },
    symbols={
        "f_img, f_txt": ("Aligned.image_tokens, Aligned.text_tokens", "B N E, B L E"),
        "M": ("cosine_cost", "B N L"),
        "L_global, L_local": ("losses global, local", "scalars"),
        "A_norm": ("attention_map", "B 1 h w in [0, 1]"),
        "M_pri": ("prior", "B 1 H W in [0, 1]"),
        "M_guide": ("Guidance.guide", "B 1 H W in [0, 1]"),
        "P_pred, P_refined": ("sigmoid of the logits, refined", "B 1 H W"),
        "lambda_global, lambda_local": ("weights global, local of the stage", "scalars"),
    },
    limits="Alignment and guidance act in training only. Places that the grammar does not find give no guidance.",
    sources={
        "image_size": "paper: 224",
        "backbone.name": "paper: a U-Net-based baseline, MMI-UNet or GuideDecoder",
        "backbone.image_encoder": "code of the baselines: ConvNeXt-Tiny",
        "backbone.*": "code of the baselines, see their cards",
        "text_encoder": "code of the baselines: CXR-BERT, frozen",
        "eps": "paper: 3e-2",
        "max_iterations": "paper: 100",
        "tolerance": "paper: 1e-2",
        "guide_gradient": "paper: dynamic, end-to-end (an arm here)",
        "stages.segment.optim.name": "paper: AdamW",
        "stages.segment.optim.lr": "code of MMI-UNet: 3e-4",
        "stages.segment.batch_size": "code of MMI-UNet: 32",
        "stages.segment.epochs": "code of MMI-UNet: at most 100",
        "stages.segment.patience": "code of MMI-UNet: 20",
        "stages.segment.augment.rotate_deg": "paper: random affine; the range is chosen by us",
        "stages.segment.augment.translate": "paper: random affine; the range is chosen by us",
        "stages.segment.augment.scale": "paper: random affine; the range is chosen by us",
        "stages.segment.weights.global": "paper: lambda_global, no value; 0.1 is chosen by us",
        "stages.segment.weights.local": "paper: lambda_local, no value; 0.1 is chosen by us",
    },
    deviations=(
        "A_norm is a cosine map, because a softmax over words is not a map of places",
        "P_refined carries no gradient through the prediction; prompts without a place are not guided",
    ),
)


class SSARecipe(Recipe):
    """Fields of `ssa`; the defaults are the paper's, or our choice if the paper does not give a value.

    Attributes:
        backbone: the network, its image encoder and its fields.
        text_encoder: frozen.
        align_scale: which fused scale is aligned, 0 the coarsest.
        align_width: E of the common space; `align_heads`: heads of the interactor that a GuideDecoder's text needs.
        tau: temperature of L_global; with `merge_equal_text` equal prompts are not negatives of each other.
        eps, max_iterations, tolerance, plan_gradient: settings of the transport, see `textmask.losses.transport`.
        frame: frame of the Gaussians of M_pri, the image or the box of the attention.
        box: edge of the box of the attention, see `textmask.methods.ssa.guidance.guidance`.
        guide_gradient: whether L_guide also trains the attention ("dynamic, end-to-end") or the prediction alone.
        refine: how P_pred and M_guide are fused, see `textmask.methods.ssa.guidance.refined`.
        beta: share of the fusion in P_refined.
        dead_zone: range of ambiguous M_guide values that are not trained on; null uses every pixel.
    """

    method: str = "ssa"
    backbone: BackboneFields = PAPER_BACKBONE
    text_encoder: str = "cxr_bert"
    align_scale: int = Field(0, ge=0)
    align_width: int = Field(256, ge=1)
    align_heads: int = Field(8, ge=1)
    tau: float = Field(0.07, gt=0)
    merge_equal_text: bool = False
    eps: float = Field(0.03, gt=0)
    max_iterations: int = Field(100, ge=1)
    tolerance: float = Field(1e-2, gt=0)
    plan_gradient: Literal["detached", "implicit"] = "detached"
    frame: Literal["image", "box"] = "image"
    box: Literal["tight", "soft"] = "tight"
    guide_gradient: Literal["none", "attention"] = "none"
    refine: Literal["mix", "product", "renormalised"] = "mix"
    beta: float = Field(0.3, ge=0, le=1)
    dead_zone: tuple[float, float] | None = (0.3, 0.7)
    stages: tuple[Stage, ...] = (
        BACKBONE_STAGE.model_copy(
            update={
                "weights": {
                    **BACKBONE_STAGE.weights,
                    "global": 0.1,
                    "local": 0.1,
                    "guide": Ramp(to=0.1, start_epoch=10, end_epoch=11),
                }
            }
        ),
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.align_scale >= self.backbone.scales:
            name, scales = self.backbone.name, self.backbone.scales
            raise ValueError(
                f"align_scale is {self.align_scale}; {name} fuses {scales} scales, 0 is the coarsest"
            )
        if self.dead_zone is not None and not 0 <= self.dead_zone[0] <= self.dead_zone[1] <= 1:
            raise ValueError(
                f"dead_zone is {self.dead_zone}; expected two values in [0, 1], the lower first, or null"
            )
        return self

    def lite(self) -> Self:
        """CPU preset: EfficientNet-Lite0, MiniLM; QaTa within 40 minutes on two cores."""
        stage = self.stages[0]
        weights = {**stage.weights, "guide": Ramp(to=0.1, start_epoch=2, end_epoch=3)}
        net = {"backbone": LITE_BACKBONE, "text_encoder": "minilm", "merge_equal_text": True}
        stages = (stage.lite(epochs=8, steps=LITE0_STEPS, lr_scale=LITE0_LR, weights=weights),)
        return self.model_copy(update={**net, "stages": stages})

    def smoke(self) -> Self:
        """Tiny, for tests."""
        net = {
            "backbone": SMOKE_BACKBONE,
            "text_encoder": "tiny",
            "align_width": 8,
            "align_heads": 2,
        }
        smoke = super().smoke().model_copy(update=net)
        return smoke.override("stages.segment.weights.guide=0.1")


NO_DSOT = ("stages.segment.weights.global=0.0", "stages.segment.weights.local=0.0")
NO_CDG = ("stages.segment.weights.guide=0.0",)
# readings of CDG to choose between, on a tenth of the labels
TENTH = "stages.segment.labelled_fraction=0.1"
END_TO_END = ("guide_gradient=attention", "box=soft")
GUIDANCE = {
    "none": ("no guidance", NO_CDG),
    "mix": ("mix, dead zone, no gradient: the default", ()),
    "no-dead-zone": ("mix, every pixel", ("dead_zone=null",)),
    "gradient": ("mix, attention with gradient", ("guide_gradient=attention",)),
    "soft-box": ("mix, attention with gradient, soft box", END_TO_END),
    "product": ("product, every pixel", ("refine=product", "dead_zone=null")),
    "renormalised": ("renormalised product", ("refine=renormalised", "dead_zone=null")),
    "end-to-end": (
        "renormalised product, attention with gradient, soft box",
        ("refine=renormalised", "dead_zone=null", *END_TO_END),
    ),
}
ABLATION_TABLES = {
    # Table I: every row whose network is here, in the paper's order
    "table1": (
        Arm("unet", "U-Net", method="unet"),
        Arm("unet_pp", "U-Net++", method="unet_pp"),
        Arm("attention_unet", "Attention U-Net", method="attention_unet"),
        Arm("nnunet_like", "nnU-Net, plain network", method="nnunet_like"),
        Arm("lvit", "LViT", method="lvit"),
        Arm("guide_decoder", "GuideDecoder", method="guide_decoder"),
        Arm("mmi_unet", "MMI-UNet", method="mmi_unet"),
        Arm("ssa", "SSA"),
    ),
    "table2": (
        Arm("1", "backbone", (*NO_DSOT, *NO_CDG)),
        Arm("2", "CDG", NO_DSOT),
        Arm("3", "DSOT", NO_CDG),
        Arm("4", "DSOT and CDG: SSA", ()),
    ),
    "table3": (
        Arm(
            "unet",
            "image only, all labels",
            ("stages.segment.labelled_fraction=1.0",),
            method="unet",
        ),
        *(
            Arm(
                f"ssa-{percent}",
                f"SSA, {percent} % of the labels",
                (f"stages.segment.labelled_fraction={percent / 100}",),
            )
            for percent in (15, 25, 50, 100)
        ),
    ),
    "guidance": tuple(
        Arm(name, title, (TENTH, *settings)) for name, (title, settings) in GUIDANCE.items()
    ),
}


def build_ssa(recipe: SSARecipe) -> Method:
    """Build the network; only this imports torch."""
    from textmask.methods.ssa.method import SSA

    return SSA(recipe)


SPEC = MethodSpec("ssa", CARD, SSARecipe, build_ssa, ablation_tables=ABLATION_TABLES)
