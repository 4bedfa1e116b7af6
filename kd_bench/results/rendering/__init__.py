"""Tables for readers: as text with captions, over several pairs, and beside published values."""
