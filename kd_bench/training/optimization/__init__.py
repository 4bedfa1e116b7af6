"""Optimizers, their schedules, rules for gradients, and the average of weights."""
