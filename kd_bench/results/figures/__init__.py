"""Figures of a table, as SVG."""
