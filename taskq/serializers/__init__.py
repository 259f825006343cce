"""How arguments and results become bytes, and back."""
