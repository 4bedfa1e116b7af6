"""Evaluation of a trained network: metrics of its logits, corrupted images, a linear probe."""
