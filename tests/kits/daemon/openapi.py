"""The OpenAPI document as a judge of answers."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import httpx
import jsonschema

METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")


def pointer(*parts: str) -> str:
    """A reference to a part of the document (RFC 6901)."""
    return "#/" + "/".join(part.replace("~", "~0").replace("/", "~1") for part in parts)


class Contract:
    """The answers that the document describes."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document
        #: Path and method of every operation.
        self.operations = {
            (path, method)
            for path, item in document["paths"].items()
            for method in METHODS
            if method in item
        }
        self._patterns = {
            path: re.compile(re.sub(r"\\{[a-z]+\\}", "[^/]+", re.escape(path)))
            for path in document["paths"]
        }
        self.validator = cache(self._validator)

    def responses(self, method: str, target: str) -> dict[str, tuple[str, ...]]:
        """The place in the document of each answer to this request, by its status."""
        path = target.partition("?")[0]
        for template, pattern in self._patterns.items():
            if not pattern.fullmatch(path):
                continue
            if (template, method.lower()) in self.operations and method.isupper():
                return self.of(template, method.lower())
            return self.undescribed() | {"405": ("components", "responses", "NoSuchMethod")}
        return self.undescribed() | {"404": ("components", "responses", "NoSuchPath")}

    def of(self, path: str, method: str) -> dict[str, tuple[str, ...]]:
        """The answers of an operation."""
        where = ("paths", path, method, "responses")
        return {status: (*where, status) for status in self.look_up(*where)}

    def undescribed(self) -> dict[str, tuple[str, ...]]:
        """The failures that every operation may have, so any other request too."""
        everywhere = [self.of(*operation) for operation in sorted(self.operations)]
        common = set.intersection(*(set(responses) for responses in everywhere)) - {"200"}
        return {status: everywhere[0][status] for status in common}

    def look_up(self, *where: str) -> Any:
        """A part of the document."""
        found = self.document
        for part in where:
            found = found[part]
        return found

    def check(self, method: str, target: str, response: httpx.Response) -> None:
        """An answer to this request is one that the document describes."""
        responses = self.responses(method, target)

        assert str(response.status_code) in responses, f"{method} {target}: {response.text}"
        self.check_as(responses[str(response.status_code)], response)

    def check_any(self, response: httpx.Response) -> None:
        """An answer to an unknown request is one that the document describes for some request."""
        status = str(response.status_code)
        described = [self.of(*operation) for operation in self.operations]
        described += [self.responses("GET", "/nowhere"), self.responses("BREW", "/ip")]
        places = {answers[status] for answers in described if status in answers}

        assert places, response.text
        errors = []
        for where in places:
            try:
                self.check_as(where, response)
            except (AssertionError, jsonschema.ValidationError) as error:
                errors.append(error)
            else:
                return
        raise AssertionError(f"{response.text} is described nowhere: {errors}")

    def check_as(self, where: tuple[str, ...], response: httpx.Response) -> None:
        """The headers and the body of an answer are as described there."""
        described = self.look_up(*where)
        for name, header in described.get("headers", {}).items():
            assert name in response.headers or not header.get("required"), name
        kind = response.headers["content-type"]

        assert kind in described["content"]
        # The answer to HEAD has none.
        if response.content and kind == "application/json":
            self.validator(*where, "content", kind, "schema").validate(response.json())
        elif response.content:
            self.validator(*where, "content", kind, "schema").validate(response.text)

    def _validator(self, *where: str) -> jsonschema.Draft202012Validator:
        return jsonschema.Draft202012Validator(
            # What a reference leads to must be within the schema: it is the whole document.
            {**self.document, "$ref": pointer(*where)},
            format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER,
        )
