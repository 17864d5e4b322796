"""Bodies as browsers, Java, curl and others send them: accepted, or refused with a hint."""

import base64
import json
from typing import Any

import pytest

from .conftest import FakeClassifier, running
from .messages import problem

pytestmark = pytest.mark.anyio

DISPOSITION = b'Content-Disposition: form-data; name="file"'
ENCODED = base64.b64encode(b"3").decode()
JPEG = b"\xff\xd8\xff\xfb\xff\xfe\xff"  # in base64, it has the symbols that differ


def part(more: bytes = b"", content: bytes = b"3") -> bytes:
    return b"--x\r\n" + DISPOSITION + more + b"\r\n\r\n" + content + b"\r\n"


def named(filename: bytes, content: bytes = b"3") -> bytes:
    return part(b'; filename="%b"' % filename, content)


def field(name: str, value: bytes) -> bytes:
    return b'--x\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n' % (
        name.encode(),
        value,
    )


def form(*parts: bytes, boundary: bytes = b"x", media_type: str = "") -> dict[str, Any]:
    body = b"".join(parts).replace(b"--x\r\n", b"--" + boundary + b"\r\n")
    return {
        "content": body + b"--" + boundary + b"--\r\n",
        "headers": {"content-type": media_type or "multipart/form-data; boundary=x"},
    }


def text(content: bytes | str, media_type: str) -> dict[str, Any]:
    return {"content": content, "headers": {"content-type": media_type}}


EMPTY = part(b'; filename=""\r\nContent-Type: application/octet-stream', b"")
FILENAMES = {
    "utf-8": ('; filename="写真.jpg"'.encode(), "写真.jpg"),
    "latin-1": ('; filename="café.jpg"'.encode("latin-1"), "café.jpg"),
    "Shift-JIS": ('; filename="写真.jpg"'.encode("shift-jis"), None),
    "Shift-JIS with a backslash": ('; filename="表.jpg"'.encode("shift-jis"), None),
    "GB 18030": ('; filename="图片.jpg"'.encode("gb18030"), None),
    "no encoding": (b'; filename="\xff\xfe\x00\x80"', None),
    "RFC 8187": (b"; filename*=UTF-8''%E2%82%AC.jpg", "€.jpg"),
    "RFC 8187 beside the plain one": (b"; filename=\"a\"; filename*=utf-8'en'%C3%A9", "é"),
    "RFC 8187, unknown encoding": (b"; filename*=klingon''a.jpg", None),
    "quotes inside": (rb'; filename="a\"b.jpg"', 'a"b.jpg'),
    "without quotes": (b"; filename=a.jpg", "a.jpg"),
    "a path": (rb'; filename="C:\temp\a.jpg"', "a.jpg"),
    "none": (b"", None),
    "empty": (b'; filename=""', ""),
}


@pytest.mark.parametrize(("more", "filename"), FILENAMES.values(), ids=FILENAMES)
async def test_image_is_accepted_with_any_file_name(
    classifier: FakeClassifier, more: bytes, filename: str | None
) -> None:
    async with running(classifier) as (client, _):
        assert (await client.post("/predict", **form(part(more)))).status_code == 200
        assert (await client.post("/explain", **form(part(more)))).status_code == 200
        answer = await client.post("/predict/batch", **form(part(more)))
        assert answer.status_code == 200
        if filename is not None:
            assert answer.json()["results"][0]["filename"] == filename


@pytest.mark.parametrize(
    "parts",
    [[EMPTY, named(b"a")], [named(b"a"), EMPTY], [EMPTY, EMPTY, named(b"a"), EMPTY]],
    ids=["before", "behind", "around"],
)
async def test_empty_file_input_is_ignored(classifier: FakeClassifier, parts: list[bytes]) -> None:
    async with running(classifier) as (client, _):
        assert (await client.post("/predict", **form(*parts))).status_code == 200
        answer = await client.post("/predict/batch", **form(*parts))
        assert len(answer.json()["results"]) == 1
        detail = problem(await client.post("/predict", **form(EMPTY)), 400, "bad-request")
        assert "contains no image" in detail
        detail = problem(await client.post("/predict/batch", **form(EMPTY)), 400, "bad-request")
        assert "contains no image" in detail


@pytest.mark.parametrize("path", ["/predict", "/predict/batch"])
async def test_top_k_is_read_from_a_form_field(classifier: FakeClassifier, path: str) -> None:
    async with running(classifier) as (client, _):
        for parts in ([field("top_k", b"2"), part()], [part(), field("top_k", b" 2\r\n")]):
            answer = (await client.post(path, **form(*parts))).json()
            rows = answer["predictions"] if path == "/predict" else answer["results"][0]
            assert len(rows if path == "/predict" else rows["predictions"]) == 2
        for parts, message in (
            (
                [part(), field("top_k", b"11")],
                "top_k is '11'; it must be a whole number from 1 to 10",
            ),
            ([part(), field("top_k", b"\xff")], "it must be a whole number from 1 to 10"),
            ([part(), field("top_k", b"1" * 65)], "top_k has over 64 bytes"),
            ([field("top_k", b"2"), field("top_k", b"2"), part()], "duplicate parameter top_k"),
        ):
            response = await client.post(path, **form(*parts))
            assert message in problem(response, 422, "invalid-parameter")
        response = await client.post(f"{path}?top_k=2", **form(part(), field("top_k", b"2")))
        assert "in the query and in the body" in problem(response, 422, "invalid-parameter")


async def test_head_is_read_from_a_form_field(classifier: FakeClassifier) -> None:
    async with running(classifier) as (client, _):
        response = await client.post("/explain", **form(part(), field("head", b"3")))
        assert response.content == b"3 by 3"
        response = await client.post("/explain", json={"image": ENCODED, "head": 3})
        assert response.content == b"3 by 3"


CASED = b'--x\r\ncontent-disposition: Form-Data; Name="file"; FileName="a"\r\n\r\n3\r\n'
ACCEPTED: dict[str, dict[str, Any]] = {
    "Java's boundary": form(
        part(),
        boundary=b"----=_Part_0_1.2=",
        media_type="multipart/form-data; boundary=----=_Part_0_1.2=",
    ),
    "boundary in quotes": form(
        part(), boundary=b"a b;c", media_type='multipart/form-data; boundary="a b;c"'
    ),
    "boundary among others": form(
        part(), media_type="Multipart/Form-Data; charset=utf-8; Boundary=x ; start=1"
    ),
    "head of a part in other letters": form(CASED),
    "head of a part on two lines": form(
        part().replace(b'; name="file"', b';\r\n name="file"'),
    ),
    "base64 part": form(part(b"\r\nContent-Transfer-Encoding: base64", b"Mw==")),
    "base64 part in lines": form(part(b"\r\nContent-Transfer-Encoding: BASE64 ", b"Mw\r\n==\r\n")),
    "binary part": form(part(b"\r\nContent-Transfer-Encoding: Binary")),
    "8bit part": form(part(b"\r\nContent-Transfer-Encoding: 8bit")),
    "part that is a data URI": form(part(content=b"data:image/png;base64,Mw==")),
    "text before the form": {**form(part()), "content": b"Hello\r\n" + form(part())["content"]},
    "text behind the form": {**form(part()), "content": form(part())["content"] + b"Bye"},
    "JSON as text/plain": text(json.dumps({"image": ENCODED}), "text/plain"),
    "JSON as curl's -d": text(json.dumps({"image": ENCODED}), "application/x-www-form-urlencoded"),
    "JSON of a vendor": text(json.dumps({"image": ENCODED}), "application/vnd.me+json"),
    "JSON with a BOM": text(b'\xef\xbb\xbf{"image": "%b"}' % ENCODED.encode(), "application/json"),
    "BOM, as text": text(b'\xef\xbb\xbf {"image": "%b"}' % ENCODED.encode(), "text/plain"),
    "JSON behind white space": {"content": b' \r\n\t{"image": "%b"}' % ENCODED.encode()},
    "a parameter that is null": {"json": {"image": ENCODED, "top_k": None}},
    "a parameter with a decimal point": {"json": {"image": ENCODED, "top_k": 5.0}},
    "a parameter in base64": form(
        field("top_k", b"NQ==").replace(
            b'"top_k"', b'"top_k"\r\nContent-Transfer-Encoding: base64'
        ),
        part(),
    ),
    "a parameter as text": {"json": {"image": ENCODED, "top_k": "5"}},
    "data URI with a name": {"json": {"image": f"data:image/png;name=a.png;base64,{ENCODED}"}},
    "data URI alone": {"content": f"data:image/png;base64,{ENCODED}"},
    "no padding": {"json": {"image": ENCODED.rstrip("=")}},
}


@pytest.mark.parametrize("body", ACCEPTED.values(), ids=ACCEPTED)
async def test_forms_and_json_of_known_clients_are_accepted(
    classifier: FakeClassifier, body: dict[str, Any]
) -> None:
    async with running(classifier) as (client, _):
        response = await client.post("/predict", **body)
    assert response.status_code == 200, response.text
    assert classifier.batches == [[b"3"]]


@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
async def test_base64_of_both_alphabets_is_decoded(classifier: FakeClassifier, encode: Any) -> None:
    encoded = encode(JPEG)
    bodies: list[dict[str, Any]] = [
        {"json": {"image": encoded.decode()}},
        {"content": encoded},
        form(part(content=encoded)),
        form(part(b"\r\nContent-Transfer-Encoding: base64", encoded)),
    ]
    async with running(classifier) as (client, _):
        for body in bodies:
            assert (await client.post("/predict", **body)).status_code == 200
    assert classifier.batches == [[JPEG]] * len(bodies)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "unknown part": (form(field("topk", b"2"), part()), "did you mean 'top_k'?"),
    "part of a strange name": (
        form(part().replace(b'"file"', b'"\x1b[31m\xff"')),
        "unknown part '\N{REPLACEMENT CHARACTER}[31mÿ'",
    ),
    "quoted-printable": (
        form(part(b"\r\nContent-Transfer-Encoding: quoted-printable")),
        "is 'quoted-printable'; it must be binary or base64",
    ),
    "broken base64 part": (
        form(part(b"\r\nContent-Transfer-Encoding: base64", b"M%==")),
        "it contains the character '%'",
    ),
    "mixed": (form(part(), media_type="multipart/mixed; boundary=x"), "send multipart/form-data"),
    "empty boundary": (form(part(), media_type="multipart/form-data; boundary="), "boundary"),
    "long boundary": (
        form(part(), media_type="multipart/form-data; boundary=" + "x" * 251),
        "over 250 bytes long",
    ),
    "text fields": (
        {"data": {"image": ENCODED}},
        "the body is a form of text fields; send it as the raw body",
    ),
    "UTF-16": (text(json.dumps({"image": ENCODED}).encode("utf-16"), "application/json"), "UTF-8"),
    "UTF-16 without its mark": (
        text(json.dumps({"image": ENCODED}).encode("utf-16-le"), "application/json"),
        "it is UTF-16; send UTF-8",
    ),
    "another member": ({"json": {"image": ENCODED, "topk": 2}}, "did you mean top_k?"),
    "image under another name": ({"json": {"img": ENCODED}}, 'not {"image": "<base64>"}'),
    "list of images": ({"json": {"image": [ENCODED]}}, "image: must be a valid string"),
    "a parameter that is not whole": (
        {"json": {"image": ENCODED, "top_k": 1.5}},
        "top_k: must be a whole number",
    ),
    "a parameter that is a truth value": (
        {"json": {"image": ENCODED, "top_k": True}},
        "top_k: must be a whole number",
    ),
    "base64 whose + became spaces": (
        {"json": {"image": "Mw/ Mw=="}},
        "it contains spaces, probably from unescaped +; send + as %2B",
    ),
    "another boundary": (
        form(part(), media_type="multipart/form-data; boundary=y"),
        "it ends without the final boundary '--y--' of its Content-Type",
    ),
    "no last boundary": (
        {**form(part()), "content": part()},
        "it ends without the final boundary '--x--'",
    ),
    "data URI without base64": ({"json": {"image": "data:image/png,abc"}}, "must begin like data:"),
    "too many parts": (form(*[field("top_k", b"")] + [EMPTY] * 17), "the form has over 17 parts"),
}


@pytest.mark.parametrize(("body", "message"), REFUSED.values(), ids=REFUSED)
async def test_refusal_says_what_to_send_instead(
    classifier: FakeClassifier, body: dict[str, Any], message: str
) -> None:
    async with running(classifier) as (client, _):
        response = await client.post("/predict", **body)
        assert message in problem(response, 400, "bad-request")
    assert not classifier.batches
