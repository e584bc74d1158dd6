"""Synthetic tabular rows from a language model that discriminators teach."""

__version__ = "0.1.0"
