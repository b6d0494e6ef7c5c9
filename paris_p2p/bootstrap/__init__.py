"""An operator's node: entry point, relay, store and forward."""
