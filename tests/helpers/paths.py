"""Paths of the repository."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CONF = ROOT / "conf"
PACKAGE = ROOT / "kd_bench"
TOOLS = ROOT / "tools"
