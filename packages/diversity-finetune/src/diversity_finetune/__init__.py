"""Replies to customers that answer and don't repeat themselves: a hybrid GAN + VAE with diversity losses."""

__version__ = "0.1.0"
