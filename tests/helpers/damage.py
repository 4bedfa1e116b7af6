"""File corruption as by disks and interrupted copies, for property tests of readers."""

from __future__ import annotations

from hypothesis import strategies as st


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """`content` truncated, with zeros at its end or beginning, or with one bit flipped."""
    at = draw(st.integers(0, len(content) - 1))
    flipped = content[at] ^ (1 << draw(st.integers(0, 7)))
    return draw(
        st.sampled_from(
            [
                content[:at],
                content[:at] + bytes(len(content) - at),
                bytes(at + 1) + content[at + 1 :],
                content[:at] + bytes([flipped]) + content[at + 1 :],
            ]
        )
    )
