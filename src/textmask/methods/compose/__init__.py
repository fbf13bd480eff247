"""`compose`: a prompt becomes a small program over named structures; a neural path reads what no program expresses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field

from textmask.config import Augment, Recipe, Stage
from textmask.methods.presets import BASELINE_STAGE
from textmask.methods.registry import Arm, Card, MethodSpec

if TYPE_CHECKING:
    from textmask.methods.base import Method

CARD = Card(
    title="Programs of prompts, executed over the pixel embedding of one network",
    symbols={
        "e": ("PixelEmbedding", "B D H W"),
        "q, c": ("QueryHead", "P D, P"),
        "l": ("scaled_products", "B L H W"),
        "x": ("Existence", "B 1 1 1"),
    },
    limits="Names are those of text/structures.toml; others are refused unless a known name is near. Steps that choose "
    "a piece (largest, above, inside ...) have no gradient and are executed on thresholded maps.",
)
# the name queries learn from absent structures, too, and from several prompts per image
PROMPTS_STAGE = BASELINE_STAGE.model_copy(
    update={
        "prompts": 4,
        "augment": Augment(flip=0.5, gamma=(0.8, 1.25)),
        "weights": {"dice": 1.0, "bce": 1.0, "exist": 0.2, "paraphrase": 0.0},
    }
)


class ComposeRecipe(Recipe):
    """Fields of `compose`.

    Attributes:
        mode: what answers: the program, the neural path over all words of the prompt, or the sum of both.
        image_encoder: see `textmask.nn.pretrained_image.build_image_encoder`.
        text_encoder: frozen; gives the vectors of names, and of all words to the neural path.
        width: D, channels of the pixel embedding.
        hidden: width of the query head and of the neural path, divisible by 4 and by `heads`.
        heads: of the cross-attention.
        near: cosine to the nearest known name below which words outside the vocabulary are refused.
    """

    method: str = "compose"
    mode: Literal["program", "neural", "both"] = "both"
    image_encoder: str = "efficientnet_lite0"
    text_encoder: str = "minilm"
    width: int = Field(32, ge=1)
    hidden: int = Field(128, ge=4, multiple_of=4)
    heads: int = Field(4, ge=1)
    near: float = Field(0.6, ge=-1, le=1)
    stages: tuple[Stage, ...] = (PROMPTS_STAGE,)

    def lite(self) -> Self:
        """CPU preset: the plain encoder at stride 4, batches of 24 images with four prompts each."""
        stage = self.stages[0].lite(14, batch_size=24, augment=self.stages[0].augment)
        return self.model_copy(update={"image_encoder": "unet", "hidden": 64, "stages": (stage,)})

    def smoke(self) -> Self:
        """Tiny, for tests."""
        net = {"image_encoder": "tiny", "text_encoder": "tiny", "width": 8, "hidden": 8, "heads": 2}
        return super().smoke().model_copy(update=net)


MODES = {"program": "the program alone", "neural": "the neural path alone", "both": "their sum"}
ABLATION_TABLES = {"mode": tuple(Arm(m, what, (f"mode={m}",)) for m, what in MODES.items())}


def build_compose(recipe: ComposeRecipe) -> Method:
    """Build the network; only this imports torch."""
    from textmask.methods.compose.method import Compose

    return Compose(recipe)


SPEC = MethodSpec("compose", CARD, ComposeRecipe, build_compose, ablation_tables=ABLATION_TABLES)
