"""Which models an export tries, how each is made smaller and faster, and what each costs on the target."""
