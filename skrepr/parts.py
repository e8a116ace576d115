"""What every part obeys: a small value that stands for one exclusive choice."""

from collections.abc import Callable

from sklearn.base import BaseEstimator

from skrepr._sklearn import StrOptions, validate_parameter_constraints


class TakesParts(BaseEstimator):
    """Mixin of whatever has parameters that are parts: estimators, some parts.

    ``_part_kinds`` maps such a parameter to the base class of its parts, whose
    ``names`` are the strings that stand for a part at its default settings. Where
    functions may be parts, its ``of_callable`` is the part that calls one; where dicts
    may be, its ``of_mapping`` is the part that holds one.
    """

    _part_kinds: dict = {}

    def set_params(self, **params):
        """Set parameters, also those of a part that is given by its name.

        ``set_params(objective__temperature=0.1)`` on ``objective="nt_xent"`` first
        puts the part in the place of its name.

        Parameters
        ----------
        **params : dict
            Names of parameters, nested ones as ``<parameter>__<its parameter>``, and
            their values.

        Returns
        -------
        self : object
            The instance itself.
        """
        for key in list(params):
            name, nested, _ = key.partition("__")
            value = params.get(name, getattr(self, name, None))
            if not nested or name not in self._part_kinds:
                continue
            if isinstance(value, str):
                params[name] = self._resolve(name, value)
            elif not hasattr(value, "set_params"):
                known = ", ".join(repr(known) for known in self._part_kinds[name].names)
                raise ValueError(
                    f"{key!r} cannot be set: {name} is {value!r}, which has no "
                    f"parameters. Set {name} to a part or one of the names {known} "
                    "first."
                )
        return super().set_params(**params)

    def _part(self, name):
        """Return the validated part of parameter `name`, or None."""
        value = getattr(self, name)
        if value is None:
            return None
        part = self._resolve(name, value)
        part._validate()
        return part

    def _resolve(self, name, value):
        kind = self._part_kinds[name]
        if isinstance(value, kind):
            return value
        if isinstance(value, str) and value in kind.names:
            return kind.names[value]()
        if kind.of_callable and callable(value) and not isinstance(value, type):
            return kind.of_callable(value)
        if kind.of_mapping and isinstance(value, dict):
            return kind.of_mapping(value)
        known = ", ".join(repr(known) for known in sorted(kind.names))
        others = ", a function" if kind.of_callable else ""
        others += ", a dict of them by column" if kind.of_mapping else ""
        raise ValueError(
            f"The {name!r} parameter of {type(self).__name__} must be one of the names "
            f"{known}{others} or an instance of {kind.__module__}.{kind.__name__}. "
            f"Got {value!r} instead."
        )


class Part(TakesParts):
    """Base class of the parts: backbones, likelihoods, objectives, augmentations, ...

    A part is a value, like a kernel of a Gaussian process: its constructor stores its
    arguments, an estimator never changes it, and `build` makes fresh torch modules of
    it. ``get_params``, ``set_params``, ``clone`` and ``repr`` are scikit-learn's.

    To write your own, derive from the base class of its kind, give ``__init__``
    explicit keyword parameters, and implement ``build``. ``_parameter_constraints``
    may hold scikit-learn's constraints by parameter; they are checked in ``fit``.
    """

    _parameter_constraints: dict = {}

    #: Names that stand for a part of this kind at its default settings.
    names: dict = {}

    #: Makes a part of this kind of a function; None if functions are no such parts.
    of_callable: Callable[[Callable], "Part"] | None = None

    #: Makes a part of this kind of a dict; None if dicts are no such parts.
    of_mapping: Callable[[dict], "Part"] | None = None

    def _validate(self):
        validate_parameter_constraints(
            self._parameter_constraints,
            self.get_params(deep=False),
            caller_name=type(self).__name__,
        )


def part_constraint(kind, *, optional=False):
    """List what scikit-learn's parameter validation lets through for a part.

    Parameters
    ----------
    kind : type
        Base class of the parts.
    optional : bool
        Whether None, for no such part, is allowed.

    Returns
    -------
    list
    """
    others: list = [callable] if kind.of_callable else []
    others += [dict] if kind.of_mapping else []
    return [StrOptions(set(kind.names)), kind, *others, *([None] * optional)]
