"""Networks, one file per family, and feature extraction."""
