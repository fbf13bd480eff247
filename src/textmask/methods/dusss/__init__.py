"""`dusss`: a vision-language model with uncertainty, and pseudo-labels refined by text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from textmask.config import EMA, Augment, Optim, Ramp, Recipe, Schedule, Stage
from textmask.methods.registry import Arm, Card, MethodSpec
from textmask.nn.fields import LITE_WIDTHS, NormName

if TYPE_CHECKING:
    from textmask.methods.base import Method

CARD = Card(
    title="DuSSS: similarity supervised by uncertainty, then pseudo-labels refined by text",
    paper="Pan et al., DuSSS: Dual Semantic Similarity-Supervised Vision-Language Model for Semi-Supervised Medical "
    "Image Segmentation, AAAI 2025",
    uses_text=False,
    published={
        "qata-cov19": {"dice_per_image": 82.52, "iou_per_image": 75.87},  # 50 % of the labels
        "monuseg": {"dice_per_image": 78.03, "iou_per_image": 66.93},
    },
    symbols={
        "mu, sigma, s": ("Gaussian", "B E each"),
        "D_2W (Eq. 1)": ("wasserstein2", "B B"),
        "D_u, D_SSS, sim-hat (Eq. 2-5)": ("uncertain_similarity", "B B"),
        "f_g, y_text (Eq. 10)": ("GroundingDecoder", "B 1 h w"),
        "v_f^t (Eq. 11)": ("pooled_region", "B E"),
        "f_s, f_t (Eq. 12-13)": ("DuSSS.net, DuSSS.teacher", "networks"),
        "sigma(y_t + y_text) (Eq. 15)": ("merged_label", "B 1 H W"),
    },
    limits="The prompt guides training only; the trained network reads only the image.",
    sources={
        "widths": "code: a U-Net of 14.75 M parameters, as the paper prints",
        "sss": "paper: Eq. 5",
        "tau": "paper: learned",
        "ema.*": "paper: a moving average; its decay is not stated",
        "stages.segment.optim.lr": "paper: 3e-4 (QaTa-COV19, BM-Seg), 1e-3 (MoNuSeg)",
        "stages.segment.batch_size": "paper: 32 (QaTa-COV19), 16 (BM-Seg), 4 (MoNuSeg)",
        "stages.segment.patience": "paper: 20",
        "stages.segment.weights.sup": "paper: 1",
        "stages.segment.weights.merged.to": "paper: half of L_semi",
        "stages.segment.weights.text.to": "paper: half of L_semi",
        "dice_weight": "paper: cross-entropy alone",
    },
)


class DuSSSRecipe(Recipe):
    """Fields of `dusss`; the defaults follow the paper's equations, or our choice if it does not give a value.

    Attributes:
        image_encoder: of the vision-language model, see `textmask.nn.pretrained_image.build_image_encoder`.
        text_encoder: frozen; `standardise_text` shifts and scales its text embeddings by those of the training prompts.
        width, heads: E of the common space, attention heads of [CLS] and of the Gaussian heads.
        sss: Eq. 5; False contrasts plain cosines and has no Gaussian heads.
        constants: of Eq. 2 and 3, see `textmask.methods.dusss.similarity.uncertain_similarity`.
        lam, tau: lambda of Eq. 4; initial value of the learned temperature.
        merge_equal_text: equal prompts are not negatives of each other.
        unet: `compact` is the paper's, with 14.75 M parameters; `plain` is that of the method `unet`.
        widths, norm: of the U-Net.
        stem_stride: of the plain U-Net.
        ema: decay of the teacher's average (Eq. 12).
        merge: of the teacher's label and the text's, see `textmask.methods.dusss.method.merged_label`; `teacher` leaves
            the text out of Eq. 15 and 16: a Mean Teacher whose label has the weight of both. A map that no L_tg trained
            is not merged.
        dice_weight: share of Dice in the three segmentation losses; 0 is the paper's cross-entropy.
    """

    method: str = "dusss"
    image_encoder: str = "convnext_tiny"
    text_encoder: str = "cxr_bert"
    standardise_text: bool = False
    width: int = Field(512, ge=4)
    heads: int = Field(8, ge=1)
    sss: bool = True
    constants: Literal["scaled", "released"] = "scaled"
    lam: float = Field(0.2, ge=0)
    tau: float = Field(0.07, ge=0.01, le=0.5)
    merge_equal_text: bool = True
    unet: Literal["compact", "plain"] = "compact"
    widths: tuple[int, ...] = (64, 128, 256, 512, 512)
    stem_stride: int = 1
    norm: NormName = "batch"
    ema: EMA = EMA(start=0.99, end=0.99)
    merge: Literal["odds", "logits", "probability", "mean", "teacher"] = "odds"
    dice_weight: float = Field(0.0, ge=0, le=1)
    stages: tuple[Stage, ...] = (
        Stage(
            name="pretrain",
            epochs=100,
            batch_size=32,
            unlabelled_batch_size=32,
            optim=Optim(name="adam", lr=3e-5, weight_decay=0.0),
            schedule=Schedule(name="cosine"),
            views=("strong",),
            lr_scale={"net.*": 0.0},
            weights={"cmc": 1.0, "imc": 1.0, "tg": 1.0},
            select="last",
        ),
        Stage(
            name="segment",
            epochs=100,
            batch_size=32,
            unlabelled_batch_size=32,
            optim=Optim(name="adam", lr=3e-4, weight_decay=0.0),
            schedule=Schedule(name="warm_restarts", period_epochs=10, lr_min=1e-4),
            views=("strong",),
            lr_scale={"vlm.*": 0.0},
            weights={
                "sup": 1.0,
                "merged": Ramp(to=0.5, end_epoch=40, shape="sigmoid"),
                "text": Ramp(to=0.5, end_epoch=40, shape="sigmoid"),
            },
            patience=20,
        ),
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.width % self.heads or self.width % 4:
            raise ValueError(
                f"width is {self.width} and heads is {self.heads}; width must be a multiple of heads and of 4"
            )
        if self.unet == "compact" and self.stem_stride != 1:
            raise ValueError(
                f"stem_stride is {self.stem_stride}; the compact U-Net has a stem at full size. Set unet=plain."
            )

        pretrain = next((stage for stage in self.stages if stage.name == "pretrain"), None)
        untrained = pretrain and pretrain.epochs and pretrain.weights.get("tg") == 0
        if untrained and self.merge != "teacher":
            raise ValueError(
                f"the weight tg is 0 and merge is {self.merge}: the maps of the prompts would not be trained. "
                "Set merge=teacher as well."
            )
        return self

    def lite(self) -> Self:
        """CPU preset: EfficientNet-Lite0, MiniLM, the stride-4 U-Net; an epoch draws 60 batches."""
        pretrain, segment = self.stages
        common = {"steps_per_epoch": 60, "augment": Augment()}
        frozen = {
            "vlm.encoder.conv_stem.*": 0.0,
            "vlm.encoder.bn0.*": 0.0,
            "vlm.encoder.blocks.[012].*": 0.0,
        }

        pretrain = pretrain.lite(
            epochs=6,
            **common,
            optim=Optim(lr=5e-4),
            lr_scale={"net.*": 0.0, **frozen, "vlm.encoder.*": 0.25},
        )
        ramp = Ramp(to=0.5, end_epoch=10, shape="sigmoid")
        weights = {"sup": 1.0, "merged": ramp, "text": ramp}
        segment = segment.lite(
            epochs=30, **common, weights=weights, lr_scale={"vlm.*": 0.0}, validate_every=5
        )

        net = {
            "image_encoder": "efficientnet_lite0",
            "text_encoder": "minilm",
            "standardise_text": True,
            "width": 128,
        }
        unet = {"unet": "plain", "widths": LITE_WIDTHS, "stem_stride": 4, "dice_weight": 0.5}
        return self.model_copy(update={**net, **unet, "stages": (pretrain, segment)})

    def smoke(self) -> Self:
        """Tiny, for tests."""
        pretrain, segment = (
            stage.model_copy(update={"unlabelled_batch_size": 4, "schedule": Schedule()})
            for stage in super().smoke().stages
        )
        segment = segment.model_copy(update={"weights": {"sup": 1.0, "merged": 0.5, "text": 0.5}})
        net = {
            "image_encoder": "tiny",
            "text_encoder": "tiny",
            "width": 8,
            "heads": 2,
            "widths": (8, 12),
        }
        return super().smoke().model_copy(update={**net, "stages": (pretrain, segment)})


NO_SSS, NO_DCL, NO_TG = (
    ("sss=false",),
    ("stages.pretrain.weights.imc=0.0",),
    ("stages.pretrain.weights.tg=0.0", "merge=teacher"),
)
TEACHER_ALONE = ("stages.pretrain.epochs=0", "merge=teacher")
# the lite presets, cheap enough for many seeds: 420 batches of 16 labelled images each
SEGMENT = (
    "stages.segment.epochs=14",
    "stages.segment.steps_per_epoch=30",
    "stages.segment.batch_size=16",
)
UNLABELLED = ("stages.segment.unlabelled_batch_size=16",)
VALIDATED = ("stages.segment.validate_every=5",)
PRETRAIN = (
    "stages.pretrain.epochs=3",
    "stages.pretrain.steps_per_epoch=40",
    "stages.pretrain.batch_size=16",
    "stages.pretrain.unlabelled_batch_size=16",
)
# the peers of Table 1 read the image alone; the first patterns of the CPU presets name parts of a text-guided network
IMAGE_ONLY = ("network=unet", "stages.*.lr_scale={}")
PEERS = (
    ("mt", "MT", "mean_teacher", IMAGE_ONLY),
    (
        "cct",
        "CCT",
        "cct",
        (*IMAGE_ONLY, 'stages.burn_in.lr_scale={"decoders.*":0.0}'),
    ),
    ("bcp", "BCP", "bcp", IMAGE_ONLY),
    ("mc-net", "MC-Net", "mc_net", IMAGE_ONLY),
    ("ucmt", "UCMT", "ucmt", IMAGE_ONLY),
)
UNET = Arm("unet", "U-Net, all labels", ("stages.*.labelled_fraction=1.0",), method="unet")


def _rows_of_table1(percent: int) -> tuple[Arm, ...]:
    """The rows of one label fraction, in the paper's order; DuSSS is the last."""
    fraction = (f"stages.*.labelled_fraction={percent / 100}",)
    rows = []
    for name, title, method, settings in PEERS:
        row = f"{title}, image only, {percent} % of the labels"
        rows.append(Arm(f"{name}-{percent}", row, (*settings, *fraction), method=method))
    # LViT has the same labelled images, and the others without their masks
    lvit = (*fraction, "stages.*.unlabelled_batch_size=32")
    rows.append(Arm(f"lvit-{percent}", f"LViT, {percent} % of the labels", lvit, method="lvit"))
    return (*rows, Arm(f"labels-{percent}", f"{percent} % of the labels", fraction))


ABLATION_TABLES = {
    "table1": (UNET, *_rows_of_table1(25), *_rows_of_table1(50)),
    "table2": (
        Arm("baseline", "teacher and student", TEACHER_ALONE),
        Arm("sss", "SSS", (*NO_DCL, *NO_TG)),
        Arm("dcl", "DCL", (*NO_SSS, *NO_TG)),
        Arm("sss-tg", "SSS, L_tg", NO_DCL),
        Arm("dcl-tg", "DCL, L_tg", NO_SSS),
        Arm("sss-dcl", "SSS, DCL", NO_TG),
        Arm("all", "SSS, DCL, L_tg: DuSSS", ()),
    ),
    "few_labels": (
        Arm("supervised", "U-Net, labelled pictures only", (*SEGMENT, *VALIDATED), method="unet"),
        Arm(
            "baseline", "Mean Teacher over the same U-Net", (*TEACHER_ALONE, *SEGMENT, *UNLABELLED)
        ),
        Arm("dusss", "DuSSS over the same U-Net", (*PRETRAIN, *SEGMENT, *UNLABELLED)),
        Arm(
            "mean_teacher",
            "Mean Teacher over MMI-UNet",
            ("stages.semi.epochs=16",),
            method="mean_teacher",
        ),
        Arm(
            "statement_unet",
            "parsed zones, no language model",
            (*SEGMENT, *VALIDATED),
            method="statement_unet",
        ),
        Arm("text_prior", "mean mask of the sentence, no image", method="text_prior"),
    ),
}


def build_dusss(recipe: DuSSSRecipe) -> Method:
    """Build the network; only this imports torch."""
    from textmask.methods.dusss.method import DuSSS

    return DuSSS(recipe)


SPEC = MethodSpec("dusss", CARD, DuSSSRecipe, build_dusss, ablation_tables=ABLATION_TABLES)
