"""Files on disk: atomic writes, locks, caches, and the bounded readers of untrusted files."""
