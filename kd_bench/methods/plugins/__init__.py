"""Plug-ins for losses of logits, one file per paper."""
