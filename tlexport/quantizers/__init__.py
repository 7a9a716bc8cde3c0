"""Quantizers, one file for each way to lower the precision of a graph; see docs/plugins.md."""
