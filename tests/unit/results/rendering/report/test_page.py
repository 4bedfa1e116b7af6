"""The report is a single file without network access; text in its data cannot become markup."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st

from kd_bench.results.rendering.report.page import embedded, page

HOSTILE = "</script><script>alert(1)</script><!-- & {{ script }} \u2028"


class Elements(HTMLParser):
    """The elements of a page, and the text in each script and style."""

    def __init__(self, text):
        super().__init__()
        self.found, self.texts, self.name = [], {}, None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        self.name = dict(attrs).get("id", tag) if tag in ("script", "style") else None

    def handle_endtag(self, tag):
        self.name = None

    def handle_data(self, text):
        if self.name is not None:
            self.texts[self.name] = text


def test_no_name_can_close_the_data_element():
    elements = Elements(page({"source": HOSTILE}))
    assert [attributes.get("id") for tag, attributes in elements.found if tag == "script"] == [
        "data",
        None,
    ]
    assert json.loads(elements.texts["data"]) == {"source": HOSTILE}


@given(st.text())
def test_embedded_text_is_unchanged_after_parsing_and_has_no_html_characters(text):
    assert json.loads(embedded([text])) == [text]
    assert not set("<>&\u2028\u2029") & set(embedded([text]))


def test_the_policy_allows_only_the_scripts_and_styles_of_the_page():
    elements = Elements(page({}))
    (policy,) = (a["content"] for _, a in elements.found if "http-equiv" in a)
    assert policy.startswith("default-src 'none';")
    for name in ("style", "script"):
        digest = base64.b64encode(hashlib.sha256(elements.texts[name].encode()).digest()).decode()
        assert f"{name}-src 'sha256-{digest}'" in policy


def test_the_page_refers_to_no_other_file():
    text = page({})
    assert re.findall(r"""\b(?:src|href)=["']([^"']*)""", text) == ["data:,"]
    assert set(re.findall(r"\w+://[^\s\"')]*", text)) == {"http://www.w3.org/2000/svg"}


def test_every_control_has_a_label_and_every_table_a_caption():
    text = page({})
    for control in re.findall(r"<(?:select|input)\b[^>]*>", text):
        before = text[: text.index(control)]
        assert before.count("<label>") == before.count("</label>") + 1, control
    assert len(re.findall(r"<table\b", text)) == len(re.findall(r"<caption\b", text)) == 2
