"""Cost of a frozen text encoder in training, with and without the cache: `python benchmarks/text_cache.py`.

One process, one thread. The tower is a BERT-base of random weights (109 M, no download); its output does not matter
here, only its cost.
"""

from __future__ import annotations

import time
from itertools import combinations

import torch
from einops import rearrange
from timing import Goals, interleave
from torch import Tensor, nn
from transformers import BertConfig, BertModel, BertTokenizer

from textmask.nn.attention import Attention
from textmask.nn.image_encoders import UNetEncoder
from textmask.nn.text_cache import TextCache
from textmask.nn.text_encoders import BertTextEncoder
from textmask.types import Text, TextFeatures

SAMPLES, EPOCHS, BATCH, SIZE, REPEATS = 5716, 16, 32, 224, 7
ZONES = [
    f"{level} {side} lung" for side in ("left", "right") for level in ("upper", "middle", "lower")
]
NUMBERS = ("one", "two", "three", "four", "five", "six")


def captions() -> list[str]:
    """One caption for each of the 63 sets of lung zones."""
    sets = [c for n in range(1, 7) for c in combinations(ZONES, n)]
    return [
        f"pulmonary infection, {NUMBERS[len(c) - 1]} infected areas, {' and '.join(c)}."
        for c in sets
    ]


def bert_base(prompts: list[str]) -> BertTextEncoder:
    """BERT-base with random weights and a vocabulary of the words of the captions."""
    words = sorted({w for p in prompts for w in p.replace(",", " ,").replace(".", " .").split()})
    vocabulary = {
        w: i for i, w in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words])
    }
    return BertTextEncoder(
        "bert_base", BertModel(BertConfig()), BertTokenizer(vocab=vocabulary), 512
    )


class SmallNet(nn.Module):
    """A U-Net encoder and one cross-attention: less work than any method, so that text has a larger share."""

    def __init__(self, text_width: int) -> None:
        super().__init__()
        self.encoder = UNetEncoder((32, 80, 144, 208), stem_stride=4)
        self.text = nn.Linear(text_width, 208)
        self.attention = Attention(208)
        self.head = nn.Conv2d(208, 1, 1)

    def forward(self, image: Tensor, text: TextFeatures) -> Tensor:
        """Image B 3 H W -> logits B 1 H/32 W/32."""
        feature = self.encoder(image)[-1]
        places = rearrange(feature, "b c h w -> b (h w) c")
        words = self.text(text.text_tokens)
        places = places + self.attention(places, words, words, text.token_mask)
        out: Tensor = self.head(rearrange(places, "b (h w) c -> b c h w", h=feature.shape[2]))
        return out


def main() -> int:
    """Print the table and the goal lines; 0 only if every goal is met."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    prompts = captions()
    tower = bert_base(prompts)
    cache = TextCache(tower)
    started = time.perf_counter()
    cache.prepare(prompts)
    fill = time.perf_counter() - started

    net = SmallNet(tower.width).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    image = torch.rand(BATCH, 3, SIZE, SIZE).contiguous(memory_format=torch.channels_last)
    generator = torch.Generator().manual_seed(0)

    def texts() -> Text:
        order = torch.randint(len(prompts), (BATCH,), generator=generator)
        return Text(tuple(prompts[i] for i in order), torch.zeros(BATCH, 9))

    fixed = cache(texts())

    def step(text: TextFeatures) -> None:
        with torch.autocast("cpu", torch.bfloat16):
            logits = net(image, text)
        nn.functional.binary_cross_entropy_with_logits(
            logits.float(), torch.zeros_like(logits)
        ).backward()
        optimizer.step()
        optimizer.zero_grad()

    def encoded() -> TextFeatures:
        with torch.no_grad():
            features: TextFeatures = tower(texts())
        return features

    text = texts()
    with torch.no_grad():
        torch.testing.assert_close(
            cache(text).text_embedding, tower(text).text_embedding, atol=1e-4, rtol=1e-3
        )
    seconds = interleave(
        {
            "step": lambda: step(fixed),
            "step + cache": lambda: step(cache(texts())),
            "lookup": lambda: cache(texts()),
            "encode": encoded,
        },
        repeats=REPEATS,
    )
    steps = -(-SAMPLES // BATCH)
    epoch = steps * seconds["step"]
    lookups, encodes = steps * seconds["lookup"], steps * seconds["encode"]
    size = sum(p.numel() for p in tower.parameters()) / 1e6
    longest = fixed.token_mask.shape[1]
    print(
        f"tower {size:.0f} M in fp32, {len(prompts)} distinct prompts of up to {longest} tokens, {SAMPLES} samples, "
        f"batch {BATCH}, {SIZE}x{SIZE}, net in bf16"
    )
    print(f"{'seconds an epoch':<40}{'text':>10}{'all':>10}{'all / no text':>15}")
    rows = {
        "no text tower": 0.0,
        "cache, any epoch but the first": lookups,
        "cache, first epoch (fills the table)": lookups + fill,
        f"cache, mean of {EPOCHS} epochs": lookups + fill / EPOCHS,
        "tower in every step": encodes,
    }
    for title, cost in rows.items():
        print(f"{title:<40}{cost:>10.2f}{epoch + cost:>10.1f}{(epoch + cost) / epoch:>15.4f}")
    whole = seconds["step"] / seconds["step + cache"]
    print(
        f"whole steps timed in turn: speed with cache {whole:.4f} of that without text (noise included)"
    )
    goals = Goals()
    goals.at_least("text_epoch_speed_with_cache", epoch / (epoch + lookups), 0.98)
    goals.at_least(
        "text_run_speed_with_cache_and_fill", epoch / (epoch + lookups + fill / EPOCHS), 0.98
    )
    return goals.finish()


if __name__ == "__main__":
    raise SystemExit(main())
