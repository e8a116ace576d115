"""What every part obeys: a small value that stands for one exclusive choice."""

from sklearn.base import BaseEstimator

from skrepr import _public
from skrepr._columns._columns import Columns
from skrepr._sklearn import InvalidParameterError

__all__ = ["Columns", "Part"]


class TakesParts(BaseEstimator):
    """Mixin of whatever has parameters that are parts: estimators, some parts.

    ``_part_kinds`` maps such a parameter to the base class of its parts. Those of
    ``_optional_parts`` may be None.
    """

    _part_kinds: dict[str, type["Part"]] = {}
    _optional_parts: frozenset[str] = frozenset()
    _parameter_constraints: dict = {}

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        # Every parameter has its constraint; that of parts is in `_validate_params`.
        of_parts = dict.fromkeys(cls._part_kinds, "no_validation")
        cls._parameter_constraints = of_parts | cls._parameter_constraints

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
                raise ValueError(
                    f"{key!r} cannot be set: {name} is {value!r}, which has no "
                    f"parameters. Set {name} to a part or one of the names "
                    f"{self._part_kinds[name].listed_names()} first."
                )
        return super().set_params(**params)

    def _validate_params(self):
        super()._validate_params()
        for name in self._part_kinds:
            part = self._part(name)
            if part is not None:
                part._validate_params()

    def _part(self, name):
        """Return the part of parameter `name`, or None."""
        return self._resolve(name, getattr(self, name))

    def _resolve(self, name, value):
        optional = name in self._optional_parts
        if value is None and optional:
            return None
        try:
            return self._part_kinds[name].from_value(value)
        except ValueError as error:
            hint = " None, for no such part, is allowed, too." if optional else ""
            raise InvalidParameterError(
                f"The {name!r} parameter of {type(self).__name__} {error}{hint}"
            ) from None


class Part(TakesParts):
    """Base class of the parts: backbones, likelihoods, objectives, augmentations, ...

    A part is a value, like a kernel of a Gaussian process: its constructor stores its
    arguments, an estimator never changes it, and `build` makes fresh torch modules of
    it. ``get_params``, ``set_params``, ``clone`` and ``repr`` are scikit-learn's.

    To write your own, derive from the base class of its kind, give ``__init__``
    explicit keyword parameters, and implement ``build``. ``_parameter_constraints``
    may hold scikit-learn's constraints by parameter; they are checked in ``fit``. A
    class statement with a name, ``class Mine(Objective, name="mine")``, lets estimators
    take that name for the part at its default settings.
    """

    #: Classes of the parts of a kind, by the names that stand for them.
    names: dict[str, type["Part"]] = {}

    #: Classes of this kind that wrap values of other types, such as functions, by what
    #: to call these in a message.
    _wrappers: dict[str, type["Part"]] = {}

    def __init_subclass__(cls, *, name=None, wraps=None, **kwargs):
        """Register the class under a name, or as what wraps other values.

        Parameters
        ----------
        name : str, optional
            Stands for the part at its default settings. A class that is defined again,
            as in a notebook, takes the place of the former.
        wraps : str, optional
            What to call, in messages, the values that `_can_wrap` accepts.
        **kwargs : dict
            For other base classes.

        Raises
        ------
        ValueError
            If the name is no string, or stands for another class.
        """
        super().__init_subclass__(**kwargs)
        if Part in cls.__bases__:  # the base class of a kind
            cls.names, cls._wrappers = {}, {}
        if name is not None:
            cls._check_name(name)
            cls.names[name] = cls
        if wraps is not None:
            cls._wrappers[wraps] = cls

    @classmethod
    def _check_name(cls, name):
        if not isinstance(name, str):
            raise ValueError(
                f"The name of {cls.__name__} is {name!r}. Expected a string."
            )
        other = cls.names.get(name, cls)
        if _full_name(other) != _full_name(cls):
            raise ValueError(
                f"The name {name!r} of {cls.__name__} is that of {_full_name(other)} "
                "already. Choose another one."
            )

    @classmethod
    def from_value(cls, value):
        """Return the part of this kind that the value of a parameter stands for.

        Parameters
        ----------
        value : object
            A part of this kind, a name, or what else the kind accepts.

        Returns
        -------
        Part
            Not validated yet.

        Raises
        ------
        ValueError
            If the value stands for no part of this kind. The message continues a
            sentence whose subject is the parameter.
        """
        if isinstance(value, cls):
            return value
        if isinstance(value, str) and value in cls.names:
            return cls.names[value]()
        for wrapper in cls._wrappers.values():
            if wrapper._can_wrap(value):
                return wrapper(value)
        accepted = ", ".join([cls.listed_names(), *cls._wrappers])
        is_class = isinstance(value, type) and issubclass(value, cls)
        hint = f" Call the class: {value.__name__}()." if is_class else ""
        raise ValueError(
            f"must be one of the names {accepted} or an instance of "
            f"{cls.__module__}.{cls.__name__}. Got {value!r} instead.{hint}"
        )

    @classmethod
    def _can_wrap(cls, value):
        """Tell whether an instance, constructed with the value, may stand for it."""
        raise NotImplementedError(f"{cls.__name__} must implement _can_wrap.")

    @classmethod
    def listed_names(cls):
        """Return the names of this kind for a message."""
        return ", ".join(map(repr, sorted(cls.names)))


def _full_name(cls):
    """Return the public name of a class, whichever private file holds it."""
    return f"{cls.__module__.partition('._')[0]}.{cls.__qualname__}"


def check_module(module, base, part):
    """Return the module that a part has built, if it is of its kind.

    Parameters
    ----------
    module : object
    base : type
        The base class of the modules of the kind.
    part : Part

    Returns
    -------
    torch.nn.Module

    Raises
    ------
    TypeError
        If it is of another class.
    """
    if not isinstance(module, base):
        raise TypeError(
            f"{type(part).__name__}.build returned an object of the class "
            f"{type(module).__name__}. Expected a {base.__module__}.{base.__name__}: "
            "derive the class of the module from it."
        )
    return module


_public.hand_on(__name__, globals())
