"""The functions of ``import tlexport``: plain arguments in, results out. A call imports what it needs; nothing else does."""
