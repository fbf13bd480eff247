"""Coded concepts of the DICOM results, as (value, scheme, meaning)."""

from __future__ import annotations

Code = tuple[str, str, str]

LESION: Code = ("52988006", "SCT", "Lesion")
ABNORMAL: Code = ("49755003", "SCT", "Morphologically Abnormal Structure")
SITES: dict[str, Code] = {"lung": ("39607008", "SCT", "Lung")}
LATERALITY: dict[str, Code] = {
    "left": ("7771000", "SCT", "Left"),
    "right": ("24028007", "SCT", "Right"),
    "both": ("51440002", "SCT", "Right and left"),
}
LATERALITY_NAME: Code = ("272741003", "SCT", "Laterality")
IMAGING: Code = ("363679005", "SCT", "Imaging")
INTELLIGENCE: Code = ("123110", "DCM", "Artificial Intelligence")
REPORT: Code = ("126000", "DCM", "Imaging Measurement Report")
COMMENT: Code = ("121106", "DCM", "Comment")
DEVICE: Code = ("121007", "DCM", "Device")
AREA: Code = ("42798000", "SCT", "Area")
VOLUME: Code = ("118565006", "SCT", "Volume")
PROMPT: Code = ("sentence", "99TEXTMASK", "Sentence that was segmented")
PIXELS: Code = ("{pixels}", "UCUM", "pixels")
MM2: Code = ("mm2", "UCUM", "square millimeter")
MM3: Code = ("mm3", "UCUM", "cubic millimeter")
