"""Can a small adapter rebuild a language model's prompt embeddings from a compression?"""

__version__ = "0.1.0"
