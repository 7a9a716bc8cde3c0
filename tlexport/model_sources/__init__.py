"""Where networks and their pretrained weights come from, one file for each library; see docs/plugins.md."""
