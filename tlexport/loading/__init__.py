"""From what the user names on the command line to a model that verbs pass on."""
