"""Places where jobs run: forks on this machine, Slurm jobs, Ray tasks; none of it knows Hydra."""
