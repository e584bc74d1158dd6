"""Yes/no questions about stories: an LSTM and a Transformer behind one trainer."""

__version__ = "0.1.0"
