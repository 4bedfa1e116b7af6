"""Records of finished runs, and tables made from them."""
