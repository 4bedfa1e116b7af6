"""The command line: a file per command, and Hydra's application for jobs."""
