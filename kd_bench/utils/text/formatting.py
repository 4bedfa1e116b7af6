"""Formats durations, sizes and counts for display."""

from __future__ import annotations


def format_duration(seconds: float) -> str:
    """2.6 -> "3 s", 130 -> "2 min 10 s", 4000 -> "1 h 07 min", 100000 -> "1 d 4 h"."""
    whole = round(seconds)
    minutes, hours, days = whole // 60, whole // 3600, whole // 86400
    if days:
        return f"{days} d {hours % 24} h"
    if hours:
        return f"{hours} h {minutes % 60:02} min"
    if minutes:
        return f"{minutes} min {whole % 60:02} s"
    return f"{whole} s" if whole else "under 1 s"


def format_bytes(count: int) -> str:
    """Bytes in units of 1000: 820 -> "820 B", 1234567 -> "1.2 MB"."""
    value, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{count} B" if unit == "B" else f"{value:.1f} {unit}"


def pluralize(number: int, noun: str) -> str:
    """1, "job" -> "1 job"; 1200, "job" -> "1,200 jobs"; 2, "class" -> "2 classes"."""
    ending = "es" if noun.endswith("s") else "s"
    return f"{number:,} {noun}{'' if number == 1 else ending}"
