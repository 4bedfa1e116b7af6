"""What a trained network is measured by: its logits, corrupted images, a linear probe."""
