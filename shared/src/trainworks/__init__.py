"""The thin core under the trainworks tools."""

__version__ = "0.1.0"
