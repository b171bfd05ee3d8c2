"""Where data comes from, its formats, and its splits."""
