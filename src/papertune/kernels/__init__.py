"""Floor 1: the arithmetic of a training step. ``ops`` is the door; ``reference`` says what each op means; only this room imports Triton."""
