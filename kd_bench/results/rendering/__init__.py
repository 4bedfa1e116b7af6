"""Rendering: tables as text with captions, summaries over pairs, published values, HTML."""
