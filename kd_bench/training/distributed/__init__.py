"""One job in several processes: PyTorch's DistributedDataParallel, started as torchrun does."""
