"""Plug-ins for losses of logits, a file for each paper."""
