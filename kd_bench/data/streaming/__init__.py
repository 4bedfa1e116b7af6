"""Images that are decoded during training."""
