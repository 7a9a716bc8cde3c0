"""What goes to the device: its manifest, the archive, the signature."""
