# SPDX-License-Identifier: Apache-2.0
import os
import pickle

import pytest

from gaff.checkpoint.unpickle import ForbiddenGlobalError, TensorRef, unpickle


class _Runs:
    """Pickles as a call of ``function(*arguments)``."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> object:
        return self.call


@pytest.mark.parametrize("function", [os.system, eval, exec, __import__, open, getattr])
def test_a_pickle_that_calls_something_is_refused_by_name(function: object, tmp_path: object) -> None:
    data = pickle.dumps({"module": _Runs(function, f"touch {tmp_path}/ran")}, protocol=2)
    with pytest.raises(ForbiddenGlobalError, match=function.__name__):  # type: ignore[attr-defined]
        unpickle(data)
    assert not os.listdir(str(tmp_path))


def test_a_pickle_cannot_alter_what_stands_in_for_a_class() -> None:
    # BUILD with a slot state would set attributes on the class itself
    data = b"\x80\x02cdeepspeed.utils.tensor_fragment\nfragment_address\nN}U\x01xK\x01s\x86b."
    with pytest.raises((ForbiddenGlobalError, pickle.UnpicklingError, TypeError, AttributeError)):
        unpickle(data)
    from gaff.checkpoint.unpickle import FragmentAddress

    assert not hasattr(FragmentAddress, "x")


def test_an_unknown_persistent_id_is_refused() -> None:
    class WithPersistentIds(pickle.Pickler):
        def persistent_id(self, obj: object) -> object:
            return ("file", "f", "0", "cpu", 1) if obj == "secret" else None

    import io

    stream = io.BytesIO()
    WithPersistentIds(stream, protocol=2).dump(["secret"])
    with pytest.raises(pickle.UnpicklingError):
        unpickle(stream.getvalue())


@pytest.mark.parametrize(
    ("shape", "stride", "contiguous"),
    [((4, 3), (3, 1), True), ((4, 3), (1, 4), False), ((1, 3), (99, 1), True), ((), (), True), ((5,), (2,), False)],
)
def test_contiguity_is_told_from_strides(shape: tuple[int, ...], stride: tuple[int, ...], contiguous: bool) -> None:
    assert TensorRef("data/0", "float32", 0, shape, stride).is_contiguous is contiguous
