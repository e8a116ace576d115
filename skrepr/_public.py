"""Public names say where users import them from, not which private file holds them."""


def hand_on(package, namespace):
    """Make the names of a package's ``__all__`` print and pickle under the package.

    So stored objects do not depend on which file holds a class. The price is that
    `inspect.getsource` does not find the source of these classes (it does of their
    methods), as it does not in NumPy and other packages that do the same.

    Parameters
    ----------
    package : str
        Its ``__name__``.
    namespace : dict
        Its ``globals()``.
    """
    for name in namespace["__all__"]:
        value = namespace[name]
        if getattr(value, "__module__", "").startswith(("skrepr._", f"{package}.")):
            value.__module__ = package
