"""Executors, independent of Hydra: forks on this machine, Slurm jobs, Ray tasks."""
