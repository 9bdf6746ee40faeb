"""A prompt and all its responses as one sequence, so that a prompt passes through the model once.

Pure torch and transformers: no verl, no vLLM, nothing else of this package. From below: :mod:`kernels` (attention over
segments), :mod:`layout` (where the tokens lie), :mod:`attention` (a shared prefix), :mod:`head` (log-probabilities),
:mod:`tower` (the vision tower's windows or frames), :mod:`model` (transformers' Qwen2.5-VL and Qwen3-VL on all of
them).
"""
