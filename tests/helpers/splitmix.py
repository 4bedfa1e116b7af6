"""The generator splitmix64 in Python integers."""

WORD = 1 << 64


def reference_splitmix64(state: int) -> int:
    """The published generator, in integers of arbitrary precision."""
    z = (state + 0x9E3779B97F4A7C15) % WORD
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % WORD
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % WORD
    return z ^ (z >> 31)
