"""What a machine is like, and what that means for taking part: facts on one side, findings on the other."""
