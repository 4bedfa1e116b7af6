"""Images in files: decoding them, sources that list them, and packed copies."""
