"""Bad input made by hypothesis: damaged bytes, JSON and arrays."""

import contextlib
import io
import json
import zipfile

import numpy as np
from hypothesis import strategies as st

DEEP = "nested too deep"
DEEP_JSON = "[" * 20_000 + "]" * 20_000
TEXTS = ("", " ", "\x00", "a\nb", "\ud800", "\x1b[31m", "&#0;", "x" * 5000, "word " * 300, "\u2028", "🦉" * 40, DEEP)
# Odd values by type: one that is of the expected type comes past the first checks.
ODD = {
    str: TEXTS,
    bool: (True, False),
    int: (-1, 0, 2**31, 2**63, 2**64, 10**13, 10**30, 10**400),
    float: (0.5, -1.0, 1e308, float("nan"), float("inf")),
    list: ([], [[]], [None], [1], [10**400], [1.0], [[1.0], [2.0]], [["a"]], [[1.0, float("nan")]], [True], [{}]),
    dict: ({}, {"a": 1}),
    type(None): (None,),
}
VALUES = sum(ODD.values(), ())
DTYPES = ("float32", "float64", "int8", "bool", "complex64", "object", "<U3", ">f2", "datetime64[s]")


@st.composite
def damaged(draw, data):
    """Bytes with one to three faults: cut off, a bit flipped, a piece lost, doubled, or put in."""
    for _ in range(draw(st.integers(1, 3))):
        at, length = draw(st.integers(0, max(len(data) - 1, 0))), draw(st.integers(1, 40))
        fault = draw(st.sampled_from(("cut", "flip", "lose", "double", "zeros", "insert")))
        if fault == "cut":
            data = data[:at]
        elif fault == "flip" and data:
            data = data[:at] + bytes([data[at] ^ 1 << draw(st.integers(0, 7))]) + data[at + 1 :]
        elif fault == "lose":
            data = data[:at] + data[at + length :]
        elif fault == "double":
            data = data[: at + length] + data[at:]
        elif fault == "zeros":
            data = data[:at] + bytes(length) + data[at + length :]
        else:
            data = data[:at] + draw(st.binary(max_size=40)) + data[at:]
    return data


def odd_value(value):
    """A strategy: something of the same type, more often than not, or anything."""
    return st.sampled_from(ODD[type(value)] + VALUES if value is None else ODD[type(value)] * 8 + VALUES)


@st.composite
def changed(draw, value, names=()):
    """A JSON value in which something, at any depth, is gone or has become something else."""
    keys = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    if not keys or not draw(st.integers(0, 9)):
        return draw(odd_value(value))
    key = draw(st.sampled_from([*keys, *names]))
    value = dict(value) if isinstance(value, dict) else list(value)
    fault = draw(st.sampled_from(("other", "other", "inside", "gone")))
    if fault == "inside" and key in keys:
        value[key] = draw(changed(value[key]))
    elif fault == "gone" and key in keys:
        del value[key]
    else:
        value[key] = draw(odd_value(value[key] if key in keys else None))
    return value


def to_json(value):
    return json.dumps(value).replace(json.dumps(DEEP), DEEP_JSON).encode()


@st.composite
def damaged_lines(draw, rows, names=()):
    """JSON lines with faults: rows changed, doubled, or out of order, bytes damaged, or something else at all."""
    kind = draw(st.sampled_from(("rows", "rows", "rows", "bytes", "noise")))
    if kind == "noise":
        return draw(st.binary(max_size=200))
    if kind == "bytes":
        return draw(damaged(b"".join(to_json(row) + b"\n" for row in rows)))
    rows = list(rows)
    at = draw(st.integers(0, len(rows) - 1))
    rows[at] = draw(changed(rows[at], names))
    rows = draw(st.sampled_from((rows, rows[::-1], [*rows, *rows], rows[at:], [*rows, *rows[:1]])))
    return b"".join(to_json(row) + b"\n" for row in rows)


@st.composite
def damaged_json(draw, value, names=()):
    if draw(st.booleans()):
        return to_json(draw(changed(value, names)))
    return draw(damaged(to_json(value)))


class Pickled:
    """What must not be loaded."""

    def __reduce__(self):
        return unpickled, ()


def unpickled():
    raise AssertionError("a pickle was loaded")


FAULTS = ("bytes", "bytes", "dtype", "shape", "shape", "gone", "text", "order", "values", "values", "file", "pickle")


@st.composite
def damaged_npz(draw, arrays):
    """An npz file with one array changed in type, shape or values, gone, or with damaged bytes."""
    arrays, compress = dict(arrays), draw(st.booleans())
    largest = max(arrays, key=lambda name: arrays[name].size)
    name = draw(st.sampled_from([*sorted(arrays), *[largest] * 6]))
    fault = draw(st.sampled_from(FAULTS))
    array = arrays.pop(name)
    if fault == "dtype":
        with contextlib.suppress(ValueError, TypeError):  # not every array can be cast to every type
            arrays[name] = array.astype(draw(st.sampled_from(DTYPES)))
    elif fault == "shape":
        flat, cuts = array.ravel(), (array[..., :-1], array[..., :-1], array[..., :0]) if array.ndim else ()
        arrays[name] = draw(st.sampled_from((array[None], array.T, flat, flat[:1], flat[:0], *cuts, *cuts)))
    elif fault == "text":
        arrays[name] = np.array(draw(st.sampled_from(("", "{", "[]", "null", '{"a": 1}', DEEP_JSON))))
    elif fault == "order":
        arrays[name] = np.asfortranarray(array)
    elif fault == "values" and array.dtype.kind in "fi":
        values = (0, 0, -1, 1, np.nan) if array.dtype.kind == "f" else (0, 0, -1, 1)
        arrays[name] = np.full_like(array, draw(st.sampled_from(values)))
    elif fault == "pickle":
        arrays[name] = np.full(array.shape, Pickled(), object)
    elif fault in ("bytes", "file"):
        arrays[name] = array
    file = io.BytesIO()
    (np.savez_compressed if compress else np.savez)(file, **arrays)
    data = file.getvalue()
    if fault == "file":
        return draw(
            st.sampled_from((b"", b"PK", data[: len(data) // 2], as_zip({"attention_scores.npy": b"\x93NUMPY"})))
        )
    return draw(damaged(data)) if fault == "bytes" else data


def as_zip(members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()
