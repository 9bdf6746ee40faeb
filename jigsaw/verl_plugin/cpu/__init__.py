"""verl on a machine without a GPU: a platform, and the few patches that CUDA-only code needs (see install.py)."""
