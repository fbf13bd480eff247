"""The sub-pixel head: what it must say after few steps."""

import pytest
import torch
from torch import nn

from textmask.losses.segmentation import bce, soft_dice
from textmask.nn.decoders import SubPixelHead

TAU = 0.55  # of Semi-MedRef's pseudo-masks


def lesions(n, generator):
    """Squares that cover 8 % of an image."""
    mask = torch.zeros(n, 1, 32, 32)
    for i, (row, column) in enumerate(torch.randint(0, 24, (n, 2), generator=generator).tolist()):
        mask[i, :, row : row + 9, column : column + 9] = 1
    return mask


@pytest.mark.parametrize("seed", range(5))
def test_after_a_hundred_steps_lesions_pass_the_threshold_of_pseudo_masks(seed):
    """From a bias of 0, three of these five seeds have no pixel above it: the last ReLU is silent inside lesions."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    head, mixing = SubPixelHead(16, 4), torch.randn(16, 3, generator=generator)
    optimizer = torch.optim.AdamW(head.parameters(), lr=2e-3)

    for _ in range(100):
        mask = lesions(8, generator)
        # features that tell lesions from background, with noise
        coarse = nn.functional.avg_pool2d(mask, 4)
        causes = torch.cat([coarse, 1 - coarse, torch.rand(8, 1, 8, 8, generator=generator)], 1)
        noise = 0.3 * torch.randn(8, 16, 8, 8, generator=generator)
        feature = torch.relu(torch.einsum("ck,bkhw->bchw", mixing, causes) + noise)
        logits = head(feature, 0.5 * torch.randn(8, 3, 32, 32, generator=generator))
        loss = soft_dice(logits, mask) + bce(logits, mask)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        optimizer.step()

    lesion_probability = torch.sigmoid(logits.detach())[mask.bool()]
    assert (lesion_probability >= TAU).float().mean() >= 0.5
