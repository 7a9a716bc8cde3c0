"""One file a way to lower the precision of a graph; see docs/plugins.md."""
