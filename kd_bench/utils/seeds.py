"""Independent random streams from one seed: drawing from one does not shift the others."""

from __future__ import annotations

import hashlib


def derive_seed(seed: int, *purpose: str | int) -> int:
    """The seed of the stream for one purpose, in [0, 2**63): a hash of `seed` and `purpose`.

    With one global stream, initializing an adapter would change the order of the batches. With
    separate streams, all methods with the same seed start from the same student and see the same
    batches.
    """
    text = "/".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
