"""Distillation methods, one file per paper."""
