"""Work in blocks of rows, so that what it takes in memory is bounded."""


def blocks(n_rows, cells_per_row, max_cells):
    """Cut rows into slices of so few that their intermediate values are bounded.

    Parameters
    ----------
    n_rows : int
    cells_per_row : int
        Intermediate values that a row needs.
    max_cells : int
        Intermediate values of a slice at most, save where one row needs more.

    Returns
    -------
    list of slice
    """
    size = max(1, max_cells // max(1, cells_per_row))
    return [slice(i, min(i + size, n_rows)) for i in range(0, n_rows, size)]
