"""The schema of a job's configuration, and its composition with Hydra."""
