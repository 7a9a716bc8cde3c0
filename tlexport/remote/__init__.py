"""A board elsewhere, reached with the system's OpenSSH."""
