"""The command `paris` and its three rooms: parse, call one function, print. Verbs import what is heavy."""
