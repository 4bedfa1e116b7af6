"""Records of finished runs, and the tables made of them."""
