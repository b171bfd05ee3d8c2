"""Search of discrete prompts."""
