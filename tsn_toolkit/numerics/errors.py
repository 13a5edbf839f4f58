"""The one error of the numerics; a caller that knows the file turns it into an error the user can mend."""


class NumericsError(ValueError):
    """A number or a packed byte string breaks the rule of the function it was given to."""
