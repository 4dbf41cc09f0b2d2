"""The error that a person reads: what was given, what is allowed, what to do; and the end before the end."""


class UserError(Exception):
    """A problem the user can mend; `main` prints it without a traceback and exits with status 1.

    The message is one or two lines a problem: what was given, what is allowed, what to do next.
    """


class Stopped(Exception):
    """No error: the process was asked to end (SIGTERM), and what was done is saved; the exit status is 75."""
