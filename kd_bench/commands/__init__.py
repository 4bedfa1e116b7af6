"""Commands of their own, a file each, caught before Hydra sees the line: `main(words) -> code`."""

COMMANDS = ("plan", "status", "rerun", "evaluate", "export", "clean")
