"""The three commands: parse, call one function, print. Heavy imports happen inside the verbs."""
