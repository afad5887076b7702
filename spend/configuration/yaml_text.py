"""YAML, with no float in it: `0.1` is exactly a tenth, `no` and a date are text, and nothing is said twice.

PyYAML parses; what its nodes mean is decided here, by YAML 1.2's core schema without octal and hexadecimal
numbers. Its own constructor follows YAML 1.1, to which `010` is 8, `1:30` is 90 and `no`, Norway, is false.
"""

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import yaml

from spend.configuration.places import Refused

# libyaml's where PyYAML was built with it: several times faster.
Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
SafeDumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
# What PyYAML makes of words without a tag; a value (`=`) and a merge (`<<`) are text here.
PLAIN_TAGS = {
    f"tag:yaml.org,2002:{name}"
    for name in ("str", "int", "float", "bool", "null", "timestamp", "seq", "map", "value", "merge")
}
WORDS: dict[str, bool | None] = {"": None, "~": None, "null": None, "Null": None, "NULL": None}
WORDS |= {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
WHOLE_NUMBER = re.compile(r"[-+]?[0-9]{1,30}")
NUMBER = re.compile(r"[-+]?[0-9]{1,30}(\.[0-9]{0,30})?([eE][-+]?[0-9]{1,3})?|[-+]?\.[0-9]{1,30}")


def read_yaml(text: str | bytes) -> Any:
    """The one document in `text`, of dict, list, str, int, Decimal, bool and None. Raises Refused."""
    try:
        loader = Loader(text)
        try:
            node = loader.get_single_node()
        finally:
            loader.dispose()
        return None if node is None else _Reader().value_of(node)
    except yaml.YAMLError as error:
        raise Refused([f"This is no YAML: {' '.join(str(error).split())}"]) from None
    except RecursionError:
        raise Refused(["This is nested too deeply."]) from None


class _Reader:
    """Makes values of nodes, each node once: an alias would be its node again, and a bomb of a small file."""

    def __init__(self) -> None:
        self.seen: set[int] = set()

    def value_of(self, node: Any) -> Any:
        if id(node) in self.seen:
            raise _refused(node, "aliases (*name) are not taken here")
        self.seen.add(id(node))
        if node.tag not in PLAIN_TAGS:
            raise _refused(node, f"the tag {node.tag} is not taken here")
        if isinstance(node, yaml.MappingNode):
            return self._mapping_of(node)
        if isinstance(node, yaml.SequenceNode):
            return [self.value_of(each) for each in node.value]
        return node.value if node.style in {"'", '"', "|", ">"} else plain_value(node.value)

    def _mapping_of(self, node: Any) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for name_node, value_node in node.value:
            name = name_node.value
            if not isinstance(name_node, yaml.ScalarNode):
                raise _refused(name_node, "a field's name must be text")
            if name in values:
                raise _refused(name_node, f"{name!r} appears twice")
            values[name] = self.value_of(value_node)
        return values


def _refused(node: Any, why: str) -> Refused:
    return Refused([f"Line {node.start_mark.line + 1}: {why}."])


def plain_value(text: str) -> str | int | Decimal | bool | None:
    """What text without quotes means."""
    if text in WORDS:
        return WORDS[text]
    if WHOLE_NUMBER.fullmatch(text):
        return int(text)
    return Decimal(text) if NUMBER.fullmatch(text) else text


class Dumper(SafeDumper):  # type: ignore[misc]
    """Text that would be read as something else, here or by YAML 1.1, stands in quotes."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text_node(dumper: Any, text: str) -> Any:
    is_safe = text.isprintable() and plain_value(text) == text
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if is_safe else '"')


Dumper.add_representer(str, _text_node)


def write_yaml(document: Mapping[str, Any]) -> str:
    """Of dict, list, str, int, bool and None; fields in the order given."""
    style: dict[str, Any] = {"sort_keys": False, "default_flow_style": None, "allow_unicode": True, "width": 120}
    text: str = yaml.dump(document, Dumper=Dumper, **style)
    return text
