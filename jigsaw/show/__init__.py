"""What people look at: the gallery of puzzles, the curves of a run."""
