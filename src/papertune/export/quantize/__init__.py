"""Quantisers for GGUF tensors, byte for byte those of ggml.

``types`` says what a quantised row looks like, ``kernels`` quantises rows. The arithmetic is in ``affine`` (code × scale − minimum),
``symmetric`` (code × scale) and ``plain`` (one rounding), all compiled by numba; nothing here needs a C compiler.

Identity with ggml means the same float32 operations in the same order within a block, and no fused multiply-add. Speed comes from working
on ``LANES`` blocks at once, so that each step of the search is one vector operation across blocks.
"""
