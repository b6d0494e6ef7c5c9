"""Clips from prompts with all experts: the engine, the command and the pipeline."""
