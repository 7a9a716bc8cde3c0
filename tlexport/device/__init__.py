"""What runs on the device. Python 3.6 syntax; imports nothing of tlexport."""
