"""
The API key: wrapped, blanked in links, masked in texts and log records.
"""

from __future__ import annotations

import copy
import html
import json
import logging
import pickle
import re
import traceback
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from conftest import KEY, any_text, leaks
from hypothesis import example, given, settings
from hypothesis import strategies as st

from crowdtwist_async import _secrets
from crowdtwist_async._protocol import page_in_link
from crowdtwist_async._secrets import MASK, LogRedaction, Redactor, Secret, blank_keys_in_links

ENCODERS: dict[str, Callable[[str], str]] = {
    "plain": str,
    "quote-all": lambda key: quote(key, safe=""),
    "quote": quote,
    "quote-plus": quote_plus,
    "slashes-escaped": lambda key: key.replace("/", "\\/"),
    "quote-slashes-escaped": lambda key: quote(key).replace("/", "\\/"),
    "lower-hex": lambda key: quote(key, safe="").replace("%2F", "%2f").replace("%2B", "%2b"),
}


def encoders() -> list[Any]:
    """The ways in which a server may echo the key."""
    return [pytest.param(encode, id=name) for name, encode in ENCODERS.items()]


def test_a_secret_is_revealed_only_on_request() -> None:
    """Neither repr, str nor a format shows it, and it has no attribute that holds it."""
    secret = Secret(KEY)

    assert KEY == secret.reveal()
    assert ["Secret(***)"] * 3 == [repr(secret), str(secret), f"{secret}"]
    assert not hasattr(secret, "__dict__")
    assert not leaks(repr([getattr(secret, name) for name in dir(secret)]))


def test_a_secret_stays_out_of_captured_locals() -> None:
    """Crash reporters print the locals of every frame."""
    secret = Secret(KEY)

    def fail(wrapped: Secret) -> None:
        length = len(wrapped.reveal())
        raise ValueError(f"{length}")

    with pytest.raises(ValueError) as caught:
        fail(secret)
    report = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    assert not leaks("".join(report.format()))


@pytest.mark.parametrize(
    "copied", [pickle.dumps, copy.copy, copy.deepcopy], ids=lambda copied: copied.__name__
)
def test_a_secret_cannot_be_pickled_or_copied(copied: Callable[[object], object]) -> None:
    """A pickle is a file somewhere."""
    with pytest.raises(TypeError, match="^a secret can't be pickled or copied$"):
        copied(Secret(KEY))


def test_wrapping_twice_is_wrapping_once() -> None:
    """`Secret.of` takes what is wrapped already."""
    secret = Secret.of(KEY)

    assert KEY == secret.reveal()
    assert secret is Secret.of(secret)


@pytest.mark.parametrize("encode", encoders())
@pytest.mark.parametrize("text", ["{}", "key {} refused", "a{}b", "{0}{0}", "é{}\n{}"], ids=ascii)
def test_every_form_of_the_key_is_masked(text: str, encode: Callable[[str], str]) -> None:
    """Plain or percent-encoded, in either case, with slashes escaped or not, anywhere in a text."""
    echoed = encode(KEY)
    said = text.format(echoed, echoed)
    assert said.replace(echoed, "***") == Redactor(Secret(KEY))(said)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("CTApiKey another-key is wrong", "CTApiKey *** is wrong"),
        ("'CTApiKey another-key'", "'CTApiKey ***'"),
        ('{"header": "CTApiKey another-key", "x": 1}', '{"header": "CTApiKey ***", "x": 1}'),
        ("CTApiKey+another-key", "CTApiKey+***"),
        ("CTApiKey%20another-key", "CTApiKey%20***"),
        ("CTApiKey", "CTApiKey"),
        ("GET /rewards?api_key=another-key&page=2", "GET /rewards?api_key=&page=2"),
        ("GET /rewards?api_key=another-key", "GET /rewards?api_key="),
        ("GET /rewards?api_key%3danother-key&page=2", "GET /rewards?api_key%3d&page=2"),
        ("api_key is wrong", "api_key is wrong"),
        ("nothing to see", "nothing to see"),
    ],
)
def test_keys_are_masked_where_keys_stand(said: str, expected: str) -> None:
    """Behind `CTApiKey` and `api_key=` stands a key, be it another one or a part of one."""
    assert expected == Redactor(Secret(KEY))(said)


@pytest.mark.parametrize(
    ("other", "said", "expected"),
    [
        pytest.param("42", "user 42 of 1420", "user *** of 1420", id="whole-words-only"),
        pytest.param("42", "42", "***", id="alone"),
        pytest.param("42", "id_42 42_a 4.2 x42", "id_*** ***_a 4.2 x42", id="parts-of-words"),
        pytest.param("alice@example.com", "no alice@example.com here", "no *** here", id="email"),
        pytest.param("alice@example.com", "no Alice@Example.COM here", "no *** here", id="other-case"),
        pytest.param("alice@example.com", "/users/alice%40example.com/", "/users/***/", id="encoded"),
        pytest.param("alice@example.com", "<alice@example.com>", "<***>", id="in-brackets"),
        pytest.param("+15551239687", "phone +15551239687.", "phone ***.", id="phone"),
        pytest.param("+15551239687", "?id=%2b15551239687", "?id=***", id="phone-lower-hex"),
        pytest.param("a.b", "axb a.b", "axb ***", id="no-pattern"),
    ],
)
def test_other_texts_are_masked_as_whole_words(other: str, said: str, expected: str) -> None:
    """A user id is masked in every form, but a short one must not shred every number."""
    assert expected == Redactor(Secret(KEY), (other,))(said)


def test_deep_masking_reaches_names_and_values() -> None:
    """Parsed JSON is masked throughout, and everything that is no text stays as it is."""
    said = {"message": KEY, KEY: [KEY, 1, None, {"a": [f"<{quote(KEY)}>"]}], "n": 1.5, "t": True}
    expected = {"message": "***", "***": ["***", 1, None, {"a": ["<***>"]}], "n": 1.5, "t": True}
    assert expected == Redactor(Secret(KEY)).deep(said)


@settings(deadline=None)
@given(any_text(), st.sampled_from(sorted(ENCODERS)), any_text())
@example("api_key", "plain", "")
@example("CTApiKey ", "quote-all", ",")
def test_no_text_around_the_key_saves_it(before: str, encoder: str, after: str) -> None:
    """Whatever stands before and behind it, the key is gone."""
    assert not leaks(Redactor(Secret(KEY))(f"{before}{ENCODERS[encoder](KEY)}{after}"))


def test_a_body_without_keys_is_left_alone() -> None:
    """Most bodies are not even copied."""
    body = b'{"paging": {"next_page": "https://api.crowdtwist.com/?page=2"}}'
    assert body is blank_keys_in_links(body)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        pytest.param('{"l": "?api_key=K&page=2"}', '{"l": "?api_key=&page=2"}', id="first"),
        pytest.param('{"l": "?page=2&api_key=K"}', '{"l": "?page=2&api_key="}', id="last"),
        pytest.param('{"l": "?page=2&api_key="}', '{"l": "?page=2&api_key="}', id="empty-already"),
        pytest.param('["?api_key=K","?api_key=L"]', '["?api_key=","?api_key="]', id="two-links"),
        pytest.param(
            r'["?api_key\u003dK\u0026page\u003d2"]', r'["?api_key\u003d\u0026page\u003d2"]', id="escaped"
        ),
        pytest.param(r'["?api_key\u003DK"]', r'["?api_key\u003D"]', id="escaped-upper-case"),
        pytest.param(r'["?api_key=a\/b\u003d&page=2"]', '["?api_key=&page=2"]', id="escapes-in-the-key"),
        pytest.param(r'["?api_key=a\\&page=2"]', '["?api_key=&page=2"]', id="backslash-at-its-end"),
        pytest.param(r'["?api_key=a\\"]', '["?api_key="]', id="backslash-before-a-quote"),
        pytest.param(r'["{\"l\": \"?api_key=K\"}"]', r'["{\"l\": \"?api_key=\"}"]', id="json-in-json"),
        pytest.param(r'["?api_key=K\u0022 x"]', r'["?api_key=\u0022 x"]', id="escaped-quote"),
        pytest.param(r'["?api_key=K\nline"]', r'["?api_key=\nline"]', id="line-break"),
        pytest.param("?api_key=K&amp;page=2", "?api_key=&amp;page=2", id="html"),
        pytest.param("<a href='?api_key=K'>", "<a href='?api_key='>", id="html-quotes"),
        pytest.param("<b>api_key=K</b>", "<b>api_key=</b>", id="html-text"),
        pytest.param("to=%3Fapi_key%3DK&x", "to=%3Fapi_key%3D&x", id="link-in-a-link"),
        pytest.param('["?api_key=Ké&page=2"]', '["?api_key=&page=2"]', id="beyond-ascii"),
        pytest.param('{"api_key": "name"}', '{"api_key": "name"}', id="a-propertys-name"),
    ],
)
def test_keys_in_links_are_emptied(body: str, expected: str) -> None:
    """The value goes, and everything around it stays."""
    assert expected == blank_keys_in_links(body.encode()).decode()


def escaped(text: str, escapes: list[tuple[str, str]]) -> str:
    """A JSON string with further characters escaped, as some servers' encoders do."""
    encoded = json.dumps(text)
    for character, escape in escapes:
        encoded = encoded.replace(character, escape)
    return encoded


# In a link these characters end a value or the link, so a server can't send them as they are.
PLAIN_KEYS = st.text(
    st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="&#\"'<>"), min_size=1
)
ANY_KEYS = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1)
ECHOED_KEYS = PLAIN_KEYS | st.builds(lambda key, encode: encode(key), ANY_KEYS, st.sampled_from([
    lambda key: quote(key, safe=""),
    quote,
    quote_plus,
]))  # fmt: skip
ESCAPES = st.lists(
    st.sampled_from([("/", "\\/"), ("&", "\\u0026"), ("=", "\\u003d"), ("=", "\\u003D"), ("&", "&amp;")]),
    max_size=4,
    unique_by=lambda escape: escape[0],
)


@settings(deadline=None, max_examples=300)
@given(ECHOED_KEYS, ESCAPES, st.integers(-(10**17), 10**17), st.sampled_from(["first", "last", "alone"]))
@example(KEY, [("/", "\\/"), ("&", "\\u0026"), ("=", "\\u003d")], 2, "first")
@example("a\\u0026b", [], 2, "first")
@example("a\\", [], 2, "last")
def test_no_key_survives_in_a_link_and_its_page_does(
    echoed: str, escapes: list[tuple[str, str]], page: int, place: str
) -> None:
    """Whatever the key and however its link is escaped, the link is the same but for the empty key."""
    link = {
        "first": f"https://api201.ct.com/v2.1/rewards?api_key=%s&page={page}&id_type=id",
        "last": f"https://api201.ct.com/v2.1/rewards?page={page}&api_key=%s",
        "alone": f"https://api201.ct.com/v2.1/rewards?id_type=id&page={page}#api_key=%s",
    }[place]
    body = '{"paging": {"next_page": %s, "total": 11}}'

    blanked = blank_keys_in_links((body % escaped(link.replace("%s", echoed), escapes)).encode())

    parsed = json.loads(blanked)
    assert body % escaped(link.replace("%s", ""), escapes) == blanked.decode()
    assert page == page_in_link(parsed["paging"]["next_page"])
    assert 11 == parsed["paging"]["total"]


@settings(deadline=None)
@given(any_text(), any_text())
def test_blanking_leaves_json_valid(before: str, after: str) -> None:
    """Any text around `api_key=` may be shortened, but the JSON around it stays whole."""
    body = json.dumps({"a": f"{before}api_key={after}", "b": [before, after]})

    parsed = json.loads(blank_keys_in_links(body.encode()))

    assert ["a", "b"] == list(parsed)
    assert parsed["a"].startswith(f"{before.partition('api_key=')[0]}api_key=")


@pytest.fixture
def redaction() -> Iterator[LogRedaction]:
    """Masking that is switched on for a test."""
    redaction = LogRedaction(Redactor(Secret(KEY)))
    redaction.install()
    yield redaction
    redaction.remove()


WIRE_LOGGERS = [
    "httpx",
    "httpx2",
    "httpcore.connection",
    "httpcore.http11",
    "httpcore.http2",
    "httpcore.proxy",
    "httpcore.socks",
    "httpcore2.connection",
    "httpcore2.http11",
    "httpcore2.http2",
    "httpcore2.proxy",
    "httpcore2.socks",
    "aiohttp.client",
    "hpack.hpack",
    "hpack.table",
]


@pytest.mark.parametrize("name", WIRE_LOGGERS)
def test_records_of_the_wire_are_masked(
    name: str, redaction: LogRedaction, caplog: pytest.LogCaptureFixture
) -> None:
    """The key is gone whether it was in the text or in the arguments."""
    caplog.set_level(logging.DEBUG)
    logging.getLogger(name).debug("GET %s, key %s", f"https://api?api_key={KEY}", KEY)
    text = f"key {KEY}"
    logging.getLogger(name).info(text)

    assert ["GET https://api?api_key= key ***", "key ***"] == [
        record.getMessage() for record in caplog.records
    ]
    assert [(), ()] == [record.args for record in caplog.records]


def test_the_headers_of_http2_are_masked(redaction: LogRedaction, caplog: pytest.LogCaptureFixture) -> None:
    """Its records name no host, and have whole headers as they are packed."""
    caplog.set_level(logging.DEBUG)
    logger = logging.getLogger("hpack.hpack")
    logger.debug("Adding %s=%s", b":path", b"/v2.1/users/a%40b.c/rewards?page=2")
    logger.debug("Decoding %s", b"\x82\x86set-cookie'\"member=a@b.c")
    logger.debug("Decoded %s, consumed %d", (b"set-cookie", b"member=a@b.c"), 7)

    assert ["Adding b'***'=b'***'", "Decoding b'***'", "Decoded (b'***', b'***'), consumed 7"] == [
        record.getMessage() for record in caplog.records
    ]


@pytest.mark.parametrize("name", ["httpcore.http11", "httpcore2.http11", "httpcore.http2"])
def test_a_reply_s_headers_are_masked(
    name: str, redaction: LogRedaction, caplog: pytest.LogCaptureFixture
) -> None:
    """A server may put a user into any of them."""
    caplog.set_level(logging.DEBUG)
    headers = [(b"Location", b"/login?next=/users/a%40b.c"), (b"Set-Cookie", b'it\'s="a@b.c"; Path=/')]
    reply = (b"HTTP/1.1", 302, b"Found a@b.c", headers)
    logging.getLogger(name).debug("receive_response_headers.complete return_value=%s", reply)

    told = "(b'HTTP/1.1', 302, b'***', [(b'Location', b'***'), (b'Set-Cookie', b'***')])"
    (record,) = caplog.records
    assert f"receive_response_headers.complete return_value={told}" == record.getMessage()


def test_a_record_whose_arguments_do_not_fit_is_left_to_its_handlers(redaction: LogRedaction) -> None:
    """A filter that raises would raise where somebody logs."""
    record = logging.LogRecord("httpx", logging.INFO, __file__, 1, "%d of %d", ("one",), None)
    assert redaction.filter(record)
    assert ("%d of %d", ("one",)) == (record.msg, record.args)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        pytest.param("https://api201.ct.com/v2.1/users/7?page=2", "https://api201.ct.com/***", id="path"),
        pytest.param("https://API201.ct.com?id=7", "https://API201.ct.com/***", id="query-alone"),
        pytest.param("https://api201.ct.com", "https://api201.ct.com", id="nothing-to-mask"),
        pytest.param(
            "https://api201.ct.com.example/users/7", "https://api201.ct.com.example/users/7", id="other"
        ),
        pytest.param(
            "https://api201.ct.com:8443/users/7", "https://api201.ct.com:8443/users/7", id="other-port"
        ),
    ],
)
def test_a_url_of_the_client_names_no_user(url: str, told: str, caplog: pytest.LogCaptureFixture) -> None:
    """The libraries log the address of each request; other programs' addresses stay."""
    caplog.set_level(logging.INFO)
    redaction = LogRedaction(Redactor(Secret(KEY)), ["https://api201.ct.com"])
    redaction.install()
    try:
        logging.getLogger("httpx").info('HTTP Request: GET %s "HTTP/1.1 200 OK"', url)
    finally:
        redaction.remove()

    assert [f'HTTP Request: GET {told} "HTTP/1.1 200 OK"'] == [entry.getMessage() for entry in caplog.records]


@pytest.mark.parametrize(
    ("name", "said", "told"),
    [
        ("httpx", 'HTTP Request: GET / "HTTP/1.1 302 alice"', 'HTTP Request: GET / "HTTP/1.1 302"'),
        ("httpx", 'HTTP Request: GET / "HTTP/1.1 302 "alice""', 'HTTP Request: GET / "HTTP/1.1 302"'),
        (
            "httpx2",
            'HTTP Request: GET / "HTTP/1.1 404 Not Found"',
            'HTTP Request: GET / "HTTP/1.1 404 Not Found"',
        ),
        (
            "httpcore.http11",
            "x.failed exception=RemoteProtocolError(\"illegal header line: bytearray(b'X-alice: ***')\")",
            "x.failed exception=RemoteProtocolError(\"illegal header line: bytearray(b'***')\")",
        ),
    ],
    ids=["reason", "quoted-reason", "usual-reason", "no-http"],
)
def test_what_a_server_says_of_its_own_mind_is_masked(
    redaction: LogRedaction, caplog: pytest.LogCaptureFixture, name: str, said: str, told: str
) -> None:
    """It may name a user where no library expects one."""
    with caplog.at_level(logging.DEBUG, name):
        logging.getLogger(name).info("%s", said)

    assert [told] == [entry.getMessage() for entry in caplog.records]


def test_other_records_stay_as_they_are(redaction: LogRedaction, caplog: pytest.LogCaptureFixture) -> None:
    """A record without the key keeps its arguments, for handlers that read them."""
    caplog.set_level(logging.DEBUG)
    logging.getLogger("httpx").info("HTTP Request: %s %d", "GET", 200)

    [record] = caplog.records
    assert "HTTP Request: GET 200" == record.getMessage()
    assert ("GET", 200) == record.args


@pytest.mark.parametrize("name", WIRE_LOGGERS)
def test_masking_ends_when_it_is_removed(name: str) -> None:
    """A closed client leaves the libraries' loggers as it found them."""
    before = list(logging.getLogger(name).filters)
    redaction = LogRedaction(Redactor(Secret(KEY)))

    redaction.install()
    assert [*before, redaction] == logging.getLogger(name).filters
    redaction.remove()
    assert before == logging.getLogger(name).filters


@pytest.mark.parametrize("key", ["ab'cdef", 'ab"cdef', "ab<c>def", "ab&page=9"])
def test_a_key_with_the_characters_that_end_a_link(key: str) -> None:
    """The client's own key is emptied in a link, also where the server did not encode it."""
    body = f"https://h/v2.1/rewards?api_key={key}&page=2".encode()
    assert b"https://h/v2.1/rewards?api_key=&page=2" == Redactor(Secret(key)).links(body)


def test_numbers_are_masked_in_details_too() -> None:
    """An id, or a key of digits, may come as a number; others stay what they are."""
    redact = Redactor(Secret("77712345"), ("10000001",))
    details = {"user_id": 10000001, "api_key": 77712345, "page": 2, "on": True, "long": 10**5000}

    masked = redact.deep(details)

    assert {"page": 2, "on": True, "long": 10**5000} == {key: masked[key] for key in ("page", "on", "long")}
    assert "10000001" not in str(masked["user_id"])
    assert "77712345" not in str(masked["api_key"])


def test_deep_details_are_cut() -> None:
    """What lies too deep to be copied is dropped, and the rest kept."""
    nested: list[Any] = []
    for _ in range(500):
        nested = [nested]
    masked = Redactor(Secret("canary")).deep({"kept": 1, "nested": nested})
    assert 1 == masked["kept"]
    assert len(repr(masked)) < 100


def test_what_is_looked_for_is_worked_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error with thousands of texts would block the event loop for most of a second."""
    worked_out: list[str] = []
    forms = _secrets._forms

    def counting(text: str) -> list[str]:
        worked_out.append(text)
        return forms(text)

    monkeypatch.setattr(_secrets, "_forms", counting)
    masked = Redactor(Secret("canary"), ("11138266",)).deep(["a canary", "of 11138266"] * 1_000)

    assert ["a ***", "of ***"] * 1_000 == masked
    assert ["canary", "11138266"] == worked_out


@pytest.mark.parametrize("sign", ["&", "<", ">", '"', "'"])
def test_a_key_in_a_page_is_masked(sign: str) -> None:
    """Error pages escape what HTML would read."""
    key = f"can{sign}ary"
    assert "<b>***</b>" == Redactor(Secret(key))(f"<b>{html.escape(key)}</b>")


def test_seven_digits_are_a_phone_number() -> None:
    """It is masked without its punctuation too; fewer digits may be anything."""
    assert "no ***" == Redactor(Secret(KEY), ("555-0123",))("no 5550123")
    assert "no 550123" == Redactor(Secret(KEY), ("55-0123",))("no 550123")


@pytest.mark.parametrize("wrap", [lambda inner: [inner], lambda inner: {"a": inner}], ids=["array", "object"])
def test_twenty_levels_of_details_are_kept(wrap: Callable[[Any], Any]) -> None:
    """What lies deeper is dropped."""
    nested: Any = "canary"
    masked: Any = "***"
    dropped: Any = None
    for _ in range(20):
        nested, masked, dropped = wrap(nested), wrap(masked), wrap(dropped)
    redact = Redactor(Secret("canary"))

    assert masked == redact.deep(nested)
    assert dropped == redact.deep(wrap(nested))


def test_the_longest_form_is_masked_first() -> None:
    """A key may be the beginning of what percent-encoding makes of it."""
    assert "/***/" == Redactor(Secret("canary%25"))("/canary%2525/")


def test_a_user_id_may_begin_what_encoding_makes_of_it() -> None:
    """Its longest form is masked first too."""
    assert "/***/" == Redactor(Secret(KEY), ("alice%25",))("/alice%2525/")


def test_digits_between_letters_are_no_phone_number() -> None:
    """Those of an address are masked with it, and not wherever they stand alone."""
    assert "order 12345678" == Redactor(Secret(KEY), ("a1234b5678@example.com",))("order 12345678")


@pytest.mark.parametrize(
    "echo",
    [
        "alice news@example.com",
        "alice+news&#64;example.com",
        "alice+news&#x40;example.com",
        "alice+news&commat;example.com",
        "alice+news\\u0040example.com",
        "alice%252Bnews%2540example.com",
    ],
    ids=["decoded plus", "decimal", "hexadecimal", "by name", "JSON's", "encoded twice"],
)
def test_an_address_is_masked_as_forms_and_pages_change_it(echo: str) -> None:
    """A plus that was decoded once too often, and what hides addresses from robots."""
    assert "no *** here" == Redactor(Secret(KEY), ("alice+news@example.com",))(f"no {echo} here")


@pytest.mark.parametrize(
    ("value", "is_masked"),
    [(int("12345678" + "0" * 92), True), (int("12345678" + "0" * 93), False)],
    ids=["100 digits", "101 digits"],
)
def test_a_number_as_long_as_no_id_is_left(value: int, is_masked: bool) -> None:
    """Python writes no number of thousands of digits; up to a hundred it is looked into."""
    assert is_masked is (value != Redactor(Secret("12345678")).deep(value))
    assert 10**100 == Redactor(Secret("10000000")).deep(10**100)


LIKE_ASCII = "\u0130\u0131\u017f\u212a"
"""They are taken for i, s and k where case is not looked at."""


@given(st.data())
def test_an_echo_is_found_as_a_pattern_finds_it(data: st.DataObject) -> None:
    """There is a pattern only where one may fit, as that of a long id takes milliseconds to make."""
    letters = st.sampled_from(f"aAbBkKsSiI{LIKE_ASCII}\xfc\xdc\xdf@.+ /%&;x40-12345678")
    user = data.draw(st.text(letters, min_size=1, max_size=12))
    form = data.draw(st.sampled_from(_secrets._echoes(user)))
    plain = form.translate(_secrets._LIKE_ASCII)
    text = data.draw(st.text(letters, max_size=8)) + data.draw(
        st.sampled_from([form, form.upper(), form.lower(), plain, plain.upper(), plain.lower()])
    )
    if data.draw(st.booleans()):
        text = text.encode("ascii", "ignore").decode()
    expected = text
    for each in _secrets._echoes(user):
        expected = re.sub(_secrets._whole(each), MASK, expected, flags=re.IGNORECASE)

    assert expected == Redactor(Secret("k" * 30), (user,))(text)


def test_a_long_id_that_is_not_echoed_has_no_pattern(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever types one would hold up the event loop."""
    redact = Redactor(Secret(KEY), ("\xfc" * 2000, f"a.b+c@{'x' * 2000}"))
    made: list[str] = []
    monkeypatch.setattr(re, "compile", lambda pattern, *_: made.append(pattern))

    assert "no such user" == redact("no such user")
    assert [] == made
