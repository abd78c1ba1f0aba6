"""What goes wrong for a user, as exceptions whose text says what was expected, what came, and what to do."""


class FathomError(Exception):
    """An error that is the user's to mend. The command line prints its text alone, without a traceback."""


class NotUnderstood(FathomError):
    """A file, operator, dtype or shape that Fathom does not understand; refused instead of guessed."""


class ReplayMismatch(FathomError):
    """An imported network that does not compute what its original computes."""


class NotCompilable(FathomError):
    """An overseer that cannot be turned into (network, spec); the problem can be attacked and not proved."""


class OutOfDomain(FathomError):
    """As far as bounds can tell, a function of the network may be asked for a value that it does not have, such as log of 0."""
