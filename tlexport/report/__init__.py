"""Reports for people: one HTML file that holds everything it shows."""
