"""`biclip`: bidirectional language-image fusion through a pseudo image (Talaei et al.)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

from textmask.config import Augment, Optim, Recipe, Schedule, Stage
from textmask.methods.registry import Arm, Card, MethodSpec
from textmask.nn.fields import LITE_WIDTHS, NormName

if TYPE_CHECKING:
    from textmask.methods.base import Method

CARD = Card(
    title="BiCLIP: text refined by the image, a pseudo image generated from it, U-Net over both",
    paper="Talaei et al., BiCLIP: Bidirectional and Consistent Language-Image Processing for Robust Medical Image "
    "Segmentation",
    published={"qata-cov19": {"dice_pooled": 90.59, "iou_pooled": 82.81}},
    symbols={
        "t": ("text", "B E, E = text_grid^2"),
        "i": ("image_embedding", "B I"),
        "t' = t + g_BMF([t; i])": ("refined", "B E"),
        "x_hat": ("pseudo_image", "B 3 H W in [0, 1]"),
        "t_hat = h(x_hat)": ("cycled", "B E"),
        "x_cat, x_g": ("joint", "B 6 H W"),
        "F(x_w), F(x_s)": ("feature_weak, feature_strong", "B C H/s W/s"),
        "p_w, p_s": ("projected_weak, projected_strong", "B P"),
        "lambda_gen, lambda_IAC, lambda_cycle": ("weights gen, iac, cycle of the stage", "scalars"),
    },
    limits="Uses one pooled vector per prompt; the frozen encoder may not distinguish small changes of wording.",
    sources={
        "text_encoder": "paper: CXR-BERT, frozen",
        "text_grid": "code: 784 = 28^2",
        "fusion": "paper: BMF (Eq. 1)",
        "image_widths": "code: 64, 256",
        "generator_widths": "code: 16, 8",
        "head_widths": "code: 32, 64",
        "iac_width": "code: 256",
        "widths": "code: 64 to 1024",
        "image_size": "paper: 224",
        "cycle_norm": "paper: squared L2; code: L1",
        "iac_target": "code: strong branch detached",
        "warp": "paper: joint (Eq. 3)",
        "spatial.rotate_deg": "code: 20",
        "spatial.translate": "code: 0.1",
        "spatial.scale": "code: 0.8 to 1.2",
        "spatial.p": "code: 0.7 (here 1)",
        "spatial.flip": "code: 0.5 in both directions (here 0: a mirrored image makes the prompt false)",
        "weak": "code: normalization only",
        "strong": "code: gamma, noise, brightness, contrast, blur",
        "stages.segment.epochs": "paper: 150",
        "stages.segment.batch_size": "paper: 16; code: 1",
        "stages.segment.optim.name": "paper: AdamW",
        "stages.segment.optim.lr": "paper: 1e-4",
        "stages.segment.schedule.name": "paper: cosine with warm restarts",
        "stages.segment.schedule.period_epochs": "code: all epochs",
        "stages.segment.weights.seg": "paper: Dice and cross-entropy, weight 1",
        "stages.segment.weights.gen": "code: 0.1",
        "stages.segment.weights.iac": "code: 0.05",
        "stages.segment.weights.cycle": "code: 0.07",
        "select_on": "code: pooled Dice (here per image)",
        "threshold": "code: 0.5",
    },
)


class BiCLIPRecipe(Recipe):
    """Fields of `biclip`; the defaults are the paper's, or the official code's if the paper does not give a value.

    Attributes:
        text_encoder: frozen encoder; `standardise_text` shifts and scales its text embeddings by the mean and
            deviation of the training prompts, which frozen vectors of near-equal captions need.
        text_grid: the projected text has text_grid^2 dimensions and is read as a text_grid x text_grid map.
        fusion: `bmf` refines the text by the image (Eq. 1); `none` generates the pseudo image from the text alone.
        image_widths: channels of the two convolutions of the image branch; its input is pooled by `branch_pool`.
        generator_widths: channels of the transposed convolutions between the map and the pseudo image.
        head_widths: channels of the image-to-text head h.
        cycle_norm: squared L2 as in Eq. 2 (mean over dimensions), or the released code's L1.
        iac_target: `detached` strong branch (released code), or gradient through `both`.
        warp: `joint` warps image, pseudo image and mask together (Eq. 3); `input` warps image and mask before, in the
            loader, which is cheaper and keeps the pseudo image in the frame of the mask.
        spatial: the geometric augmentation A_g of Eq. 3, used when `warp` is "joint". Flips stay off: a mirrored
            image makes "left" false.
        weak, strong: photometric presets of `textmask.data.transforms`.
    """

    method: str = "biclip"
    text_encoder: str = "cxr_bert"
    standardise_text: bool = False
    text_grid: int = 28
    fusion: Literal["bmf", "none"] = "bmf"
    image_widths: tuple[int, int] = (64, 256)
    branch_pool: int = 1
    generator_widths: tuple[int, int] = (16, 8)
    head_widths: tuple[int, int] = (32, 64)
    iac_width: int = 256
    widths: tuple[int, ...] = (64, 128, 256, 512, 1024)
    stem_stride: int = 1
    norm: NormName = "batch"
    cycle_norm: Literal["l2", "l1"] = "l2"
    iac_target: Literal["detached", "both"] = "detached"
    warp: Literal["joint", "input"] = "joint"
    spatial: Augment = Augment(rotate_deg=20.0, translate=0.1, scale=(0.8, 1.2))
    weak: str = "weak"
    strong: str = "strong"
    stages: tuple[Stage, ...] = (
        Stage(
            name="segment",
            epochs=150,
            batch_size=16,
            optim=Optim(lr=1e-4),
            schedule=Schedule(name="warm_restarts", period_epochs=150),
            weights={"seg": 1.0, "gen": 0.1, "iac": 0.05, "cycle": 0.07},
            augment=None,
        ),
    )

    def lite(self) -> Self:
        """CPU preset: MiniLM, the stride-4 U-Net, small branches; QaTa in under 40 minutes on two cores.

        At the preset's higher learning rate the squared cycle loss of Eq. 2 outgrows the others, hence the L1 of the
        released code.
        """
        stage = self.stages[0].lite(epochs=12, views=("strong",))
        small = {
            "image_widths": (32, 64),
            "branch_pool": 4,
            "head_widths": (16, 32),
            "iac_width": 64,
        }
        net = {"widths": LITE_WIDTHS, "stem_stride": 4, "warp": "input"}
        text = {"text_encoder": "minilm", "standardise_text": True, "cycle_norm": "l1"}
        return self.model_copy(update={**small, **net, **text, "stages": (stage,)})

    def smoke(self) -> Self:
        """Tiny, for tests."""
        small = {"image_widths": (4, 8), "head_widths": (4, 8), "iac_width": 8, "text_grid": 4}
        net = {"text_encoder": "tiny", "widths": (8, 12), "stem_stride": 2}
        return super().smoke().model_copy(update={**small, **net})


# the ancestor: the pseudo image is generated from the text alone, neither cycle nor IAC
EF_UNET = (
    "fusion=none",
    "stages.segment.weights.iac=0.0",
    "stages.segment.weights.cycle=0.0",
)
ABLATION_TABLES = {
    # every row whose network is here, in the paper's order
    "table1": (
        Arm("unet", "U-Net", method="unet"),
        Arm("unet_pp", "UNet++", method="unet_pp"),
        Arm("nnunet_like", "nnU-Net, plain network", method="nnunet_like"),
        Arm("swin_unet", "Swin-Unet", method="swin_unet"),
        Arm("lavt", "LAVT", method="lavt"),
        Arm("tganet", "TGANet", method="tganet"),
        Arm("lvit", "LViT", method="lvit"),
        Arm("ef_unet", "EF-UNet", EF_UNET),
        Arm("biclip", "BiCLIP"),
    ),
    "table2": tuple(
        Arm(
            f"{name}-{percent}",
            f"{title}, {percent} % of the labels",
            (*settings, f"stages.*.labelled_fraction={percent / 100}"),
        )
        for percent in (25, 10, 5, 1)
        for name, title, settings in (("ef_unet", "EF-UNet", EF_UNET), ("biclip", "BiCLIP", ()))
    ),
}


def build_biclip(recipe: BiCLIPRecipe) -> Method:
    """Build the network; only this imports torch."""
    from textmask.methods.biclip.method import BiCLIP

    return BiCLIP(recipe)


SPEC = MethodSpec("biclip", CARD, BiCLIPRecipe, build_biclip, ablation_tables=ABLATION_TABLES)
