"""Run a trained model on images and prompts."""
