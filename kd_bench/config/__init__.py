"""What a job's configuration may hold, and how Hydra composes it."""
