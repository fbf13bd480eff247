"""Loss functions, on logits."""
