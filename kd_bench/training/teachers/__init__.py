"""The teacher of a training step: the frozen network, or a cache of its outputs."""
