"""A chat that is recorded as it goes, and goes on where it was left."""
