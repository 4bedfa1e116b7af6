"""Networks, a file per family, and how their features are read."""
