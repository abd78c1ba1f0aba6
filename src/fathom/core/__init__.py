"""The words of Fathom, and nothing else: every other room speaks in these types and this room knows none of them."""
