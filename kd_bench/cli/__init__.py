"""The command line: one module per command, and Hydra's application for jobs."""
