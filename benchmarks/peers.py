"""One training step and the data pipeline of public code, compared with the same method here, in one process.

    git clone https://github.com/nguyenpbui/MMI-UNet peers/MMI-UNet
    git clone https://github.com/Junelin2333/LanGuideMedSeg-MICCAI2023 peers/LanGuideMedSeg-MICCAI2023
    git clone https://github.com/HUANGLIZI/LViT peers/LViT
    pip install monai pandas
    python benchmarks/peers.py peers

What is not in the folder, or not installed, is skipped and named. Both sides have the same sizes and precision (fp32)
and random weights: ConvNeXt-Tiny and a BERT of 12 layers where the peer takes them from a model hub. A step is forward,
loss and backward of one batch at 224 x 224. The frozen text encoder runs at each step in the peers; here the vectors of
a prompt are stored. One thread, candidates in turn, medians.
"""

from __future__ import annotations

import argparse
import csv
import sys
import tempfile
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import cv2
import torch
from timing import Goals, interleave
from torch import nn

from textmask.config import Recipe
from textmask.data.loaders import Loader, build_text, open_split
from textmask.data.manifest import Manifest, read_manifest
from textmask.data.phantom import PhantomConfig, write_phantoms
from textmask.methods.registry import build_method, get_method, list_methods
from textmask.nn.pretrained_text import minilm_folder
from textmask.runs.environment import prepare_cpu
from textmask.text.grammar import parse
from textmask.types import Batch

SIZE, TOKENS = 224, 24
PROMPT = "Bilateral pulmonary infection, two infected areas, upper left lung and lower right lung."
Step = Callable[[], object]


class Absent(Exception):
    """A peer that cannot be run here, and why."""


@contextmanager
def peer_modules(folder: Path) -> Iterator[None]:
    """Import from a peer's folder; the next peer may have modules of the same names."""
    if not folder.is_dir():
        raise Absent(f"{folder} does not exist")
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in set(sys.modules) - before:
            if name.partition(".")[0] in ("utils", "nets", "engine", "Config"):
                del sys.modules[name]


@contextmanager
def without_hub() -> Iterator[None]:
    """Encoders of the published sizes with random weights, where a peer would load them from a model hub."""
    import transformers

    def model(name: str, **_: Any) -> nn.Module:
        if "convnext" in name:
            return transformers.ConvNextModel(transformers.ConvNextConfig())
        return transformers.BertModel(transformers.BertConfig())

    def tokenizer(name: str, **_: Any) -> Any:
        return transformers.BertTokenizer.from_pretrained(minilm_folder())

    with (
        patch.object(transformers.AutoModel, "from_pretrained", model),
        patch.object(transformers.AutoTokenizer, "from_pretrained", tokenizer),
    ):
        yield


def old_names() -> None:
    """Names that the peers import and that newer packages have dropped."""
    try:
        from monai import transforms
    except ImportError:
        raise Absent("monai is not installed") from None
    import transformers

    if not hasattr(transforms, "AddChanneld"):
        transforms.AddChanneld = transforms.EnsureChannelFirstd
    base = transformers.PreTrainedTokenizerBase
    if not hasattr(base, "encode_plus"):
        base.encode_plus = base.__call__


def guided_peer(folder: Path, class_name: str, batch: int) -> Step:
    """A step of LanGuideMedSeg's code or of MMI-UNet's, which is built on it."""
    old_names()
    from monai.losses import DiceCELoss

    with peer_modules(folder), without_hub():
        from utils import model as networks

        net = getattr(networks, class_name)("bert", "convnext", 768).train()
        vocabulary = networks.AutoTokenizer.from_pretrained("bert")
    tokens = vocabulary(
        [PROMPT] * batch,
        padding="max_length",
        max_length=TOKENS,
        truncation=True,
        return_tensors="pt",
    )
    text = {name: tokens[name] for name in ("input_ids", "attention_mask")}
    image, mask = pictures(batch)
    loss = DiceCELoss()

    def step() -> None:
        loss(net((image, text)), mask).backward()

    return step


def lvit_peer(folder: Path, batch: int) -> Step:
    """A step of LViT, whose text vectors are made by its loader."""
    # of timm it uses this one class
    layers = types.ModuleType("timm.models.layers")
    layers.DropPath = nn.Dropout
    stubs = {"timm": types.ModuleType("timm"), "timm.models": types.ModuleType("timm.models")}
    with peer_modules(folder), patch.dict(sys.modules, {**stubs, "timm.models.layers": layers}):
        from nets.LViT import LViT

        sizes = types.SimpleNamespace(num_heads=4, num_layers=4, dropout_rate=0.0)
        sizes.embeddings_dropout_rate = sizes.attention_dropout_rate = 0.1
        net = LViT(types.SimpleNamespace(base_channel=64, transformer=sizes, expand_ratio=4))
    net.train()
    image, mask = pictures(batch)
    text = torch.rand(batch, 10, 768)
    loss = nn.BCELoss()

    def step() -> None:
        loss(net(image, text), mask).backward()

    return step


def monai_peer(batch: int) -> Step:
    """A step of MONAI's BasicUNet with the widths of U-Net."""
    old_names()
    from monai.losses import DiceCELoss
    from monai.networks.nets import BasicUNet

    net = BasicUNet(2, 3, 1, features=(64, 128, 256, 512, 1024, 64)).train()
    image, mask = pictures(batch)
    loss = DiceCELoss(sigmoid=True)

    def step() -> None:
        loss(net(image), mask).backward()

    return step


def own_step(recipe: Recipe, batch: int) -> Step:
    """A step of a method here: all losses of its last stage."""
    method = build_method(recipe)
    method.prepare([PROMPT])
    method.to(memory_format=torch.channels_last).train()
    image, mask = pictures(batch)
    text = build_text([PROMPT] * batch, [parse(PROMPT)] * batch)
    data = Batch(image.contiguous(memory_format=torch.channels_last), text, mask)
    stage = recipe.stages[-1]

    def step() -> None:
        losses = method.losses(stage.name, data)
        torch.stack(list(losses.values())).sum().backward()

    return step


def pictures(batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images B 3 H W and masks B 1 H W."""
    torch.manual_seed(0)
    return torch.rand(batch, 3, SIZE, SIZE), (torch.rand(batch, 1, SIZE, SIZE) > 0.8).float()


def published(method: str, *settings: str) -> Recipe:
    """The paper preset with other settings, which name encoders of the published sizes with random weights."""
    if method not in list_methods():
        raise Absent(f"there is no method {method}")
    recipe: Recipe = get_method(method).recipe()
    return recipe.override(*settings)


def peer_pipeline(folder: Path, root: Path, manifest: Manifest, batch: int) -> Step:
    """One epoch of LanGuideMedSeg's data set: images of the QaTa layout are read, zoomed and scaled at each visit."""
    old_names()
    for name in ("Images", "GTs"):
        (root / name).mkdir(exist_ok=True)
    with (root / "train.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["Image", "Description"])
        for row in manifest.rows:
            name = Path(row.image).name
            cv2.imwrite(str(root / "Images" / name), cv2.imread(str(manifest.root / row.image)), [])
            cv2.imwrite(
                str(root / "GTs" / f"mask_{name}"), cv2.imread(str(manifest.root / row.mask)), []
            )
            writer.writerow([f"mask_{name}", row.text])
    with peer_modules(folder), without_hub():
        from utils.dataset import QaTa

        data = QaTa(str(root / "train.csv"), str(root), "bert", "train", [SIZE, SIZE])
        data.image_list = [f"mask_{Path(row.image).name}" for row in manifest.rows]
        data.caption_list = [row.text for row in manifest.rows]

    def epoch() -> None:
        for _ in torch.utils.data.DataLoader(data, batch, shuffle=True):
            pass

    return epoch


def own_pipeline(recipe: Recipe, manifest: Manifest, cache: Path, batch: int) -> Step:
    """One epoch of the loader here, with the augmentation of the method's preset, from the decoded cache."""
    data = open_split(manifest, "train", (SIZE, SIZE), cache)
    stage = recipe.stages[-1].model_copy(update={"batch_size": batch})
    numbers = iter(range(10**6))

    def epoch() -> None:
        for _ in Loader(data, stage, seed=0, train=True).batches(next(numbers)):
            pass

    return epoch


def main() -> int:
    """Print a line per peer and the goal lines; 0 only if every goal is met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("peers", type=Path, nargs="?", default=Path("peers"))
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--images", type=int, default=64, help="of the pipeline")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    prepare_cpu()
    goals, batch = Goals(), options.batch
    guide, mmi = options.peers / "LanGuideMedSeg-MICCAI2023", options.peers / "MMI-UNet"

    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        text = f"text_encoder=path:{write_bert(root / 'bert')}"
        both = (text, "image_encoder=convnext_tiny:random")
        rows: dict[str, tuple[Callable[[], Step], Callable[[], Step], float]] = {
            "LanGuideMedSeg step": (
                lambda: guided_peer(guide, "LanGuideMedSeg", batch),
                lambda: own_step(published("guide_decoder", *both), batch),
                1.0,
            ),
            "MMI-UNet step": (
                lambda: guided_peer(mmi, "MMIUNet_V2", batch),
                lambda: own_step(published("mmi_unet", *both), batch),
                1.0,
            ),
            "LViT step": (
                lambda: lvit_peer(options.peers / "LViT", batch),
                lambda: own_step(published("lvit", text), batch),
                1.0,
            ),
            "MONAI U-Net step": (
                lambda: monai_peer(batch),
                lambda: own_step(published("unet"), batch),
                1.0,
            ),
        }
        config = PhantomConfig(size=(256, 256))
        manifest = read_manifest(
            write_phantoms(root / "data", {"train": options.images}, config, seed=0)
        )
        for name, folder in (("LanGuideMedSeg", guide), ("MMI-UNet", mmi)):
            method = "guide_decoder" if folder is guide else "mmi_unet"
            rows[f"{name} pipeline"] = (
                lambda folder=folder: peer_pipeline(folder, root, manifest, batch),
                lambda method=method: own_pipeline(published(method), manifest, root, batch),
                5.0,
            )

        for name, (peer, own, wanted) in rows.items():
            try:
                candidates = {"peer": peer(), "here": own()}
            except (Absent, ImportError) as why:  # a peer imports what may not be installed
                print(f"{name}: skipped, {why}")
                continue
            times = interleave(candidates, options.repeats)
            print(f"{name}: peer {times['peer']:.3f} s, here {times['here']:.3f} s", flush=True)
            goals.at_least(f"peers_{name.replace(' ', '_')}", times["peer"] / times["here"], wanted)
    return goals.finish()


def write_bert(folder: Path) -> Path:
    """A BERT of 12 layers with random weights and the words of MiniLM, as `path:FOLDER` takes it."""
    import transformers

    transformers.BertModel(transformers.BertConfig(), add_pooling_layer=False).save_pretrained(
        folder
    )
    transformers.BertTokenizer.from_pretrained(minilm_folder()).save_pretrained(folder)
    return folder


if __name__ == "__main__":
    raise SystemExit(main())
