"""SearchResult discrete prompts."""
