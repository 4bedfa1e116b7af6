"""Checks of a job before training: its recipe, losses, gradients and teacher."""
