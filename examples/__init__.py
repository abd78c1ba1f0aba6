"""Small runnable answers to a user's questions."""
