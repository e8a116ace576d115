"""Work that is put off until its result is asked for."""

from functools import partial

import torch

from skrepr._training._threads import ProcessLock, one_blas_thread, one_thread


class Deferred:
    """What a function returns, called once and not before it is asked for.

    The result must not depend on when that is: whatever the function uses is bound to
    it, and nobody changes that any more. To pickle or to copy the object calls the
    function, and what it was bound to, such as training rows, is not kept; if it raises
    then, the copy raises that when its result is asked for.

    Parameters
    ----------
    function : callable
        Without arguments. If it raises, the next `get` calls it again.
    """

    def __init__(self, function):
        self._function = function
        self._lock = ProcessLock()

    def get(self):
        """Return the result; of threads that ask at once, one computes it."""
        with self._lock:
            if self._function is not None:
                # Whatever the settings are when the result is asked for.
                with (
                    torch.inference_mode(False),
                    torch.enable_grad(),
                    torch.autocast("cpu", enabled=False),
                    torch.device("cpu"),
                    one_thread(),
                    one_blas_thread(),
                ):
                    self._result = self._function()
                self._function = None
        return self._result

    def __reduce__(self):
        try:
            return Deferred.of, (self.get(),)
        except Exception as error:
            return Deferred, (partial(_raise, error),)

    @classmethod
    def of(cls, result):
        """Return an object whose result is known."""
        deferred = cls(None)
        deferred._result = result
        return deferred


def _raise(error):
    raise error
