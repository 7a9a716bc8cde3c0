"""One file a runtime; see docs/plugins.md."""
