"""A page to play on: a person puts a puzzle together, and a model tries the same one beside them."""
