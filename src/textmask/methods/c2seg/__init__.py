"""`c2seg`: cluster-aware contrastive pretraining, bidirectional complementary attention, KAN gates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from textmask.config import Optim, Recipe, Schedule, Stage
from textmask.methods.registry import Arm, Card, MethodSpec
from textmask.nn.fields import UKAN_LITE_WIDTHS, UKAN_WIDTHS, NormName

if TYPE_CHECKING:
    from textmask.methods.base import Method

CARD = Card(
    title="C2Seg: cluster-aware contrastive pretraining, then bidirectional complementary attention with KAN gates",
    paper="Towards Text-Mask Consistency in Medical Image Segmentation (C2Seg), anonymous authors, under review",
    published={
        "qata-cov19": {
            "dice_per_image": 85.25,
            "iou_per_image": 76.97,
            "hd95_pooled_px": 12.71,
            "assd_px": 3.38,
        },
        "mosmeddata+": {
            "dice_per_image": 77.81,
            "iou_per_image": 65.17,
            "hd95_pooled_px": 15.02,
            "assd_px": 3.76,
        },
        "cvc-clinicdb": {
            "dice_per_image": 91.82,
            "iou_per_image": 86.81,
            "hd95_pooled_px": 6.53,
            "assd_px": 2.23,
        },
        "kvasir": {
            "dice_per_image": 91.92,
            "iou_per_image": 85.27,
            "hd95_pooled_px": 13.62,
            "assd_px": 3.98,
        },
    },
    symbols={
        "V_0 ... V_4": ("features of UKANEncoder", "B C_l H/s_l W/s_l"),
        "L, l": ("text_tokens, text_embedding (frozen)", "B N d_t, B d_t"),
        "v = W_v GAP(V_4)": ("embed_image", "B d_t, of length 1"),
        "M, Y": ("cosine_similarity_matrix, cluster_target", "B B"),
        "L_l = L W_l": ("Fusion.text", "B N C_l"),
        "A": ("BCAM", "B P N"),
        "F_v, F_l": ("Streams.vision, Streams.language", "B P C_l"),
        "g_v, g_l": ("KGate", "B P C_l in [-1, 1]"),
        "F_out": ("Fusion.mix", "B C_l H/s_l W/s_l"),
    },
    printed_for={
        "mosmeddata+": ("stages.*.optim.lr=0.0003",),
        "kvasir": ("stages.*.optim.lr=0.0003",),
    },
    limits="Eq. 6 as printed makes the language path about 1/P small, so it is multiplied by P here "
    "(`language_path_scale`); F_out holds no skip.",
    sources={
        "text_encoder": "paper: CLIP, frozen; which one is not stated",
        "encoder": "paper: three convolutional and two KAN layers",
        "kan_grid": "code of U-KAN: 5",
        "kan_order": "code of U-KAN: 3",
        "kan_span": "code of U-KAN: -1 to 1",
        "widths": "code of U-KAN",
        "fusion": "paper: BCAM",
        "fuse_levels": "paper: at each visual scale",
        "bcam_map": "paper: KAN",
        "gate": "paper: KAN",
        "contrast": "paper: CaCL",
        "rho": "paper: 0.8",
        "tau": "paper: 0.07",
        "stages.pretrain.batch_size": "paper: 256",
        "stages.segment.batch_size": "paper: 32",
        "stages.*.optim.name": "paper: Adam",
        "stages.*.optim.lr": "paper: 1e-3 (QaTa-COV19, CVC-ClinicDB), 3e-4 (MosMedData+, Kvasir)",
        "stages.*.schedule.name": "paper: cosine",
        "stages.segment.lr_scale.encoder.[*]": "paper: a small learning rate; the factor is chosen by us",
        "stages.segment.weights.bce": "paper: 0.5",
        "stages.segment.weights.dice": "paper: 0.5",
    },
)


class C2SegRecipe(Recipe):
    """Fields of `c2seg`; the defaults are the paper's, or our choice if the paper does not give a value.

    Attributes:
        text_encoder: frozen; `standardise_text` shifts and scales its text embeddings by the mean and deviation of the
            training prompts, without which the soft labels of near-equal captions are almost flat.
        widths: C_l, fine to coarse.
        encoder: plain CNN, U-KAN (three convolutional scales, two of KAN), or KAN blocks at every scale.
        kan_depth: KAN blocks per scale of the encoder; 2 agrees with the paper's parameter count, 1 is the released
            U-KAN.
        kan_grid, kan_order, kan_span: intervals, order and range of the splines.
        stem_stride: stride of V_0.
        fusion: none (image only), attention in both directions as in the paper's baseline (DualA), or BCAM.
        fuse_levels: scales that are fused; the others are plain skips.
        bcam_map, gate: kind of map for keys and values of BCAM, and for the gates.
        kan_norm: layer norm in front of every map of BCAM and of the gates. Eq. 4-7 print none, and with one a gate
            does not see how strong its stream is.
        language_path_scale: Eq. 6 times P, or as printed (none), with which the language path is close to 0.
        residual: add V_l to F_out; not in the paper.
        contrast: Stage I loss; `none` needs `stages.pretrain.epochs=0`. `clip`, `convirt` and `gloria` replace CaCL by
            the contrast of another paper, between the same image head and frozen text.
        merge_equal_text: the hard labels of equal prompts share their mass.
        rho, tau: mix and temperature of Eq. 1-2. `clip` learns its temperature from `tau` on; `convirt` and `gloria`
            have their papers' own.
        chunk: samples that pretraining keeps in memory at a time (gradient caching).
    """

    before: ClassVar[dict[str, Any]] = {"kan_norm": True}

    method: str = "c2seg"
    text_encoder: str = "clip"
    standardise_text: bool = False
    widths: tuple[int, ...] = UKAN_WIDTHS
    encoder: Literal["conv", "hybrid", "kan"] = "hybrid"
    kan_depth: int = Field(2, ge=1)
    kan_grid: int = Field(5, ge=1)
    kan_order: int = Field(3, ge=0)
    kan_span: tuple[float, float] = (-1.0, 1.0)
    stem_stride: Literal[2, 4] = 2
    norm: NormName = "batch"
    fusion: Literal["none", "dual_a", "bcam"] = "bcam"
    fuse_levels: tuple[int, ...] = (0, 1, 2, 3, 4)
    bcam_map: Literal["kan", "linear"] = "kan"
    gate: Literal["none", "kan", "mlp"] = "kan"
    kan_norm: bool = False
    language_path_scale: Literal["none", "P"] = "P"
    residual: bool = False
    contrast: Literal["none", "hard", "cacl", "clip", "convirt", "gloria"] = "cacl"
    merge_equal_text: bool = False
    rho: float = Field(0.8, ge=0, le=1)
    tau: float = Field(0.07, gt=0)
    chunk: int | None = Field(32, ge=1)
    stages: tuple[Stage, ...] = (
        Stage(
            name="pretrain",
            epochs=100,
            batch_size=256,
            optim=Optim(name="adam", lr=1e-3, weight_decay=0.0),
            schedule=Schedule(name="cosine"),
            lr_scale={"encoder.*": 1.0, "image_head.*": 1.0, "*": 0.0},
            weights={"contrast": 1.0},
            select="last",
        ),
        Stage(
            name="segment",
            epochs=200,
            batch_size=32,
            optim=Optim(name="adam", lr=1e-3, weight_decay=0.0),
            schedule=Schedule(name="cosine"),
            lr_scale={"encoder.*": 0.1, "image_head.*": 0.0},
            weights={"bce": 0.5, "dice": 0.5},
            patience=50,
        ),
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        wrong = [level for level in self.fuse_levels if not 0 <= level < len(self.widths)]
        if wrong or len(set(self.fuse_levels)) != len(self.fuse_levels):
            raise ValueError(
                f"fuse_levels is {self.fuse_levels}; expected distinct scales 0 to {len(self.widths) - 1}"
            )
        if len(self.widths) < 3:
            raise ValueError(f"widths is {self.widths}; the decoder needs at least three scales")

        epochs = next((stage.epochs for stage in self.stages if stage.name == "pretrain"), 0)
        if self.contrast == "none" and epochs:
            raise ValueError(
                "contrast is none but stage pretrain has epochs; set stages.pretrain.epochs=0 as well"
            )
        return self

    def lite(self) -> Self:
        """CPU preset: MiniLM, a stem at stride 4, three coarse scales fused; QaTa within an hour on two cores."""
        pretrain, segment = self.stages
        pretrain = pretrain.lite(epochs=4, steps=80, batch_size=256)
        segment = segment.lite(epochs=11, lr_scale={"encoder.*": 0.5, "image_head.*": 0.0})
        net = {
            "widths": UKAN_LITE_WIDTHS,
            "stem_stride": 4,
            "kan_depth": 1,
            "fuse_levels": (2, 3, 4),
        }
        text = {
            "text_encoder": "minilm",
            "standardise_text": True,
            "chunk": 64,
        }
        return self.model_copy(update={**net, **text, "stages": (pretrain, segment)})

    def smoke(self) -> Self:
        """Tiny, for tests."""
        net = {
            "text_encoder": "tiny",
            "widths": (4, 8, 12),
            "fuse_levels": (1, 2),
            "kan_depth": 1,
            "chunk": 2,
        }
        return super().smoke().model_copy(update=net)


# without pretraining the encoder learns at the full rate
ALONE = (
    "contrast=none",
    "stages.pretrain.epochs=0",
    'stages.segment.lr_scale={"image_head.*": 0.0}',
)
ABLATION_TABLES = {
    # every row whose network is here, in the paper's order; Table 2 has the same ones on other data
    "table1": (
        Arm("unet", "U-Net", method="unet"),
        Arm("unet_pp", "U-Net++", method="unet_pp"),
        Arm("nnunet_like", "nnU-Net, plain network", method="nnunet_like"),
        Arm("trans_unet", "TransUNet", method="trans_unet"),
        Arm("swin_unet", "Swin-Unet", method="swin_unet"),
        Arm("ukan", "U-KAN", method="ukan"),
        Arm("clip", "contrast of CLIP, network of C2Seg", ("contrast=clip",)),
        Arm("gloria", "contrast of GLoRIA, network of C2Seg", ("contrast=gloria",)),
        Arm("tganet", "TGANet", method="tganet"),
        Arm("convirt", "contrast of ConVIRT, network of C2Seg", ("contrast=convirt",)),
        Arm("lavt", "LAVT", method="lavt"),
        Arm("lvit", "LViT", method="lvit"),
        Arm("c2seg", "C2Seg"),
    ),
    "table3": (
        Arm("a", "image only", (*ALONE, "fusion=none")),
        Arm("b", "+ text by DualA", (*ALONE, "fusion=dual_a", "gate=none")),
        Arm("c", "BCAM in place of DualA", (*ALONE, "gate=none")),
        Arm("d", "+ K-Gate", ALONE),
        Arm("e", "+ hard contrast", ("contrast=hard",)),
        Arm("f", "CaCL in place of hard contrast: C2Seg", ()),
        Arm("g", "BioBERT", ("text_encoder=biobert",)),
        Arm("h", "PubMedBERT", ("text_encoder=pubmedbert",)),
        Arm(
            "printed",
            "C2Seg with Eq. 6 as printed, without the factor P",
            ("language_path_scale=none",),
        ),
    ),
    "contrast": (
        Arm("none", "no pretraining", ALONE),
        Arm("clip", "contrast of CLIP", ("contrast=clip",)),
        Arm("gloria", "contrast of GLoRIA", ("contrast=gloria",)),
        Arm("convirt", "contrast of ConVIRT", ("contrast=convirt",)),
        Arm("hard", "hard contrast", ("contrast=hard",)),
        Arm("cacl", "CaCL: C2Seg", ()),
    ),
    "table4-kan": (
        Arm("cnn", "CNN encoder", ("encoder=conv",)),
        Arm("hybrid", "hybrid encoder; no layer norm in front of the KANs, as printed", ()),
        Arm("kan", "KAN encoder", ("encoder=kan",)),
        Arm("bcam-linear", "BCAM (linear)", ("bcam_map=linear",)),
        Arm("gate-mlp", "K-Gate (MLP)", ("gate=mlp",)),
        Arm("norm", "layer norm in front of every KAN of BCAM and K-Gate", ("kan_norm=true",)),
    ),
    "table4-rho": tuple(
        Arm(f"rho-{rho}", f"rho = {rho}", (f"rho={rho}",)) for rho in (0.6, 0.8, 1.0)
    ),
    "table4-tau": tuple(
        Arm(f"tau-{tau}", f"tau = {tau}", (f"tau={tau}",)) for tau in (0.05, 0.07, 0.1)
    ),
    "table4-batch": tuple(
        Arm(f"batch-{n}", f"batch = {n}", (f"stages.pretrain.batch_size={n}",))
        for n in (128, 256, 512)
    ),
}


def build_c2seg(recipe: C2SegRecipe) -> Method:
    """Build the network; only this imports torch."""
    from textmask.methods.c2seg.method import C2Seg

    return C2Seg(recipe)


SPEC = MethodSpec("c2seg", CARD, C2SegRecipe, build_c2seg, ablation_tables=ABLATION_TABLES)
