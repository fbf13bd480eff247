"""Text-guided medical image segmentation."""
