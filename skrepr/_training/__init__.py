"""Training and inference: the only optimisation loop, and what makes it fast."""
