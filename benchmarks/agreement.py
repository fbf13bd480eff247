"""Agreement of 1000 masks of 224 x 224 with their sentences against the model's own forward pass on them.

Phantom films of 200 patients, five times each. The model is the smallest of the lite presets that reads a sentence,
`statement_unet` with random weights, in bf16 as evaluation runs it; 128 pictures are timed and scaled to 1000. One
thread.
"""

import numpy as np
import torch
from timing import Goals, interleave

from textmask.data.loaders import build_text
from textmask.data.phantom import PhantomConfig, make_phantom
from textmask.methods.registry import build_method, get_method
from textmask.metrics.agreement import agreement, shown
from textmask.runs.environment import prepare_cpu


def main() -> int:
    torch.set_num_threads(1)
    prepare_cpu()
    films = [make_phantom(PhantomConfig(), seed=seed) for seed in range(200)]
    masks = np.stack([film.mask for film in films] * 5)
    statements = [film.statement for film in films] * 5
    recipe = get_method("statement_unet").recipe().lite()
    method = build_method(recipe).eval().to(memory_format=torch.channels_last)
    image = torch.rand(32, 3, 224, 224).contiguous(memory_format=torch.channels_last)
    text = build_text([film.text for film in films[:32]], statements[:32])

    def score() -> None:
        found = agreement(shown(masks, statements, "phantom"), statements)
        assert int(found["zone"].intersection.sum()) == int(
            found["zone"].true.sum()
        )  # phantoms agree exactly

    def forward() -> None:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            for _ in range(4):
                method(image, text)

    times = interleave({"agreement": score, "forward": forward}, repeats=7)
    whole = times["forward"] * 1000 / 128
    print(
        f"agreement of 1000 masks {1e3 * times['agreement']:.0f} ms, forward pass of 1000 pictures {whole:.1f} s"
    )
    goals = Goals()
    goals.at_least("forward_over_agreement", whole / times["agreement"], 10)
    return goals.finish()


if __name__ == "__main__":
    raise SystemExit(main())
