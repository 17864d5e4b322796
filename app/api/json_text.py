"""JSON of clients, bounded before it is parsed: kilobytes can stand for gigabytes of objects."""

from typing import TypeVar

from pydantic import BaseModel, ValidationError

from app.errors import BadRequest

# As many of each sign may be in one text, wherever they stand. A photo is one string, and a tensor
# numbers in lists: thirteen of 3 x 224 x 224.
MOST = {b"{": 1_000, b'"': 20_000, b"[": 200_000, b",": 2_000_000}

Body = TypeVar("Body", bound=BaseModel)


def parse_json(body: type[Body], text: bytes, otherwise: str) -> Body:
    """The body that a text holds.

    Lists in ``body`` are to end at their first mistake (`pydantic.FailFast`): each takes memory.

    Raises:
        BadRequest: it holds none; begins with ``otherwise`` and says where and why.
    """
    for sign, most in MOST.items():
        if (count := text.count(sign)) > most:
            raise BadRequest(
                f"{otherwise}: it has {count:,} times {sign.decode()}, of {most:,} at most; "
                "large tensors are binary data"
            )
    try:
        return body.model_validate_json(text)
    except ValidationError as error:
        mistakes = error.errors(include_url=False, include_context=False, include_input=False)
        where = ".".join(map(str, mistakes[0]["loc"]))[:80] or "body"
        raise BadRequest(f"{otherwise}: {where}: {mistakes[0]['msg']}") from error
