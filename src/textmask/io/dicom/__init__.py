"""DICOM files: reading images, writing segmentations and reports."""
