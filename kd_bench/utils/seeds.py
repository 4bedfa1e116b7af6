"""Independent random streams from one seed: draws for one purpose do not shift the others."""

from __future__ import annotations

import hashlib


def derive_seed(seed: int, *purpose: str | int) -> int:
    """The seed of the stream for one purpose, in [0, 2**63): a hash of `seed` and `purpose`.

    One global seed would let an adapter's initial weights shift the order of the batches; with
    streams, all methods of one seed start from the same student and see the same batches.
    """
    text = "/".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
