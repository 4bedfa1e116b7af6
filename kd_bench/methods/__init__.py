"""Distillation methods, a file per paper."""
