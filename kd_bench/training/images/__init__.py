"""Training images: mixing, and examples for visual inspection."""
