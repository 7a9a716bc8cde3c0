"""Description and state of the board, from its system files."""
