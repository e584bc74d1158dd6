"""Replies to customers that answer and don't repeat themselves: a hybrid GAN + VAE with diversity losses."""

import os

__version__ = "0.1.0"

# TensorFlow's oneDNN kernels keep compiled code for every shape that they meet, a fifth of a megabyte each: a server
# that batches what comes would grow for hours. Without them replies take no longer. Read when TensorFlow is imported.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
