"""The base model: its text and its training, and what base and preference training share."""
