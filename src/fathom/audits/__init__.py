"""The audit: a user's model, data and settings in; for every case, a bracket on how badly it can fail out.

What comes in is read and doubted here: `data` reads arrays, `preprocessing` looks for the mistakes that make an audit answer
another question than was asked, and `settings` is `audit.toml` and the command line's flags as one thing.
"""
