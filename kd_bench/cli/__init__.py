"""The command line. Commands of their own, a file each, are caught before Hydra sees the line."""

COMMANDS = ("plan", "status", "rerun", "evaluate", "export", "clean")
