"""The border between the user's columns and the matrix the modules see."""
