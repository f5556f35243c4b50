"""Pairs that are written as chats, as in Hugging Face's preference datasets.

A chat is a list of messages, each with `role` and `content` (or `from` and `value`). One question
of a user with two answers is a pair; of a longer chat, a sentence says what it is. What follows a
prompt begins with a space here, so one is put before an answer that has none.
"""

from dpo.data.pair import Problem

ANSWERS = ("chosen", "rejected")
PROMPTS = ("prompt", "messages", "conversations", "conversation")  # names of the question's list
USER = ("user", "human")
ASSISTANT = ("assistant", "gpt", "model")

Message = tuple[str, str]  # who says what


def is_chat(value: dict) -> bool:
    """Whether any value is a message or a list of them."""
    return any(_messages(inside) for inside in value.values())


def read_chat(value: dict) -> tuple[dict, list[Problem]]:
    """The object with texts for its messages; or what keeps the chat from being a pair."""
    if not all(answer in value for answer in ANSWERS):
        found = next(key for key, inside in value.items() if _messages(inside))
        return value, [_problem(f"a chat under {found!r} without `chosen` and `rejected` answers")]
    chats = {answer: _as_chat(value[answer], ASSISTANT[0]) for answer in ANSWERS}
    # A chat without a list for its question has the question in both of its answers' lists.
    name = next((name for name in PROMPTS if name in value), None)
    asked = _as_chat(value[name], USER[0]) if name else chats["chosen"][:-1]
    for answer, chat in chats.items():
        if len(chat) > 1 and chat[:-1] == asked:
            chats[answer] = chat[-1:]
    problem = _why_no_pair(asked, *chats.values())
    if problem:
        return value, [_problem(problem)]
    rest = {key: inside for key, inside in value.items() if key not in (*PROMPTS, *ANSWERS)}
    texts = {answer: _with_space(chat[0][1]) for answer, chat in chats.items()}
    return {"prompt": asked[0][1], **texts, **rest}, []


def _why_no_pair(asked: list[Message], chosen: list[Message], rejected: list[Message]) -> str:
    """What a chat is that is not one question with two answers."""
    if len(asked) != 1 or asked[0][0] not in USER:
        roles = ", ".join(role for role, _ in asked[:5]) or "nobody"
        return f"a chat of {len(asked)} messages before the answer ({roles[:100]})"
    if chosen[:-1] != rejected[:-1]:
        return "two answers that follow different questions"
    for answer in (chosen, rejected):
        if len(answer) != 1 or answer[0][0] not in ASSISTANT:
            return f"an answer of {len(answer)} messages, or not by the assistant"
    return ""


def _problem(sentence: str) -> Problem:
    remedy = "a pair is one question of a user and two answers of an assistant; make it that"
    return Problem(f"chat {sentence[:6]}", f"{sentence}; {remedy}")


def _as_chat(inside: object, role: str) -> list[Message]:
    """The messages of a list or of a single text; none if it is something else."""
    return [(role, inside)] if isinstance(inside, str) else _messages(inside)


def _messages(inside: object) -> list[Message]:
    """The messages of a list, or the only one; none if something else is among them."""
    found = []
    for message in inside if isinstance(inside, list) else [inside]:
        if not isinstance(message, dict):
            return []
        role = message.get("role", message.get("from"))
        content = message.get("content", message.get("value"))
        match content:
            case [{"type": "text", "text": content}]:
                pass
        if not isinstance(role, str) or not isinstance(content, str):
            return []
        found.append((role, content))
    return found


def _with_space(answer: str) -> str:
    return answer if answer.startswith(" ") or not answer else f" {answer}"
