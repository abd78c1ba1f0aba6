"""What can come of checking besides acceptance."""


class Malformed(Exception):
    """A file is not what it should be, or uses what the checker does not understand."""


class Rejected(Exception):
    """The certificate is well formed, and does not prove what it should."""
