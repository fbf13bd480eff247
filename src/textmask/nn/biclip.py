"""The modules of BiCLIP: BMF (Eq. 1), the pseudo-image generator, the image-to-text head, the IAC head."""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from textmask.types import Embedding, Image, Mask


class TextHead(nn.Module):
    """Frozen text embedding B D -> t, B E: linear, LayerNorm, GELU, linear."""

    def __init__(self, text_width: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(text_width, width), nn.LayerNorm(width), nn.GELU(), nn.Linear(width, width)
        )

    def forward(self, text_embedding: Embedding) -> Embedding:
        """B D -> B E."""
        out: Tensor = self.layers(text_embedding)
        return out


class PooledBranch(nn.Module):
    """Average pooling, two 3x3 convolutions with ReLU, global average: B 3 H W -> B C.

    Used as the image encoder (i) and, followed by a linear layer, as the image-to-text head h.
    """

    def __init__(self, widths: tuple[int, int], pool: int, out_width: int | None = None) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(pool, ceil_mode=True) if pool > 1 else nn.Identity()
        self.conv1 = nn.Conv2d(3, widths[0], 3, padding=1)
        self.conv2 = nn.Conv2d(widths[0], widths[1], 3, padding=1)
        self.out = nn.Linear(widths[1], out_width) if out_width else nn.Identity()

    def forward(self, image: Image) -> Embedding:
        """B 3 H W -> B C."""
        x = torch.relu(self.conv2(torch.relu(self.conv1(self.pool(image)))))
        out: Tensor = self.out(x.mean(dim=(2, 3)))
        return out


class BMF(nn.Module):
    """Bidirectional multimodal fusion: t' = t + g_BMF([t; i])  (Eq. 1)."""

    def __init__(self, text_width: int, image_width: int) -> None:
        super().__init__()
        self.g = nn.Sequential(
            nn.Linear(text_width + image_width, text_width),
            nn.LayerNorm(text_width),
            nn.GELU(),
            nn.Linear(text_width, text_width),
        )

    def forward(self, text: Embedding, image_embedding: Embedding) -> Embedding:
        """B E and B I -> B E."""
        refined: Tensor = text + self.g(torch.cat([text, image_embedding], dim=1))
        return refined


class PseudoImageGenerator(nn.Module):
    """t' B g^2 -> 1 g g -> three transposed convolutions (kernel 4, stride 2) -> sigmoid -> B 3 H W.

    The pseudo image has 8 g rows and columns (224 for g = 28) and is resized to other image sizes.
    """

    def __init__(self, grid: int, widths: tuple[int, int]) -> None:
        super().__init__()
        self.grid = grid
        self.layers = nn.Sequential(
            nn.ConvTranspose2d(1, widths[0], 4, stride=2, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(widths[0], widths[1], 4, stride=2, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(widths[1], 3, 4, stride=2, padding=1),
            nn.Sigmoid(),
        )

    def forward(self, refined: Embedding, size: tuple[int, int]) -> Image:
        """B g^2 -> B 3 `size` in [0, 1]."""
        painted: Tensor = self.layers(rearrange(refined, "b (h w) -> b 1 h w", h=self.grid))
        if painted.shape[-2:] != size:
            painted = nn.functional.interpolate(painted, size, mode="bilinear", align_corners=False)
        return painted


class ProjectionHead(nn.Module):
    """Global average, linear, LayerNorm: feature B C H W -> p, B P."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(channels, width), nn.LayerNorm(width))

    def forward(self, feature: Float[Tensor, "b _c _h _w"]) -> Embedding:
        """B C H W -> B P."""
        out: Tensor = self.layers(feature.mean(dim=(2, 3)))
        return out


def cycle_loss(text: Embedding, cycled: Embedding, norm: str = "l2") -> Float[Tensor, ""]:
    """Cycle consistency (Eq. 2): squared L2 or L1 between t and h(x_hat), mean over dimensions and batch.

    t is detached: otherwise its trainable head could reduce the loss by shrinking t.
    """
    difference = (text.detach() - cycled).float()
    return (difference**2 if norm == "l2" else difference.abs()).mean()


def iac_loss(projected_weak: Embedding, projected_strong: Embedding) -> Float[Tensor, ""]:
    """Image augmentation consistency (Eq. 6): 1 - cosine of p_w and p_s, mean over the batch."""
    return (
        1
        - nn.functional.cosine_similarity(
            projected_weak.float(), projected_strong.float(), dim=1
        ).mean()
    )


def generation_loss(pseudo_image: Image, image: Image, mask: Mask) -> Float[Tensor, ""]:
    """L_gen: L1 between the pseudo image and the lesion-only image, image x mask (values in [0, 1])."""
    return (pseudo_image.float() - (image * (mask != 0)).float()).abs().mean()
