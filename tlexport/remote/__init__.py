"""Run bundles on a remote board with the system's OpenSSH."""
