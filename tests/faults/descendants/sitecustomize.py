"""Python imports this when it starts with this folder on PYTHONPATH: the hook is everywhere."""

from faults import hook

hook.install_from_environment()
