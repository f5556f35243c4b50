"""Why a text is not JSON, where, and what to do about it, in words."""

HINT_AREA = 200  # characters around a mistake that are looked at
NEAR = 200  # characters of a text that are shown at most
BEFORE, AFTER = 50, 30  # characters around it that are shown
SPACE = " \t\r\n"  # what JSON takes for space
PAIR = '{"prompt": "1+1=?", "chosen": " 2.", "rejected": " 3."}'  # as it should be written

BEGINNINGS = {  # what stands where the JSON reader gave up
    "'": "single quotes; JSON wants double quotes",
    **dict.fromkeys(
        "\u201c\u201d\u201e\u2018\u2019\u00ab\u00bb\uff02", "curly quotes; write straight ones"
    ),
    '\\"': "a backslash before the quotes around a text; leave it out there",
    "&quot;": "HTML's code for quotes; write \" instead of &quot;",
    **dict.fromkeys(
        ("None", "True", "False"), "a word of Python; JSON writes null, true and false"
    ),
    "//": "a comment; JSON has none, remove it",
    "/*": "a comment; JSON has none, remove it",
    "#": "a comment; JSON has none, remove it",
}
_SPACED = "put a plain space there"
_WITHOUT_BREAK = dict.fromkeys("\r\n", "write the text on one line, with a quote at its end")
_NO_BRACE = "no } at the end of the pair; add it"
NO_COMMA = "no comma between two texts; add it"
_QUOTES = "a quote too few or too many; a text stands between two of them and has ' inside"
MESSAGES = {  # of Python's reader, by how they begin
    "Unterminated string": "a text without its closing quote; add it",
    "Invalid \\": "a backslash inside a text; leave it out",
    "Expecting ':'": "no : between a key and its text; add it",
    "Expecting property name": "a key without its quotes, or a comma too many",
    "Expecting value": "expecting value: a text in quotes belongs here",
}


def explain_syntax(message: str, text: str, position: int) -> str:
    """What is wrong where Python's JSON reader gave up with this message, and what to do."""
    before = text[max(0, position - HINT_AREA) : position].rstrip(SPACE)
    rest = text[position : position + HINT_AREA].lstrip(SPACE)
    for beginning, hint in BEGINNINGS.items():
        if rest.startswith(beginning):
            return hint
    if message.startswith("Invalid control character"):
        return f"a line break or tab inside a text; {_WITHOUT_BREAK.get(text[position], _SPACED)}"
    # Python gives the place of the }, or from 3.13 on that of the comma before it.
    is_after_comma = (before + rest[:1]).endswith((",", ",}"))
    if is_after_comma and rest.lstrip("," + SPACE).startswith("}"):
        return "a comma before }; remove it"
    if message.startswith(("Expecting ','", "Expecting property name", "Illegal trailing comma")):
        if rest.lstrip("," + SPACE)[:1] in ("{", "]", ""):
            return _NO_BRACE
        if rest.startswith('"'):
            return NO_COMMA
        if message.startswith("Expecting ','"):
            return _QUOTES
    return next((hint for start, hint in MESSAGES.items() if message.startswith(start)), message)


def find_place(text: str, position: int) -> int:
    """Where the mistake is: at the end of an earlier line, if what is lacking there was noticed.

    Of a comma before a }, the comma's place, which Python itself gives from 3.13 on.
    """
    end = position
    while end and text[end - 1] in SPACE:
        end -= 1
    if text[position : position + 1] == "}" and text[end - 1 : end] == ",":
        return end - 1
    is_sound = text[position : position + 1] in '{}[],:"'  # also at the end of the text
    return end - 1 if is_sound and "\n" in text[end:position] else position


def excerpt(text: str, place: int) -> str:
    """The text around a place, in one line and without control characters."""
    start, end = max(0, place - BEFORE), place + AFTER
    shown = "".join(c if c.isprintable() else " " for c in text[start:end])
    before, after = "..." if start else "", "..." if end < len(text) else ""
    return f"{before}{' '.join(shown.split())}{after}"


def shorten(text: str) -> str:
    """The text in quotes, cut if it is long; control characters come out as their codes."""
    return repr(text) if len(text) <= NEAR else f"{text[:NEAR]!r}..."
