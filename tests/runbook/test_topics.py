"""Each refusal and each alarm of the product has its topic, and each topic is one that somebody meets."""

from __future__ import annotations

import re

import pytest

from holdover.libvirt.policy import Refusal
from holdover.runbook import TOPICS, Topic, explain, topic_of
from holdover.runbook.lookup import name_topic
from tests.runbook.messages import Message, messages
from tests.runbook.provoked import provoked

MESSAGES = list(messages())


def test_there_are_messages() -> None:
    assert len(MESSAGES) > 150


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.where)
def test_each_message_has_a_topic(message: Message) -> None:
    assert any(topic_of(text) for text in message.texts), (
        f"{message.texts}: add a pattern, or a topic, to holdover/runbook"
    )


@pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.name)
def test_each_topic_is_complete(topic: Topic) -> None:
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", topic.name)
    for text in (topic.seen, topic.why, *topic.steps):
        assert text.endswith("."), text
        assert text[0].isupper() or text.startswith(("`", "libvirt")), text
    used = [message for message in MESSAGES for text in message.texts if topic_of(text) is topic]
    assert used, "no message of the product leads here"


def test_names_are_unique() -> None:
    assert len({topic.name for topic in TOPICS}) == len(TOPICS)


def test_a_topic_is_found_by_its_name_and_by_a_message() -> None:
    shown = explain("one-nexus")
    assert shown is not None
    assert shown == explain("a and b are one and the same nexus to this LUN: key 0x1")
    assert "What to do:\n  1. " in shown
    assert explain("nothing of the kind") is None


def test_the_log_names_the_topic_of_a_warning_and_of_nothing_else() -> None:
    warned = name_topic(None, "warning", {"event": "A handover has stopped.", "level": "warning"})
    assert warned["explain"] == "handover-stops"
    assert "explain" not in name_topic(None, "info", {"event": "A handover has stopped.", "level": "info"})
    assert "explain" not in name_topic(None, "error", {"event": "of no topic", "level": "error"})


PROVOKED = {topic: where for where, topic in provoked()}


def test_each_row_is_met_by_a_test() -> None:
    assert {topic.name for topic in TOPICS} - PROVOKED.keys() == set()


@pytest.mark.parametrize("refusal", Refusal, ids=lambda refusal: refusal.name)
def test_each_answer_to_libvirt_has_a_topic(refusal: Refusal) -> None:
    assert topic_of(refusal.value) is not None


@pytest.mark.parametrize(("where", "topic"), provoked())
def test_the_test_looks_at_what_it_meets(where: str, topic: str) -> None:
    found = explain(topic)
    assert found is not None, f"{where}: there is no topic {topic}"
