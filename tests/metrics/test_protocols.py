"""Which protocol the pairs of the five papers' tables can have been made by, row by row."""

import numpy as np
import pytest

from textmask.errors import DataError
from textmask.metrics.protocols import check_pair, verify_table

# verdict -> rows of (Dice, IoU) pairs as printed
SSA = {
    "pooled": """
        U-Net 83.52 71.71 67.34 50.76 | U-Net++ 83.66 71.91 68.20 51.75 | AttentionUnet 82.13 69.67 67.93 51.44
        SwinUNETR 80.42 67.25 57.79 40.63 | GuideDecoder 89.78 81.45 77.75 63.60 | MMI-UNet 90.88 83.28 78.42 64.50
        MLMoE 91.19 83.81 77.98 63.90 | SSA 91.65 84.60 80.37 67.19 | T2 90.64 82.89 90.92 83.36 91.01 83.50
        T3 88.92 80.05 89.61 81.18 90.54 82.72""",
    "per_image": "LViT 83.66 75.11 74.57 61.33",
    "impossible": "nnU-Net 84.39 72.35 69.30 52.53",
}
BICLIP = {
    "pooled": """
        EF-UNet 90.46 82.58 80.50 67.37 | BiCLIP 90.59 82.81 80.80 67.79
        T2-EF 88.78 79.82 65.63 48.85 87.84 78.32 64.24 47.32 84.87 73.71 55.48 38.39 66.76 50.10 33.68 20.25
        T2 88.78 79.83 72.18 56.48 87.14 77.21 68.29 51.85 84.92 73.79 64.71 47.83 74.79 59.73 46.49 30.29
        T3-EF-noise 70.97 55.00 79.42 65.87 67.68 51.15 79.26 65.65 65.70 48.92 79.03 65.33
        T3-EF-blur 89.51 81.01 80.49 67.35 88.76 79.80 80.15 66.88 87.20 77.31 78.76 64.97
        T3-noise 81.90 69.35 80.40 67.22 78.03 63.97 80.33 67.12 74.84 59.79 80.26 67.02
        T3-blur 89.58 81.13 80.61 67.51 89.19 80.50 80.17 66.91 88.01 78.59 77.97 63.89""",
    "per_image": """
        U-Net 79.02 69.46 64.60 50.73 | UNet++ 79.62 70.25 71.75 58.39 | nnU-Net 80.42 70.81 72.59 60.36
        UCTransNet 79.15 69.60 65.90 52.69 | Swin-Unet 78.07 68.34 63.29 50.19 | LAVT 79.28 69.89 73.29 60.41
        TGANet 79.87 70.75 71.81 59.28 | LViT 83.66 75.11 74.57 61.33 | Cap2Seg 81.32 71.61 75.87 63.02
        RecLMIS 85.22 77.00 77.48 65.07 | LGA 84.65 76.23 75.63 62.52 | ARSeg 84.09 72.64 73.24 59.82
        MedLangViT 84.27 75.93 75.95 63.17 | VT-MFLV 83.34 72.09 75.61 63.98 | SMF-net 85.78 76.45
        T3-LViT 70.07 58.65 54.57 43.75 68.27 56.71 54.19 43.28 67.60 55.95 52.68 41.95
        T3-RecLMIS 66.44 53.89 64.16 52.52 64.23 51.52 63.36 51.87 62.53 49.77 62.79 51.37""",
    "impossible": "SMF-net 78.70 64.17",
}
SEMI_MEDREF = {
    "pooled": """
        GuideDecoder 80.44 67.28 84.23 72.76 85.03 73.95 89.78 81.45 66.34 49.63 71.21 55.30 77.75 63.60
        MMI-UNet 84.63 73.36 87.35 77.55 88.72 79.73 90.88 83.28 68.23 51.78 72.26 56.57 74.00 58.73 78.42 64.50
        Ours-GD 86.07 75.54 87.12 77.18 89.13 80.39 90.91 83.34 72.87 57.32 73.11 57.62 74.70 59.61 77.94 63.86
        Ours-MMI-UNet 87.25 77.38 89.84 81.56 91.39 84.14 74.51 59.38 76.42 61.84 78.70 64.89
        T2 81.02 68.09 84.58 73.27 85.75 75.06 85.89 75.27 86.59 76.35 86.02 75.47 87.05 77.07 86.39 76.03""",
    "per_image": """
        LAVT 69.25 57.56 73.93 63.24 76.61 66.49 79.28 69.89 | SemiRES 75.33 64.82 77.40 67.45 77.52 67.59 80.16 70.20
        LViT 75.23 64.51 77.24 66.31 79.98 70.04 83.66 75.11 | Textmatch 72.46 58.12""",
    "impossible": "LAVT 58.44 40.23 | Textmatch 83.56 71.67 86.21 75.64 | Ours 88.31 78.98 71.16 55.18",
}
C2SEG = {
    "per_image": """
        C2Seg 85.25 76.97 77.81 65.17 91.82 86.81 91.92 85.27 | UKAN 79.30 69.85 72.56 59.05 89.74 84.47 87.77 81.13
        MMIUNet 89.96 84.14 90.27 84.29 | LViT 72.10 57.35 88.27 80.81 87.36 79.85 | LAVT 68.51 55.32 88.13 82.76
        T3 73.61 60.02 75.59 62.35 76.50 63.77 77.03 64.45 77.32 64.51 76.22 64.18 76.69 64.76
        T3-CVC 86.59 78.11 89.56 83.14 90.31 84.45 90.68 85.98 91.26 86.33 90.60 86.08 90.25 84.69
        T4a 77.29 64.51 76.21 63.27 77.26 64.42 76.93 64.02
        T4b 77.64 65.05 77.12 64.26 77.59 65.12 77.45 64.98 77.89 65.18""",
    "impossible": "LAVT 80.48 67.01 | LViT 81.52 68.63",
}
DUSSS = {
    "per_image": """
        U-Net 79.02 69.46 74.15 60.32 78.66 68.46 | MT 77.88 67.53 66.31 53.35 79.64 71.88 72.31 56.99
        Ours 79.00 68.21 71.48 55.97 82.52 75.87 74.61 61.08 78.03 66.93
        T2 80.86 72.33 80.13 72.31 81.49 75.25 81.05 73.80 81.10 75.08""",
    "impossible": "Ours 76.51 58.08 76.41 61.08 | MT 72.80 56.70 75.15 59.64",
}
# gap in points as REFERENCE states it: two decimals
GAPS = [
    ("SSA table 1, LViT", 83.66, 75.11, -2.13),
    ("SSA table 1, LViT", 74.57, 61.33, -1.46),
    ("SSA table 1, nnU-Net", 84.39, 72.35, 0.43),
    ("SSA table 1, nnU-Net", 69.30, 52.53, 0.42),
    ("BiCLIP table 1, ARSeg", 84.09, 72.64, -0.06),
    ("BiCLIP table 1, Swin-Unet", 78.07, 68.34, -3.12),
    ("BiCLIP table 1, SMF-net", 78.70, 64.17, 0.52),
    ("BiCLIP table 3, RecLMIS", 66.44, 53.89, -3.60),
    ("BiCLIP table 3, LViT", 54.57, 43.75, -6.30),
    ("Semi-MedRef table 1, LAVT", 58.44, 40.23, 1.06),
    ("Semi-MedRef table 1, Textmatch", 72.46, 58.12, -1.05),
    ("Semi-MedRef table 1, Textmatch", 83.56, 71.67, 0.06),
    ("Semi-MedRef table 1, Textmatch", 86.21, 75.64, 0.08),
    ("Semi-MedRef table 1, ours", 88.31, 78.98, 0.05),
    ("Semi-MedRef table 1, ours", 71.16, 55.18, 0.04),
    ("C2Seg table 1", 85.25, 76.97, -1.74),
    ("C2Seg table 1", 77.81, 65.17, -1.10),
    ("C2Seg table 2", 91.82, 86.81, -1.12),
    ("C2Seg table 2", 91.92, 85.27, -0.13),
    ("C2Seg table 1, LAVT", 80.48, 67.01, 0.23),
    ("C2Seg table 1, LViT", 81.52, 68.63, 0.12),
    ("DuSSS table 1, MoNuSeg", 76.51, 58.08, 3.03),
    ("DuSSS table 1, MoNuSeg, MT", 72.80, 56.70, 0.43),
]


def pairs(text):
    for row in text.replace("\n", "|").split("|"):
        name, *values = row.split() or [""]
        numbers = list(map(float, values))
        yield from (
            (name, dice, iou) for dice, iou in zip(numbers[::2], numbers[1::2], strict=True)
        )


@pytest.mark.parametrize(
    "table", [SSA, BICLIP, SEMI_MEDREF, C2SEG, DUSSS], ids="ssa biclip semi c2seg dusss".split()
)
def test_every_row_has_the_verdict_of_its_paper(table):
    for want, text in table.items():
        for name, dice, iou in pairs(text):
            found = check_pair(dice, iou)
            assert found.verdict == want, (name, dice, iou, found)
            assert found.verdict == verify_table(dice, iou)
            if want == "pooled":
                assert abs(found.gap) <= 0.01
            assert (abs(found.gap) <= found.tolerance) == (want == "pooled")


@pytest.mark.parametrize(("where", "dice", "iou", "gap"), GAPS)
def test_gaps_in_points(where, dice, iou, gap):
    assert check_pair(dice, iou).gap == pytest.approx(gap, abs=0.0051), where
    assert check_pair(dice / 100, iou / 100, (4, 4)).gap == pytest.approx(gap, abs=0.0051)


@pytest.mark.parametrize("decimals", [(2, 2), (1, 2), (2, 1), (0, 1)])
def test_tolerance_is_what_rounding_does(decimals):
    """Exact pooled pairs, rounded, stay pooled; the widest gap that rounding makes comes near the tolerance."""
    iou = np.random.default_rng(0).uniform(0.2, 0.95, 4000)
    dice = 2 * iou / (1 + iou)
    widest = 0.0
    for d, i in zip(
        np.round(100 * dice, decimals[0]), np.round(100 * iou, decimals[1]), strict=True
    ):
        found = check_pair(float(d), float(i), decimals)
        assert found.verdict == "pooled"
        assert abs(found.gap) <= found.tolerance
        widest = max(widest, abs(found.gap) / found.tolerance)
    assert widest > 0.9
    shifted = check_pair(
        90.0 + 1.01 * check_pair(90.0, 90 / 1.1, (2, 6)).tolerance, 90 / 1.1, (2, 6)
    )
    assert shifted.verdict == "impossible"


def test_dice_below_iou_is_impossible_and_half_known_digits_widen():
    assert check_pair(60.0, 60.5).verdict == "impossible"
    assert check_pair(60.0, 60.5).gap < 0
    assert check_pair(83.66, 75.11).tolerance < 0.02
    assert check_pair(84, 75.11, (0, 2)).tolerance > 0.5
    with pytest.raises(DataError, match="0-100"):
        check_pair(101, 99)
