"""A page that any node serves to its own user, and a view without buttons that an operator may publish."""
