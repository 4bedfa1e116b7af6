"""Image files: decoding, sources that list them, and packed copies."""
