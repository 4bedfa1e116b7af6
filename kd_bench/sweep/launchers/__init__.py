"""Launchers and sweepers for Hydra; `registry` registers them."""
