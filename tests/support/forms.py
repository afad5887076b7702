"""A form as a browser would send it back, untouched, read from the page that has it."""

from html.parser import HTMLParser

Fields = dict[str, list[str]]


class FormReader(HTMLParser):
    """The fields of the form with this id."""

    def __init__(self, form_id: str) -> None:
        super().__init__()
        self.form_id, self.fields = form_id, Fields()
        self._is_inside, self._select, self._text = False, "", ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        if tag == "form":
            self._is_inside = found.get("id") == self.form_id
        elif self._is_inside and tag == "select":
            self._select = found["name"]
        elif self._is_inside and tag == "textarea":
            self._text = found["name"]
            self.fields[self._text] = [""]
        elif self._is_inside and tag == "option" and "selected" in found:
            self.fields.setdefault(self._select, []).append(found.get("value", ""))
        elif self._is_inside and tag == "input" and "name" in found:
            self._take_input(found)

    def _take_input(self, found: dict[str, str]) -> None:
        is_box = found.get("type") == "checkbox"
        if found.get("type") not in {"submit", "button"} and (not is_box or "checked" in found):
            self.fields.setdefault(found["name"], []).append(found.get("value", "on" if is_box else ""))

    def handle_data(self, data: str) -> None:
        if self._text:
            self.fields[self._text][0] += data

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self._is_inside = False
        elif tag == "textarea":
            self._text = ""


def form_in(page: str, form_id: str) -> Fields:
    reader = FormReader(form_id)
    reader.feed(page)
    return reader.fields
