"""What the step leaves in its folder, and the states a paper can end in besides being used."""

TRAIN, VAL, MANIFEST, CARD, PAGE = "train.jsonl", "val.jsonl", "dataset.json", "dataset_card.md", "report.html"
LEFT_OUT = {"empty": "no text to learn from", "language": "in another language than most", "duplicate": "copies of others"}

LENGTH_STEP = 16
"""Tokens in a bin of the lengths that the manifest has."""

CODE_VERSION = 13
"""Raised when this room would write something else for the same input."""
