"""What a person who is away learns of a node: metrics, word of trouble, and the service manager's view."""
