"""Everything that touches verl. Launcher and checks import neither verl nor torch, so that they answer at once."""
