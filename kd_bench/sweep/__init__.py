"""Sweeps: many jobs, prepared, planned, scheduled in slots, and displayed."""
