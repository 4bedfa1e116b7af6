"""Installs the hook in every Python process that starts with this folder on PYTHONPATH."""

from faults import hook

hook.install_from_environment()
