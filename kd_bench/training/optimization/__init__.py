"""Optimizers, learning-rate schedules, gradient rules, and the average of weights."""
