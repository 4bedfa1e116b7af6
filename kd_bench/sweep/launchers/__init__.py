"""Hydra's launchers and sweeper; `registry` makes them known to Hydra."""
