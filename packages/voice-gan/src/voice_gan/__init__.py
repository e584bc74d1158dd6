"""One voice speaks another's words: many-speaker reconstruction and voice conversion, trained adversarially."""

__version__ = "0.1.0"
