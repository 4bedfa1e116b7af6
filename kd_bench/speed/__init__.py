"""How fast training is, against plain PyTorch loops on the same machine in the same minutes."""
