import pytest

from layers import gojson
from layers.errors import FormatError


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("<a>&b", rb'"\u003ca\u003e\u0026b"'),
        ("\u2028\u2029", rb'"\u2028\u2029"'),
        ("größe 🎉", '"größe 🎉"'.encode()),
        ('"\\/\n\t\x01\x7f', b'"\\"\\\\/\\n\\t\\u0001\x7f"'),
        ("\udcff", "\ufffd".join('""').encode()),
        ({"b": 1, "a": [True, None, {}]}, b'{"b":1,"a":[true,null,{}]}'),
    ],
)
def test_bytes_are_those_of_go(value: object, written: bytes) -> None:
    assert gojson.dumps(value) == written


def test_null_is_absent() -> None:
    assert gojson.as_object(None, "x") == {}
    assert gojson.as_list(None, "x") == []
    assert gojson.as_text(None, "x") == ""
    assert gojson.as_int(None, "x") == 0


@pytest.mark.parametrize(
    ("read", "value"),
    [
        (gojson.as_object, []),
        (gojson.as_list, {}),
        (gojson.as_text, 1),
        (gojson.as_int, True),
        (gojson.as_int, 1.5),
        (gojson.as_texts, [1]),
        (gojson.as_text_map, {"a": 1}),
    ],
)
def test_wrong_shapes(read, value) -> None:
    with pytest.raises(FormatError, match=r"^the thing is no JSON"):
        read(value, "the thing")


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"1", b"\xff", b"[" * 100_000])
def test_what_is_no_object(raw: bytes) -> None:
    with pytest.raises(FormatError, match=r"^it is no JSON"):
        gojson.loads_object(raw, "it")
