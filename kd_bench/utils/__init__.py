"""Helpers that are independent of distillation."""
