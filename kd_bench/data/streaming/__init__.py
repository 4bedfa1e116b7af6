"""Images that are decoded while they are trained on."""
