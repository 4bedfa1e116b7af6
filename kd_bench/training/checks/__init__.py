"""Checks of a job before it trains: what its losses return, and its gradients."""
