"""Words of messages."""


def shortened(values, max_shown=10):
    """Write a list for a message, without what is beyond its first values.

    Parameters
    ----------
    values : list
    max_shown : int

    Returns
    -------
    str
    """
    shown = ", ".join(map(repr, values[:max_shown]))
    return shown if len(values) <= max_shown else f"{shown}, ..."
