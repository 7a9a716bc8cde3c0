"""What the board is and how it behaves, from its system files."""
