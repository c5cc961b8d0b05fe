"""Errors of the package: our own failures, as opposed to wrong arguments (`ValueError`, `TypeError`)."""


class CoresetError(RuntimeError):
    """A failure of this package; the message is one line: what came, what is accepted, what to do."""


class WeightsUnavailableError(CoresetError):
    """Pretrained weights could neither be found on disk nor downloaded."""


class UnsupportedSourceError(CoresetError):
    """The source of data cannot be selected from by index, or not in the way it was given."""


class AwaitingLabelsError(CoresetError):
    """There is nothing to train on before annotators answer."""
