"""The exception family of the toolkit.

Every error that a user can mend derives from `TsnError` and says what is wrong, where, the rule, and what to do. The command line is the one boundary
that turns them into a message and an exit code.
"""


class TsnError(Exception):
    """Base of all errors that a user can mend."""


class RecipeError(TsnError):
    """A recipe breaks its schema or names something unknown; carries every problem found."""


class DataError(TsnError):
    """A data file is missing, truncated or mislabelled."""


class ModelError(TsnError):
    """A model factory or checkpoint cannot be used as the recipe asks."""


class GraphError(TsnError):
    """A model cannot be traced, or its units cannot be removed without changing its function."""


class PlanError(TsnError):
    """A compression plan is malformed, belongs to another model, or would change nothing."""


class LearningError(TsnError):
    """Training did not end in usable weights."""


class StoreError(TsnError):
    """A store is damaged, locked by another writer, or asked for something it does not hold."""


class TargetError(TsnError):
    """A hardware target is unknown or malformed, or its runtime is missing."""


class ExportError(TsnError):
    """A task cannot be exported for a target."""


class GateError(TsnError):
    """An exported package does not answer like the store."""


class RunError(TsnError):
    """A run's folder cannot be used as asked: it exists already, or it does not match the recipe."""


def first_line(error: Exception) -> str:
    """Type of an error of other code and the first line of its text that is not blank; some begin with a blank one or have none."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
