"""Where SSA's guidance pushes true lesions: QaTa-COV19, 300 train images, no training.

The true mask, at the 7 x 7 places of the aligned scale, stands for the attention; the prediction is undecided (0.5
everywhere). Then each reading of P_refined tells each pixel of the lesions one of three things: lower, left out (dead
zone) or higher. Needs TEXTMASK_DATA.
"""

import os
import sys
from pathlib import Path

import cv2
import numpy as np
import torch
from timing import Goals

from textmask.io.masks import read_mask
from textmask.layouts.read import read_layout
from textmask.methods.registry import get_method
from textmask.methods.ssa.guidance import guidance, guide_monitors, refined
from textmask.nn.attention import stretched
from textmask.text.grammar import parse

IMAGES, SIZE, PLACES = 300, 224, 7


def main() -> int:
    source = Path(os.environ.get("TEXTMASK_DATA", "")) / "qata-cov19-v2"
    if not source.is_dir():
        print("TEXTMASK_DATA does not name a folder that contains qata-cov19-v2")
        return 1
    manifest = read_layout(source)
    rows = [row for row in manifest.rows_of("train") if row.mask]
    rows = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))[:IMAGES]]
    statements, masks = [], []
    for row in rows:
        mask = read_mask(manifest.root / row.mask, manifest.mask_rule)
        mask = cv2.resize(mask, (SIZE, SIZE), interpolation=cv2.INTER_NEAREST)
        masks.append(torch.from_numpy(mask)[None, None].float())
        statements.append(parse(row.text, laterality=row.laterality, grammar=row.grammar))
    mask = torch.cat(masks)
    logits = torch.zeros_like(mask)
    attention = stretched(torch.nn.functional.adaptive_avg_pool2d(mask, (PLACES, PLACES)))

    # the arms of the study list, one gradient or none changes nothing here
    goals, shares = Goals(), {}
    base = get_method("ssa").recipe()
    for arm in get_method("ssa").ablation_tables["guidance"][1:]:
        recipe = base.override(*arm.settings)
        found = guidance(attention, statements, (SIZE, SIZE), recipe.frame, recipe.box)
        target = refined(logits, found.guide, recipe.beta, recipe.refine)
        seen = guide_monitors(logits, target, mask, found, recipe.dead_zone)
        lower, out = (100 * seen[name].item() for name in ("lesion_lower", "lesion_left_out"))
        shares[arm.name] = lower
        print(
            f"{arm.name}: {lower:.1f} % of the lesion pixels lower, {out:.1f} % left out, "
            f"{100 - lower - out:.1f} % higher; n = {len(rows)}"
        )
    goals.at_least("lower_by_mix_over_renormalised", shares["mix"] / shares["renormalised"], 2.0)
    return goals.finish()


if __name__ == "__main__":
    sys.exit(main())
