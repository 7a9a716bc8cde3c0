"""The version of the package; in a file of its own, so that records can name it without importing the functions of the package."""

__version__ = "0.1.0"
