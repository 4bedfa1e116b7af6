"""Images: a file per kind of source, and how batches are made of them."""
