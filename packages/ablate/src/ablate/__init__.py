"""Which part of a recipe matters? Runs variants of a training command and compares them."""

__version__ = "0.1.0"
