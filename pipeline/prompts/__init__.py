"""Templates, prompt encoders, and the bank of prompts that train together."""
