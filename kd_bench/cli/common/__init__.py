"""Shared by several commands: the parser, the check of untrusted records, and the display."""
