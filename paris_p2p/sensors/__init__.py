"""What this machine says of itself while others use it: GPU, battery, people at the keyboard, load."""
