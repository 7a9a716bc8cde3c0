"""One file a family of backbones; see docs/plugins.md."""
