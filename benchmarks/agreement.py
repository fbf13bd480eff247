"""Agreement of 1000 masks of 224 x 224 with their prompts, compared with the forward pass of a model.

Phantom images of 200 patients, five times each. The model is `statement_unet`, the smallest lite preset that reads a
prompt, with random weights, in bf16 as in evaluation; 128 images are timed and scaled to 1000. One thread.
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
    phantoms = [make_phantom(PhantomConfig(), seed=seed) for seed in range(200)]
    masks = np.stack([phantom.mask for phantom in phantoms] * 5)
    statements = [phantom.statement for phantom in phantoms] * 5
    recipe = get_method("statement_unet").recipe().lite()
    method = build_method(recipe).eval().to(memory_format=torch.channels_last)
    image = torch.rand(32, 3, 224, 224).contiguous(memory_format=torch.channels_last)
    text = build_text([phantom.text for phantom in phantoms[:32]], statements[:32])

    def score() -> None:
        found = agreement(shown(masks, statements, "phantom"), statements)
        # phantoms agree exactly with their prompts
        assert int(found["zone"].intersection.sum()) == int(found["zone"].true.sum())

    def forward() -> None:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            for _ in range(4):
                method(image, text)

    times = interleave({"agreement": score, "forward": forward}, repeats=7)
    whole = times["forward"] * 1000 / 128
    print(
        f"agreement of 1000 masks {1e3 * times['agreement']:.0f} ms, forward pass of 1000 images {whole:.1f} s"
    )
    goals = Goals()
    goals.at_least("forward_over_agreement", whole / times["agreement"], 10)
    return goals.finish()


if __name__ == "__main__":
    raise SystemExit(main())
