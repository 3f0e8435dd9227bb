"""Exception for invalid arguments and files that cannot be written."""


class PhantomError(Exception):
    """An argument is invalid, or a file cannot be written.

    The message names it and the fix; the program prints it without a traceback.
    """
